package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/lab"
)

const (
	// phaseLimit is for a phase, beside the outages in it, and for everything
	// else that a scenario waits for: a machine may be slow.
	phaseLimit = 20 * time.Minute
	pollEvery  = time.Second
	discards   = "rollback: {targetWrites: Discard}"
	copiesBack = "rollback: {targetWrites: CopyBack}"
)

// Sides of a migration.
const (
	source = iota
	target
)

// scenario is one application's life: staged, cut over, perhaps called back in
// mid-run, perhaps rolled back with or without what was written there, closed.
type scenario struct {
	*chaos
	n       int
	way     *way
	plan    string
	rnd     *rand.Rand
	client  *client
	before  map[string]string // the source's objects
	fixed   string            // checksum of what never changes
	attempt int
	live    int  // side
	marked  bool // the source's claim says what was copied back into it
	asked   []approval
	last    *lab.Story // that a wait has ended with
	trouble trouble
}

// trouble is what a phase suffers beside kills of the daemon. It is safe for
// concurrent use.
type trouble struct {
	mu      sync.Mutex
	foreign bool // something else than the daemon was killed or cut off
	outage  time.Duration
}

func (t *trouble) add(foreign bool, outage time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.foreign = t.foreign || foreign
	t.outage += outage
}

func (t *trouble) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.foreign, t.outage = false, 0
}

func (t *trouble) get() (foreign bool, outage time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.foreign, t.outage
}

// approval is a commit that asks for a run.
type approval struct {
	kind   spec.RunKind
	commit string
	maybe  bool // taken back before it was served, perhaps
}

// bedError says that the bed, and not the product, kept a scenario from going on.
type bedError struct{ error }

func newScenario(c *chaos, n int) *scenario {
	return &scenario{chaos: c, n: n, way: &ways[n%len(ways)], plan: fmt.Sprintf("%s-%d", c.lab.Name, n), rnd: random(c.seed, n), attempt: 1}
}

// random is the scenario's own source: small seeds must not be like each other.
func random(seed int64, n int) *rand.Rand {
	return rand.New(rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d/%d", seed, n))))
}

// play runs the phases; the error says that it could not go on.
func (s *scenario) play(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return bedError{err}
	}
	defer s.client.stop()
	defer s.watchUsers(ctx)()
	if err := s.stage(ctx); err != nil {
		return err
	}
	if s.rnd.IntN(2) == 0 && s.early() {
		if err := s.callBack(ctx); err != nil {
			return err
		}
	}
	if s.live == source && s.early() {
		if err := s.cutOver(ctx); err != nil {
			return err
		}
	}
	if s.live == target && s.rnd.IntN(4) > 0 {
		back := s.copyBack
		if s.rnd.IntN(3) == 0 || s.way.facts.Moves {
			back = s.rollBack
		}
		if err := back(ctx); err != nil {
			return err
		}
	}
	return s.close(ctx)
}

// early says that there is time for another phase.
func (s *scenario) early() bool { return time.Now().Before(s.end) }

// open lets the application run on the source and the client write to it.
func (s *scenario) open(ctx context.Context) error {
	if err := s.lab.Write("app.yaml", app(s.plan, s.lab.Bed.Images["busybox"], s.way.class)); err != nil {
		return err
	}
	if _, err := s.lab.Kubectl(s.sides[source].cluster.Kubeconfig, "apply", "-f", s.lab.Dir+"/app.yaml"); err != nil {
		return err
	}
	if _, err := s.lab.Kubectl(s.sides[source].cluster.Kubeconfig, "-n", s.plan, "rollout", "status", "deployment/web", "--timeout="+phaseLimit.String()); err != nil {
		return err
	}
	s.client = startClient(ctx, s.sides, s.plan)
	err := s.eventually(ctx, phaseLimit, func() error {
		if s.client.count(source) < 3 {
			return errors.New("the application on the source acknowledges nothing")
		}
		return s.sides[source].beside(ctx, s.plan, true)
	})
	if err == nil {
		err = s.eventually(ctx, phaseLimit, func() (err error) {
			if s.before, err = s.sides[source].portrait(ctx, s.plan, false); err == nil {
				s.fixed, err = fetch(ctx, s.client.address(source), "sum", callLimit)
			}
			return err
		})
	}
	if err != nil {
		s.client.stop()
	}
	return err
}

