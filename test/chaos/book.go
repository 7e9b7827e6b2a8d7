package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// What a rollback does beside the undo of the cutover is in no itinerary: its
// record, and what it begins with when it discards.
const (
	rolledBack = "undo/rolled-back"
	putBack    = "undo/put-source-back"
)

// backSteps are what one does that copies back: "back/write-source".
var backSteps = copyBackSteps()

func copyBackSteps() (steps []string) {
	for _, d := range reconciler.RollbackRows() {
		if name := "back/" + d.Name; !strings.HasPrefix(d.Name, "undo-") && "undo/"+d.Name != rolledBack {
			steps = append(steps, name)
		}
	}
	return steps
}

// allSteps names every step that a plan of some way goes through: "stage/upload",
// "migrate/stop", "undo/stop", "back/write-source", "close/purge".
func allSteps() (all []string) {
	for _, kind := range []spec.RunKind{spec.RunStage, spec.RunMigrate, spec.RunClose} {
		for _, d := range reconciler.Itineraries[kind] {
			all = append(all, string(kind)+"/"+d.Name)
			if kind == spec.RunMigrate && d.Undo != "" {
				all = append(all, "undo/"+d.Name)
			}
		}
	}
	all = append(append(all, rolledBack, putBack), backSteps...)
	return slices.DeleteFunc(all, func(step string) bool {
		return !slices.ContainsFunc(ways, func(w way) bool { return w.has(step) })
	})
}

// book counts, and prints a line an event. It is safe for concurrent use.
type book struct {
	began time.Time
	steps []string

	mu     sync.Mutex
	hit    map[string]int
	killed int
	faults map[string]int // by what was hit
	broken int
	lost   int
}

func newBook() *book {
	return &book{began: time.Now(), steps: allSteps(), hit: map[string]int{}, faults: map[string]int{}}
}

func (b *book) say(format string, args ...any) {
	fmt.Printf("%7.1f  %s\n", time.Since(b.began).Seconds(), strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// violation says that a property does not hold.
func (b *book) violation(format string, args ...any) {
	b.mu.Lock()
	b.broken++
	b.mu.Unlock()
	b.say("VIOLATION "+format, args...)
}

// giveUp says that the bed kept something from being tried or looked at, so
// that nothing can be said of the product.
func (b *book) giveUp(format string, args ...any) {
	b.mu.Lock()
	b.lost++
	b.mu.Unlock()
	b.say("GIVEN UP "+format, args...)
}

// kill counts a process that was ended, while the run was in a step ("" when
// it was in none).
func (b *book) kill(step string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.killed++
	if slices.Contains(b.steps, step) {
		b.hit[step]++
	}
}

// of lists the steps of some kinds: "stage", "migrate", "undo", "back" or "close".
func (b *book) of(kinds ...string) (steps []string) {
	for _, s := range b.steps {
		if kind, _, _ := strings.Cut(s, "/"); slices.Contains(kinds, kind) {
			steps = append(steps, s)
		}
	}
	return steps
}

// missing lists the steps of some kinds and of plans of one way that no kill has
// hit; all of them when every one was hit.
func (b *book) missing(w *way, kinds ...string) []string {
	all := slices.DeleteFunc(b.of(kinds...), func(step string) bool { return !w.has(step) })
	b.mu.Lock()
	defer b.mu.Unlock()
	var missing []string
	for _, s := range all {
		if b.hit[s] == 0 {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		return all
	}
	return missing
}

func (b *book) hits() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.hit)
}

func (b *book) kills() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.killed
}

func (b *book) givenUp() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lost
}

func (b *book) violations() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// struck counts a fault by its name, or what came with it.
func (b *book) struck(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults[name]++
}

// tally says how often what was hit.
func (b *book) tally() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(b.faults)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, b.faults[name]))
	}
	return "faults: " + strings.Join(parts, ", ")
}
