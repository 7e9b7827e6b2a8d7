package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// settle is how long what was asked for may take to be seen: a pod's end, a
// record that no run waits for. It is only spent where that does not happen.
const settle = 10 * time.Minute

// check proves, with the daemon running and no fault going on, what must hold
// after every phase.
func (s *scenario) check(ctx context.Context) {
	s.must(ctx, "acknowledged writes", s.writes)
	if s.live == source {
		s.must(ctx, "the source as before", s.sourceAsBefore)
	}
	s.must(ctx, "the other side at rest", s.otherAtRest)
	s.must(ctx, "the pod without a controller", s.podBeside)
	s.must(ctx, "the ledger", s.ledger)
	must, _ := s.client.expected()
	s.book.say("%s: checked, live on the %s with %d writes", s.plan, s.sides[s.live].name, len(must))
}

// must makes a check hold within the time that settling may take.
func (s *scenario) must(ctx context.Context, what string, check func(context.Context) error) {
	if err := s.eventually(ctx, settle, func() error { return check(ctx) }); err != nil && ctx.Err() == nil {
		s.book.violation("%s: %s: %v", s.plan, what, err)
	}
}

// writes reads what the live side has: every acknowledged write once and none
// of those that were given up. A write without an answer may be there, unless
// all of its side was given up since.
func (s *scenario) writes(ctx context.Context) error {
	must, never := s.client.expected()
	text, err := fetch(ctx, s.client.address(s.live), "all", callLimit)
	if err != nil {
		return fmt.Errorf("the application on the %s does not answer: %w", s.sides[s.live].name, err)
	}
	lines := strings.Fields(text)
	if len(lines) == 0 || lines[len(lines)-1] != "end" {
		return fmt.Errorf("the answer was cut off after %d writes", len(lines))
	}
	have := map[string]int{}
	for _, id := range lines[:len(lines)-1] {
		have[id]++
		switch {
		case never(id):
			return fmt.Errorf("write %s was given up and is on the %s", id, s.sides[s.live].name)
		case have[id] > 1:
			return fmt.Errorf("write %s is there twice", id)
		}
	}
	for _, id := range must {
		if have[id] == 0 {
			return fmt.Errorf("write %s was acknowledged and is not on the %s, which has %d of %d", id, s.sides[s.live].name, len(have), len(must))
		}
	}
	sum, err := fetch(ctx, s.client.address(s.live), "sum", callLimit)
	if err == nil && sum != s.fixed {
		return fmt.Errorf("the files that never change have another checksum on the %s", s.sides[s.live].name)
	}
	return err
}

// sourceAsBefore compares every object of the application with what it was.
func (s *scenario) sourceAsBefore(ctx context.Context) error {
	now, err := s.sides[source].portrait(ctx, s.plan, s.marked)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(s.before)) {
		if now[name] != s.before[name] {
			return fmt.Errorf("%s is not as before\nwas %s\nis  %s", name, s.before[name], now[name])
		}
	}
	if len(now) != len(s.before) {
		return fmt.Errorf("the source has %d objects and had %d", len(now), len(s.before))
	}
	n, err := s.sides[source].ready(ctx, s.plan)
	if err == nil && n != 1 {
		return fmt.Errorf("%d replicas are ready on the source, not 1", n)
	}
	return err
}

// otherAtRest proves that the application runs on one side only.
func (s *scenario) otherAtRest(ctx context.Context) error {
	n, err := s.sides[1-s.live].ready(ctx, s.plan)
	if err == nil && n != 0 {
		return fmt.Errorf("%d replicas are ready on the %s, too", n, s.sides[1-s.live].name)
	}
	return err
}

// podBeside proves that it runs on the live side only.
func (s *scenario) podBeside(ctx context.Context) error {
	if err := s.sides[s.live].beside(ctx, s.plan, true); err != nil {
		return err
	}
	return s.sides[1-s.live].beside(ctx, s.plan, false)
}

