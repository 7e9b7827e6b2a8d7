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
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// workCommand makes this program a client that holds the product's own reader
// and ledger and does with them what its standard input says, one order a
// line. It is a process of its own, as the daemon is: its processor time and
// memory are those of the product.
const workCommand = "git-work"

// gitOrder is one line to the worker; Times repeats it.
type gitOrder struct {
	Do    string `json:"do"` // read, ledger, plans, event or batch
	Times int    `json:"times,omitempty"`
	From  int    `json:"from,omitempty"`
}

// gitAnswer is one line from the worker.
type gitAnswer struct {
	CPU     float64 `json:"cpu"`  // milliseconds, of all threads, in user and kernel
	Wall    float64 `json:"wall"` // milliseconds
	RSS     float64 `json:"rss"`  // MiB, after the order
	Peak    float64 `json:"peak"` // MiB, since the start
	Plans   int     `json:"plans"`
	Commits int     `json:"commits"`
	Error   string  `json:"error,omitempty"`
}

// gitWorker is the worker as its parent sees it.
type gitWorker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startWorker starts a worker for the repository at url, with a data folder of its own.
func startWorker(ctx context.Context, url, data string) (*gitWorker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, workCommand, url, data)
	cmd.Stderr = os.Stderr
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		return nil, fmt.Errorf("cannot talk to the worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the worker: %w", err)
	}
	return &gitWorker{cmd: cmd, in: in, out: bufio.NewReader(out)}, nil
}

func (w *gitWorker) do(o gitOrder) (a gitAnswer, err error) {
	line, err := json.Marshal(o)
	if err != nil {
		return a, fmt.Errorf("cannot encode an order: %w", err)
	}
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return a, fmt.Errorf("the worker is gone: %w", err)
	}
	said, err := w.out.ReadBytes('\n')
	if err != nil {
		return a, fmt.Errorf("the worker said nothing: %w", err)
	}
	if err := json.Unmarshal(said, &a); err != nil {
		return a, fmt.Errorf("the worker said %q: %w", said, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("the worker could not %s: %s", o.Do, a.Error)
	}
	return a, nil
}

func (w *gitWorker) stop() {
	_ = w.in.Close()
	_ = w.cmd.Wait()
}

// worker is the worker itself.
type worker struct {
	config gitsource.Config
	source *gitsource.Source
	ledger *gitsource.Ledger
	since  string
}

// runWorker is the process that startWorker starts.
func runWorker(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s takes the repository's URL and a folder", workCommand)
	}
	w := &worker{config: gitConfig(args[0], args[1])}
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var o gitOrder
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return fmt.Errorf("cannot read the order: %w", err)
		}
		if err := out.Encode(w.measured(ctx, o)); err != nil {
			return fmt.Errorf("cannot answer: %w", err)
		}
	}
	return in.Err()
}

func gitConfig(url, data string) gitsource.Config {
	return gitsource.Config{DataDir: data, AllowLoopbackHTTP: true, Version: "bench",
		Spec: spec.DaemonConfigSpec{Source: spec.Repository{URL: url, Branch: spec.DefaultBranch}, Ledger: spec.Ledger{Repository: spec.Repository{Branch: spec.DefaultLedgerBranch}}}}
}

func (w *worker) measured(ctx context.Context, o gitOrder) (a gitAnswer) {
	deeds := map[string]func(context.Context, gitOrder, *gitAnswer) error{"read": w.read, "ledger": w.acquire, "plans": w.plans, "event": w.event, "batch": w.batch}
	do, known := deeds[o.Do]
	if !known {
		return gitAnswer{Error: "no such order"}
	}
	cpu, wall := processorTime(), time.Now()
	for i := range max(1, o.Times) {
		step := o
		step.From += i
		if err := do(ctx, step, &a); err != nil {
			a.Error = err.Error()
			return a
		}
	}
	a.CPU = float64(processorTime()-cpu) / 1e6
	a.Wall = float64(time.Since(wall)) / 1e6
	var err error
	if a.RSS, a.Peak, err = memory(); err != nil {
		a.Error = err.Error()
	}
	return a
}