// eventually tries a check again until it holds or the time is over.
func (c *chaos) eventually(ctx context.Context, limit time.Duration, check func() error) error {
	for end := time.Now().Add(limit); ; {
		err := check()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollEvery / 2):
		}
	}
}

// ask commits the plan in a state, pushes it until Git takes it, and returns the commit.
func (s *scenario) ask(ctx context.Context, state spec.State, extra string) (string, error) {
	s.book.say("%s is asked to be %s", s.plan, state)
	file := "plans/" + s.plan + ".yaml"
	text := lab.Plan(s.plan, state, fmt.Sprintf("cutover: {attempt: %d}\n%s\n%s", s.attempt, strings.ReplaceAll(s.way.extra, "NS", s.plan), extra))
	commit, err := s.lab.Commit(fmt.Sprintf("Set %s to %s", s.plan, state), map[string]string{file: text})
	if err == nil {
		return commit, nil
	}
	err = s.eventually(ctx, phaseLimit, s.lab.Push)
	head, err2 := s.lab.Git("rev-parse", "HEAD")
	if err = errors.Join(err, err2); err != nil {
		err = bedError{err}
	}
	return head[:min(40, len(head))], err
}

// wait polls the ledger until ok says so; what does not come in all that time
// hangs, whatever the machine. It starts a daemon that has ended by
// itself again, and calls that a violation unless an outage may be the reason.
func (s *scenario) wait(ctx context.Context, what string, ok func(*lab.Story) bool) (*lab.Story, error) {
	var last *lab.Story
	var lastErr error
	began := time.Now()
	limit := func() time.Duration { _, outage := s.trouble.get(); return phaseLimit + outage }
	for time.Since(began) < limit() {
		if st, err := s.lab.Status(s.plan); err != nil {
			lastErr = err
		} else if last = st; ok(st) {
			s.last = st
			return st, nil
		}
		s.revive()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
	return nil, fmt.Errorf("%s did not come within %s: %s", what, limit().Round(time.Second), tell(last, lastErr))
}

func (s *scenario) revive() {
	if !s.daemon.ended() {
		return
	}
	err := s.daemon.kill()
	if foreign, _ := s.trouble.get(); !foreign {
		s.book.violation("%v; it said: %s", err, lab.Tail(s.lab.Log.String(), 600))
	}
	if err := s.daemon.start(); err != nil {
		s.book.giveUp("%v", err)
	}
}

// tell is what is known of a plan that did not get where it should.
func tell(s *lab.Story, err error) string {
	if s == nil {
		return fmt.Sprint("it has no status: ", err)
	}
	reason, message := s.Condition("Ready")
	text := fmt.Sprintf("it is %s: %s", reason, message)
	if w := s.Status.WaitsFor; w != nil {
		text += fmt.Sprintf("; it waits since %s: %s %s %s", w.Since.UTC().Format(time.TimeOnly), w.Reason, w.Object, w.Message)
	}
	if s.Run != nil {
		text += fmt.Sprintf("; run %s is %s %s %s", s.Run.Metadata.Name, s.Run.Status.Phase, s.Run.Status.Reason, s.Run.Status.Message)
		i := slices.IndexFunc(s.Run.Steps, func(t spec.Step) bool { return t.State == spec.StepRunning || t.State == spec.StepUndoing })
		if i >= 0 {
			text += fmt.Sprintf("; step %s is %s in attempt %d", s.Run.Steps[i].Name, s.Run.Steps[i].State, s.Run.Steps[i].Attempt)
		}
	}
	return text
}

// leave takes away what is left of the scenario, the volumes that are kept for ever too.
func (s *scenario) leave() {
	s.lab.Remove(s.plan, s.plan)
	for _, side := range s.sides {
		side.forget(s.plan)
	}
}
