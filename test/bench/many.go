package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tranship/tranship/test/bench/shape"
)

const manyName = "two empty Jobs in sequence, one repository open each, and one walk of the source"

// stageManyFiles measures stage.nothing-changed-many: a stage run of very many
// files that finds nothing changed.
func stageManyFiles(ctx context.Context, l *lab, runs int) (row, error) {
	s := l.size.tiny(l.size.StageFiles)
	v, err := l.newVolume(ctx, "many", "Deployment", s)
	if err != nil {
		return row{}, err
	}
	dir, err := v.dir(ctx, &l.bed.Source, v.plan)
	if err != nil {
		return row{}, err
	}
	if err := pause(ctx, stageRest); err != nil {
		return row{}, err
	}
	first, err := v.stage(ctx, 1)
	if err != nil {
		return row{}, err
	}
	fmt.Printf("  first copy: %.2f s\n", runTime(first).Seconds())
	var ours, peers sample
	var steps, byHand parts
	for i := range runs {
		product := func() error {
			r, err := v.stage(ctx, i+2)
			if err != nil {
				return err
			}
			if changed := r.Facts.Volumes[0].ChangedFiles; changed != 0 {
				return fmt.Errorf("run %s found %d files changed though nobody changed any", r.Metadata.Name, changed)
			}
			ours = append(ours, runTime(r).Seconds())
			steps.addSteps(r, "", r.Status.Ended.Time)
			return nil
		}
		peer := func() error {
			e, err := l.probes(ctx, v.plan, i, &byHand)
			if err != nil {
				return err
			}
			start := time.Now()
			_, err = shape.Walk(dir)
			byHand.add("walk", time.Since(start))
			peers = append(peers, (e.whole + time.Since(start)).Seconds())
			return err
		}
		if err := alternate(i, product, peer); err != nil {
			return row{}, err
		}
		fmt.Printf("  pair %d: stage run %.2f s, by hand %.2f s, load average %s\n", i+1, ours[i], peers[i], loadAverage())
	}
	fmt.Printf("stage run: %s\nby hand: %s\n", ours, peers)
	steps.print(os.Stdout, "where the stage run's time went:")
	byHand.print(os.Stdout, "where the time by hand went:")
	a, b := ours.median(), peers.median()
	return row{Value: a, Unit: "s", Peer: manyName, PeerValue: b, Ratio: a / b, Note: fmt.Sprintf("%d files", s.Files)}, v.remove(ctx)
}