// read is one poll, which reads what is new.
func (w *worker) read(ctx context.Context, _ gitOrder, a *gitAnswer) error {
	if w.source == nil {
		s, err := gitsource.OpenSource(w.config)
		if err != nil {
			return err
		}
		w.source = s
	}
	d, err := w.source.Read(ctx, w.since)
	if err != nil {
		return err
	}
	w.since = d.Commit
	a.Plans, a.Commits = len(d.Closures), len(d.Commits)
	return nil
}

func (w *worker) acquire(ctx context.Context, _ gitOrder, _ *gitAnswer) error {
	l, err := gitsource.OpenLedger(w.config)
	if err != nil {
		return err
	}
	w.ledger = l
	if _, err := l.Acquire(ctx, "bench", false); err != nil {
		return err
	}
	_, err = l.Load(ctx)
	return err
}

// plans records the status of every plan of the estate, in one change each.
func (w *worker) plans(ctx context.Context, _ gitOrder, _ *gitAnswer) error {
	for f := range gitFolders {
		var all []*spec.PlanStatus
		for n := range gitPerFold {
			all = append(all, estateStatus(f, n, 0))
		}
		if err := w.ledger.Record(ctx, reconciler.Change{Plans: all, Message: "observe"}); err != nil {
			return err
		}
	}
	ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
	defer stop()
	return w.ledger.Push(ctx)
}

// event records that something of one plan changed, and pushes it.
func (w *worker) event(ctx context.Context, o gitOrder, _ *gitAnswer) error {
	st := estateStatus(o.From*37%gitFolders, o.From%gitPerFold, o.From+1)
	c := reconciler.Change{Plans: []*spec.PlanStatus{st}, Message: "status of " + st.Metadata.Name + ": Staged", Trailers: map[string]string{"Migration-Plan": st.Metadata.Name}}
	if err := w.ledger.Record(ctx, c); err != nil {
		return err
	}
	return w.ledger.Push(ctx)
}

// batch records 100 plans, each in a change of its own, and pushes once.
func (w *worker) batch(ctx context.Context, o gitOrder, _ *gitAnswer) error {
	for i := range 100 {
		st := estateStatus(i, i%gitPerFold, o.From)
		if err := w.ledger.Record(ctx, reconciler.Change{Plans: []*spec.PlanStatus{st}, Message: "status of " + st.Metadata.Name + ": Staged"}); err != nil {
			return err
		}
	}
	return w.ledger.Push(ctx)
}

func estateStatus(folder, n, rev int) *spec.PlanStatus {
	at := metav1.NewTime(time.Unix(1_800_000_000+int64(rev)*60, 0).UTC())
	return &spec.PlanStatus{
		TypeMeta: spec.TypeMeta{APIVersion: spec.APIVersion, Kind: spec.KindPlanStatus},
		Metadata: spec.Metadata{Name: fmt.Sprintf("app-%04d-%d", folder, n)},
		Recorded: spec.Recorded{SeenState: spec.Staged, SeenAttempt: 1, Since: &at},
		Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Staged", LastTransitionTime: at,
			Message: "the next stage run is due at " + at.Format(time.RFC3339)}},
		NextStage: &at,
	}
}

// processorTime is what this process has used so far, children excluded.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory is this process's resident memory now and at most, in MiB.
func memory() (rss, most float64, err error) {
	kib, err := peak()
	if err != nil {
		return 0, 0, err
	}
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read how much memory this process takes: %w", err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0, 0, fmt.Errorf("/proc/self/statm says %q: %w", text, err)
	}
	return float64(pages*int64(os.Getpagesize())) / (1 << 20), float64(kib) / 1024, nil
}