// ledger reads the branch as C git and the product's own format see it.
func (s *scenario) ledger(context.Context) error {
	if err := s.lab.Fsck(); err != nil {
		return err
	}
	names, err := s.lab.Git("ls-tree", "-r", "--name-only", "FETCH_HEAD", "runs/")
	if err != nil {
		return err
	}
	served := map[string][]*spec.Run{}
	for _, name := range strings.Fields(names) {
		if !strings.Contains(name, "/"+spec.ShortName(s.plan)+"/") {
			continue
		}
		text, err := s.lab.Git("show", "FETCH_HEAD:"+name)
		if err != nil {
			return err
		}
		run, err := spec.DecodeRun([]byte(text))
		if err != nil {
			return fmt.Errorf("record %s: %w", name, err)
		}
		if run.Status.Phase == spec.RunIncomplete || run.Status.Phase == spec.RunRunning {
			return fmt.Errorf("run %s is %s", run.Metadata.Name, run.Status.Phase)
		}
		if run.Spec.Kind != spec.RunStage { // stages need no approval of their own
			served[run.Spec.ApprovedBy.Commit] = append(served[run.Spec.ApprovedBy.Commit], run)
		}
	}
	return s.onceEach(served)
}

// onceEach compares the runs with the approvals that were merged.
func (s *scenario) onceEach(served map[string][]*spec.Run) error {
	known := map[string]bool{}
	for _, a := range s.asked {
		known[a.commit] = true
		runs := served[a.commit]
		if len(runs) > 1 || len(runs) == 0 && !a.maybe || len(runs) == 1 && runs[0].Spec.Kind != a.kind {
			return fmt.Errorf("%d runs for the approval of a %s in %.12s", len(runs), a.kind, a.commit)
		}
	}
	for commit, runs := range served {
		if !known[commit] {
			return fmt.Errorf("run %s names an approval that nobody gave: %.12s", runs[0].Metadata.Name, commit)
		}
	}
	return nil
}

// nothingLeft is what a closed plan promises.
func (s *scenario) nothingLeft(ctx context.Context) {
	selector := "tranship.dev/plan=" + spec.ShortName(s.plan)
	s.must(ctx, "nothing left on the clusters", func(ctx context.Context) error {
		for _, side := range s.sides {
			left, err := side.labelled(ctx, selector)
			if err != nil {
				return err
			}
			if len(left) > 0 {
				return fmt.Errorf("left: %s", strings.Join(left, ", "))
			}
		}
		return nil
	})
	s.must(ctx, "nothing left in the store", func(ctx context.Context) error {
		keys, err := s.lab.Bed.StoreKeys(ctx, s.lab.Name+"/")
		if err != nil {
			return err
		}
		for _, k := range keys {
			if strings.Contains(k, spec.ShortName(s.plan)) {
				return fmt.Errorf("left: %s and perhaps others of %d", k, len(keys))
			}
		}
		return nil
	})
}

// leaks looks for the lab's secrets in everything that the product says: the
// ledger's whole history, the daemon's log, its metrics and progress.
func (c *chaos) leaks(ctx context.Context) {
	secrets, err := c.lab.Secrets()
	said := map[string]string{"the daemon's log": c.lab.Log.String()}
	if err == nil {
		err = c.eventually(ctx, settle, func() (err error) {
			if _, err = c.lab.Git("fetch", "-q", "origin", c.lab.Ledger()); err == nil {
				said["the ledger"], err = c.lab.Git("log", "-p", "FETCH_HEAD")
			}
			return err
		})
	}
	for _, page := range []string{"/metrics", "/progress"} {
		if err == nil {
			said[page], err = c.page(page)
		}
	}
	if err != nil {
		c.book.giveUp("cannot look for secrets: %v", err)
		return
	}
	for where, text := range said {
		for _, secret := range append(secrets, secretValue) {
			if strings.Contains(text, secret) {
				c.book.violation("a secret of %d characters is in %s", len(secret), where)
			}
		}
	}
}

// page reads what the daemon answers; a daemon that has just begun gets time
// to listen.
func (c *chaos) page(path string) (string, error) {
	client := http.Client{Timeout: callLimit}
	for end := time.Now().Add(settle); ; time.Sleep(time.Second) {
		resp, err := client.Get("http://" + c.lab.Listen + path)
		if err == nil {
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s answers %s", path, resp.Status)
			}
			return string(text), err
		}
		if time.Now().After(end) {
			return "", err
		}
	}
}
