package gitsource

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

const ledgerRef = "refs/heads/tranship/ledger"

// testConfig points source and ledger at a repository of the server.
func testConfig(t testing.TB, s *gittest.Server, r *gittest.Repo) Config {
	t.Helper()
	return Config{
		Spec: spec.DaemonConfigSpec{Source: spec.Repository{
			URL: r.URL, CABundle: s.CA, Credentials: &spec.SecretRef{From: "git"}, Timeout: &metav1.Duration{Duration: time.Minute},
		}},
		DataDir: t.TempDir(),
		Secrets: func(context.Context, string) (map[string][]byte, error) {
			return map[string][]byte{"username": []byte(gittest.User), "password": []byte(gittest.Password + "\n")}, nil
		},
		Version: "test",
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // spent by failures only
	t.Cleanup(cancel)
	return ctx
}

// triedOnce is a context that ends once the ledger has met its next error: what
// a test wants to see refused was tried then, however slow the machine.
func triedOnce(t testing.TB, l *Ledger) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	t.Cleanup(cancel)
	before := l.Health().LastError
	go func() {
		for now := before; ctx.Err() == nil && (now == nil || now == before); now = l.Health().LastError {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	return ctx
}

// openLedger opens a ledger that closes with the test. Closing twice is harmless.
func openLedger(t testing.TB, c Config) *Ledger {
	t.Helper()
	l, err := OpenLedger(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // tests close and open again to restart
	return l
}

// acquired opens a ledger and takes it.
func acquired(t testing.TB, c Config, holder string) *Ledger {
	t.Helper()
	l := openLedger(t, c)
	if _, err := l.Acquire(testContext(t), holder, false); err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func status(plan, message string) *spec.PlanStatus {
	return &spec.PlanStatus{Metadata: spec.Metadata{Name: plan}, WaitsFor: &spec.Waiting{Reason: "Test", Message: message}}
}

func plans(p ...*spec.PlanStatus) []*spec.PlanStatus { return p }
func runs(r ...*spec.Run) []*spec.Run                { return r }

var runStart = metav1.NewMicroTime(time.Date(2026, 11, 3, 4, 5, 6, 0, time.UTC))

// openRun is an unfinished cutover and the status that says so.
func openRun(plan string, number int) (*spec.Run, *spec.PlanStatus) {
	name := fmt.Sprintf("%s-migrate-%d", plan, number)
	run := &spec.Run{Metadata: spec.Metadata{Name: name}, Steps: []spec.Step{{Name: "stop", Verb: "workload.stop"}},
		Spec:   spec.RunSpec{Plan: plan, Kind: spec.RunMigrate, Number: number, Commit: strings.Repeat("a", 40), Digest: "sha256:x"},
		Status: spec.RunStatus{Phase: spec.RunRunning, Started: runStart}}
	st := status(plan, "runs")
	st.Recorded.OpenRun = name
	return run, st
}

func planChange(plan, message string) reconciler.Change {
	return reconciler.Change{Plans: []*spec.PlanStatus{status(plan, message)}, Message: "status of " + plan,
		Trailers: map[string]string{"Migration-Plan": plan}}
}

// ledgerSound checks the branch as a whole: git fsck is content, and every
// commit carries trailers that git itself can read.
func ledgerSound(t testing.TB, r *gittest.Repo) {
	t.Helper()
	r.Fsck()
	for _, c := range strings.Fields(r.Git("rev-list", ledgerRef)) {
		message := r.Git("log", "-1", "--format=%B", c)
		trailers := r.Input(message+"\n", "interpret-trailers", "--parse")
		if !strings.Contains(trailers, epochTrailer+": ") {
			t.Errorf("commit %s has no %s trailer: %q", c, epochTrailer, message)
		}
		if m := r.Git("rev-list", "-1", "--min-parents=2", c); m == c {
			t.Errorf("commit %s is a merge", c)
		}
	}
}

func commits(r *gittest.Repo) int {
	return len(strings.Fields(r.Git("rev-list", ledgerRef)))
}

// waits returns what the recorded status of a plan waits for.
func waits(t testing.TB, rec *reconciler.Recorded, plan string) string {
	t.Helper()
	st := rec.Plans[plan]
	if st == nil {
		t.Fatalf("plan %s is not recorded", plan)
	}
	return st.WaitsFor.Message
}

func load(t testing.TB, l *Ledger) *reconciler.Recorded {
	t.Helper()
	rec, err := l.Load(testContext(t))
	must(t, err)
	return rec
}

// goesOn has a ledger that recorded shop as one record more, and looks for both.
func goesOn(t *testing.T, r *gittest.Repo, l *Ledger) {
	t.Helper()
	must(t, l.Record(testContext(t), planChange("web", "two")))
	must(t, l.Push(testContext(t)))
	if rec := load(t, l); waits(t, rec, "shop") != "one" || waits(t, rec, "web") != "two" {
		t.Error("records are missing")
	}
	ledgerSound(t, r)
}
