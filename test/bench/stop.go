package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/bench/shape"
)

const (
	bedBar   = 8   // seconds
	stopBar  = 1.2 // times what cannot be done without
	stopStep = "stop"
	lastDown = "health"
	seed     = 1 // of the change that the hook makes
)

// bedShape is 100 MB in 200 files; one changes.
var bedShape = shape.Shape{Files: 200, FileBytes: 500_000, ChangeFiles: 1}

// stopBed measures stop.bed-100mb: the whole stop time of a small application.
func stopBed(ctx context.Context, l *lab, runs int) (row, error) {
	var stop, own, peers sample
	var steps parts
	for i := range runs {
		v, err := l.newVolume(ctx, fmt.Sprintf("bed-%d", i), "Deployment", bedShape)
		if err != nil {
			return row{}, err
		}
		if _, err := v.stage(ctx, 1); err != nil {
			return row{}, err
		}
		r, err := v.cutover(ctx, seed)
		if err != nil {
			return row{}, err
		}
		floor, err := v.floor(ctx, i, seed)
		if err != nil {
			return row{}, err
		}
		stop, own, peers = append(stop, r.Status.StopSeconds), append(own, r.Status.OwnSeconds), append(peers, floor.total().Seconds())
		steps.addDown(r)
		fmt.Printf("  run %d: stopped for %.2f s, %.2f s of it the application's own; %s; load average %s\n", i+1, stop[i], own[i], floor, loadAverage())
		if err := v.remove(ctx); err != nil {
			return row{}, err
		}
	}
	fmt.Printf("stop time: %s\nthe application's own: %s\nwhat cannot be done without: %s\n", stop, own, peers)
	steps.print(os.Stdout, "where the stop time went:")
	a, b := stop.median(), peers.median()
	return row{Value: a, Unit: "s", Peer: floorName, PeerValue: b, Ratio: a / b, Bar: bedBar, Pass: a <= bedBar}, nil
}

// addDown adds the steps of a cutover from the stop to the target's health, and
// the rest of the stop time.
func (p *parts) addDown(r *spec.Run) {
	down := false
	rest := time.Duration(r.Status.StopSeconds * float64(time.Second))
	for _, s := range r.Steps {
		down = down || s.Name == stopStep
		if !down || s.Started == nil || s.Ended == nil {
			continue
		}
		d := s.Ended.Sub(s.Started.Time)
		p.add(s.Name, d)
		if rest -= d; s.Name == lastDown {
			break
		}
	}
	p.add(betweenSteps, rest)
}

// between is the time from the start of one step to the end of another.
func between(r *spec.Run, first, last string) (from, to time.Time, err error) {
	for _, s := range r.Steps {
		if s.Name == first && s.Started != nil {
			from = s.Started.Time
		}
		if s.Name == last && s.Ended != nil {
			to = s.Ended.Time
		}
	}
	if from.IsZero() || to.IsZero() {
		return from, to, fmt.Errorf("run %s has no finished steps %s and %s", r.Metadata.Name, first, last)
	}
	return from, to, nil
}
