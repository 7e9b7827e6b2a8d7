package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

const (
	stageBar   = 1.5 // times the peer
	stageFiles = 10_000
	// A file that was written just before a copy is read again by the next one,
	// as its time alone cannot prove that it is the same.
	stageRest = 5 * time.Second
)

// stageApp is a Deployment whose claim holds 10,000 small files.
func (l *lab) stageApp(ns string) string {
	return strings.NewReplacer("NS", ns, "IMAGE", l.bed.Images["busybox"], "FILES", fmt.Sprint(stageFiles)).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 256Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - name: fill
        image: IMAGE
        command: [/bin/sh, -c, "i=0; while [ $i -lt FILES ]; do d=/data/$((i / 100)); [ -d $d ] || mkdir $d; echo file $i of a small application > $d/$i; i=$((i+1)); done"]
        volumeMounts: [{name: data, mountPath: /data}]
      containers:
      - name: web
        image: IMAGE
        command: [/bin/sh, -c, "exec sleep 1000000"]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`)
}

// stageNothingChanged measures stage.nothing-changed: stage runs that find
// nothing changed, against two empty Jobs that each open the repository.
func stageNothingChanged(ctx context.Context, l *lab, runs int) (row, error) {
	p := l.newPlan("stage")
	if _, err := l.kubectl(ctx, &l.bed.Source, l.stageApp(p), "apply", "-f", "-"); err != nil {
		return row{}, err
	}
	if _, err := l.kubectl(ctx, &l.bed.Source, "", "-n", p, "rollout", "status", "deployment/web", "--timeout=180s"); err != nil {
		return row{}, err
	}
	if err := pause(ctx, stageRest); err != nil {
		return row{}, err
	}
	first, err := l.stage(ctx, p, 1)
	if err != nil {
		return row{}, err
	}
	fmt.Printf("  first copy: %.2f s\n", runTime(first).Seconds())
	var ours, peers, containers, opens sample
	var steps, byHand parts
	for i := range runs {
		err := alternate(i, func() error {
			r, err := l.stage(ctx, p, i+2)
			if err == nil {
				ours = append(ours, runTime(r).Seconds())
				steps.addSteps(r, "", r.Status.Ended.Time)
			}
			return err
		}, func() error {
			e, err := l.probes(ctx, p, i, &byHand)
			peers, containers, opens = append(peers, e.whole.Seconds()), append(containers, e.container.Seconds()), append(opens, e.open.Seconds())
			return err
		})
		if err != nil {
			return row{}, err
		}
		fmt.Printf("  pair %d: stage run %.2f s, two Jobs %.2f s (of it opening the repository %.2f s), load average %s\n", i+1, ours[i], peers[i], opens[i], loadAverage())
	}
	fmt.Printf("stage run: %s\ntwo empty Jobs that open the repository, to their end: %s\ntwo empty Jobs, only to the end of their containers: %s\n", ours, peers, containers)
	steps.print(os.Stdout, "where the stage run's time went:")
	byHand.print(os.Stdout, "where the Jobs' time went:")
	a, b := ours.median(), peers.median()
	fmt.Printf("ratio to the Jobs' end %.2f, to the end of their containers %.2f\n", a/b, a/containers.median())
	return row{Value: a, Unit: "s", Peer: "two empty Jobs in sequence, one repository open each", PeerValue: b, Ratio: a / b, Bar: stageBar, Pass: a/b <= stageBar}, nil
}

func runTime(r *spec.Run) time.Duration { return r.Status.Ended.Sub(r.Status.Started.Time) }

// stage asks for a stage run by a commit and waits for its end.
func (l *lab) stage(ctx context.Context, p string, number int) (*spec.Run, error) {
	if err := pause(ctx, 1100*time.Millisecond); err != nil { // requests are told apart by the second
		return nil, err
	}
	if _, err := l.commit(ctx, "Ask for a stage run", plan(p, spec.Staged, now())); err != nil {
		return nil, err
	}
	r, err := l.staged(ctx, p, number)
	if err != nil {
		return nil, err
	}
	if err := sound(r, number > 1); err != nil {
		return nil, err
	}
	return r, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// sound makes sure that what was measured is what is said: all files, and none
// of them changed.
func sound(r *spec.Run, unchanged bool) error {
	if len(r.Facts.Volumes) != 1 || r.Facts.Volumes[0].Files != stageFiles {
		return fmt.Errorf("run %s did not cover %d files: %+v", r.Metadata.Name, stageFiles, r.Facts.Volumes)
	}
	if v := r.Facts.Volumes[0]; unchanged && v.ChangedFiles != 0 {
		return fmt.Errorf("run %s found %d files changed though nobody changed any", r.Metadata.Name, v.ChangedFiles)
	}
	return nil
}
