package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
)

// event is a line of the daemon's log that tells of a run or a step.
type event struct {
	Msg, Plan, Run, Step, State, Reason, Detail string
}

// step names the step that the run is in, as in allSteps; "" between steps.
func (e event) step() string {
	kind, _, ok := cutLast(strings.TrimPrefix(e.Run, e.Plan+"-"))
	switch {
	case !ok || e.Step == "":
		return ""
	case e.State == "Undoing" && kind == "migrate":
		return "undo/" + e.Step
	case e.State == "Running" && kind == "rollback" && slices.Contains(backSteps, "back/"+e.Step):
		return "back/" + e.Step
	case e.State == "Running" && kind == "rollback":
		return "undo/" + strings.TrimPrefix(e.Step, "undo-")
	case e.State == "Running":
		return kind + "/" + e.Step
	}
	return ""
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndex(s, "-")
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// watch follows the daemon's log. It is safe for concurrent use.
type watch struct {
	mu     sync.Mutex
	newest map[string]event // of a run, by plan
	began  int              // daemons that have acquired the ledger
	moved  chan struct{}    // closed by the next line
}

func newWatch() *watch {
	return &watch{newest: map[string]event{}, moved: make(chan struct{})}
}

func (w *watch) line(text string) {
	var e event
	if json.Unmarshal([]byte(text), &e) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case e.Msg == "the daemon runs":
		w.began++
	case e.Msg == "event" && e.Run != "":
		w.newest[e.Plan] = e
	default:
		return
	}
	close(w.moved)
	w.moved = make(chan struct{})
}

// now is the newest event of a plan's run.
func (w *watch) now(plan string) event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.newest[plan]
}

// forget says that the next daemon may go on from an earlier step.
func (w *watch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.newest)
}

func (w *watch) daemons() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.began
}

// until waits for a plan's run to be in a step that ok accepts; false when ctx
// ends before.
func (w *watch) until(ctx context.Context, plan string, ok func(step string) bool) bool {
	for {
		w.mu.Lock()
		step, moved := w.newest[plan].step(), w.moved
		w.mu.Unlock()
		if step != "" && ok(step) {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}
