package reconciler

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// estate is a loop that has read n plans, each with its own namespaces, between
// ten pairs of clusters; nothing is due before the next night.
func estate(tb testing.TB, n int) (*Loop, *Desired) {
	tb.Helper()
	at := &stoppedClock{now: noon}
	l := New(Config{Source: &branch{}, Ledger: newMemory(), Executor: &cluster{made: map[string]int{}}, Clock: at, Notifier: quiet{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Interval: func() time.Duration { return time.Hour }, Slots: always(10, 5)})
	l.rec = &Recorded{Plans: map[string]*spec.PlanStatus{}, Open: map[string]*spec.Run{}}
	want := &Desired{Commit: fmt.Sprintf("%040d", 1), Closures: map[string]*spec.Closure{}}
	since := metav1.NewTime(noon.Add(-time.Hour))
	for i := range n {
		name := fmt.Sprintf("plan-%05d", i)
		c := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) {
			p.SourceCluster, p.TargetCluster = fmt.Sprint("old-", i%10), fmt.Sprint("new-", i%10)
			p.Namespaces = []spec.NamespaceMapping{{Name: name}, {Name: name + "-db"}}
			p.Stage = spec.Stage{Schedule: "0 1 * * *", TimeZone: "Europe/Berlin"}
			p.Windows = []spec.Window{{Kind: "Allow", Schedule: "0 22 * * 5", Duration: &metav1.Duration{Duration: 6 * time.Hour}, TimeZone: "Europe/Berlin", Applies: []string{spec.WindowCutover}}}
		})
		c.Plan.Metadata.Name = name
		c.Source.Spec.Server, c.Target.Spec.Server = fmt.Sprintf("https://api.old-%d", i%10), fmt.Sprintf("https://api.new-%d", i%10)
		want.Closures[name] = c
		st := newStatus(name)
		st.Recorded.SeenState, st.Recorded.SeenAttempt, st.Recorded.Since = spec.Staged, 1, &since
		l.rec.Plans[name] = st
		l.surveys[name] = surveyed{digest: c.Digest()}
	}
	l.rec.Daemon.Accepted = want.Commit
	return l, want
}

type stoppedClock struct{ now time.Time }

func (c *stoppedClock) Now() time.Time                       { return c.now }
func (c *stoppedClock) After(time.Duration) <-chan time.Time { return nil }

// everything asks until nobody is left to be asked, and says how many were.
func (l *Loop) everything(tb testing.TB) (asked int) {
	for n := len(l.agenda.changed); n > 0; n = len(l.agenda.changed) {
		asked += min(n, batch)
		l.pass(tb.Context())
	}
	return asked
}

// BenchmarkDecideAll10k is the time to ask about ten thousand plans, and what is
// left of it when nothing, or one plan, has changed.
func BenchmarkDecideAll10k(b *testing.B) {
	l, want := estate(b, 10_000)
	l.want = want
	l.everything(b)
	b.Run("every plan", func(b *testing.B) {
		for b.Loop() {
			l.ground = nil
			l.askAll()
			l.everything(b)
		}
	})
	b.Run("nothing changed", func(b *testing.B) {
		for b.Loop() {
			l.handleRead(b.Context(), &readResult{want: want})
			l.everything(b)
		}
	})
	b.Run("one plan changed", func(b *testing.B) {
		for b.Loop() {
			l.agenda.ask("plan-05000")
			l.everything(b)
		}
	})
}

// A tip that is held after one that was held says why anew: every plan's status
// has that sentence.
func TestAnotherHoldIsTold(t *testing.T) {
	l, want := estate(t, 3)
	l.want, l.hold = want, &spec.Waiting{Reason: "HistoryRewritten", Message: "acknowledge the first"}
	l.askAll()
	l.everything(t)
	held := l.held()
	l.hold = &spec.Waiting{Reason: "HistoryRewritten", Message: "acknowledge the second"}
	l.askChanged(want, held)
	l.everything(t)
	for plan, st := range l.rec.Plans {
		if say := find(st, "Ready").Message; say != "acknowledge the second" {
			t.Errorf("%s says %q", plan, say)
		}
	}
}
