package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// planView is the part of `tranship status PLAN -o json` that is looked at here.
type planView struct {
	Status struct {
		Recorded struct {
			State   string         `json:"state"`
			OpenRun string         `json:"openRun"`
			LastRun string         `json:"lastRun"`
			Numbers map[string]int `json:"numbers"`
		} `json:"recorded"`
		Conditions []struct{ Type, Status, Reason, Message string } `json:"conditions"`
		Volumes    []struct {
			Namespace    string `json:"namespace"`
			Claim        string `json:"claim"`
			SourcePV     string `json:"sourcePV"`
			TargetPV     string `json:"targetPV"`
			TargetHandle string `json:"targetHandle"`
			Bytes        int64  `json:"bytes"`
			ChangedBytes int64  `json:"changedBytes"`
		} `json:"volumes"`
		LastStage *struct {
			Run          string  `json:"run"`
			Seconds      float64 `json:"seconds"`
			ChangedBytes int64   `json:"changedBytes"`
			Result       string  `json:"result"`
		} `json:"lastStage"`
		LastFailure string `json:"lastFailure"`
	} `json:"status"`
	Run *runView `json:"run"`
}

// runView is a run record.
type runView struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Kind string `json:"kind"`
	} `json:"spec"`
	Steps []struct {
		Name    string     `json:"name"`
		State   string     `json:"state"`
		Started *time.Time `json:"started"`
		Ended   *time.Time `json:"ended"`
	} `json:"steps"`
	Status struct {
		Phase       string  `json:"phase"`
		Reason      string  `json:"reason"`
		Message     string  `json:"message"`
		StopSeconds float64 `json:"stopSeconds"`
		OwnSeconds  float64 `json:"ownSeconds"`
	} `json:"status"`
}

// step returns when a step began and ended.
func (r *runView) step(name string) (started, ended time.Time, ok bool) {
	for _, s := range r.Steps {
		if s.Name == name && s.Started != nil && s.Ended != nil {
			return *s.Started, *s.Ended, true
		}
	}
	return started, ended, false
}

// why is what the plan's record says when something is wrong.
func (v *planView) why() string {
	var parts []string
	if v.Status.LastFailure != "" {
		parts = append(parts, v.Status.LastFailure)
	}
	for _, c := range v.Status.Conditions {
		if c.Type == "Ready" || c.Type == "Stalled" && c.Status == "True" {
			parts = append(parts, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
		}
	}
	return strings.Join(parts, "; ")
}

// product runs a command of the product which needs the ledger.
func (d *demo) product(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return output(exec.CommandContext(ctx, d.tranship, append(args, d.daemon.flags...)...))
}

// status asks the ledger. Right after the start there is no plan yet.
func (d *demo) status(ctx context.Context) (*planView, error) {
	text, err := d.product(ctx, "status", planName, "-o", "json")
	if err != nil {
		return nil, err
	}
	var v planView
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, fmt.Errorf("cannot read what `tranship status -o json` says: %w", err)
	}
	return &v, nil
}

// awaitStages waits for the successful stage runs before the merge, and remembers which volumes
// are copies of each other.
func (d *demo) awaitStages(ctx context.Context) error {
	succeeded, ran := 0, map[string]bool{}
	err := wait(ctx, fmt.Sprintf("%d successful stage runs on the cron schedule", stageRuns), 3*patience, 2*time.Second, func(ctx context.Context) (bool, string, error) {
		if err := d.daemon.alive(); err != nil {
			return false, "", err
		}
		v, err := d.status(ctx)
		if err != nil {
			return false, err.Error(), nil
		}
		if s := v.Status.LastStage; s != nil && !ran[s.Run] {
			ran[s.Run] = true
			d.say("stage", "%s %s in %.1f s: %s changed; %s acknowledged meanwhile", s.Run, s.Result, s.Seconds, size(s.ChangedBytes), d.writer.counts())
			if s.Result != "Succeeded" {
				return false, "", errors.New(v.why())
			}
			succeeded++
		}
		return succeeded >= stageRuns, v.why(), nil
	})
	if err != nil {
		return err
	}
	return d.expectVolumes(ctx)
}

// expectVolumes tells the judge what to compare when the hook asks.
func (d *demo) expectVolumes(ctx context.Context) error {
	v, err := d.status(ctx)
	if err != nil {
		return err
	}
	var pairs []volumePair
	for _, volume := range v.Status.Volumes {
		handle, err := d.bed.Source.handle(ctx, volume.SourcePV)
		if err != nil {
			return err
		}
		if handle == "" || volume.TargetHandle == "" {
			return fmt.Errorf("the record names no copy of claim %s/%s", volume.Namespace, volume.Claim)
		}
		pairs = append(pairs, volumePair{claim: volume.Claim, source: handle, target: volume.TargetHandle})
	}
	if len(pairs) != 2 {
		return fmt.Errorf("the record has %d volumes, the application has 2", len(pairs))
	}
	d.judge.expect(pairs)
	return nil
}

// handle is the storage driver's name of a volume.
func (c *cluster) handle(ctx context.Context, pv string) (string, error) {
	handle, err := c.kubectl(ctx, "get", "pv", pv, "-o", "jsonpath={.spec.csi.volumeHandle}")
	if err != nil {
		return "", fmt.Errorf("cannot read volume %s of the %s: %w", pv, c.name, err)
	}
	return handle, nil
}

// event is a line of the daemon's log about a step or a run.
type event struct {
	Msg     string  `json:"msg"`
	Plan    string  `json:"plan"`
	Run     string  `json:"run"`
	Step    string  `json:"step"`
	State   string  `json:"state"`
	Reason  string  `json:"reason"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// awaitCutover prints steps as they end, until the run is over. It reads the
// daemon's log: asking Git all the time would take from the cutover's own time.
func (d *demo) awaitCutover(ctx context.Context) error {
	f, err := os.Open(d.daemon.log)
	if err != nil {
		return err
	}
	defer f.Close()
	in, line := bufio.NewReader(f), ""
	name := planName + "-migrate-"
	over := false
	return wait(ctx, "the cutover to end", 3*patience, 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		for {
			part, err := in.ReadString('\n')
			line += part
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return false, "", err
			}
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.Msg == "event" && strings.HasPrefix(e.Run, name) {
				over = d.tell(e) || over
			}
			line = ""
		}
		if err := d.daemon.alive(); err != nil {
			return false, "", err
		}
		return over, "", nil
	})
}

// tell prints what happened, and says whether the run is over.
func (d *demo) tell(e event) (over bool) {
	switch {
	case e.Step == "":
		if e.State == "Running" {
			return false
		}
		d.say("cutover", "%s %s %s", e.Run, e.State, e.Detail)
		return true
	case e.State == "Done":
		d.say("step", "%-18s %5.1f s", e.Step, e.Seconds)
	case e.State != "Running": // details are in the record, but for what went wrong
		d.say("step", "%-18s %s %s %s", e.Step, e.State, e.Reason, e.Detail)
	}
	return false
}
