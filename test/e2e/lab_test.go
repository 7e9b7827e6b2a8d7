// Package e2e runs the product as people do: the real binary, a real Git
// server, two real clusters with Velero and object storage. The tests need
// `make bed-up`; without TRANSHIP_BED they are skipped.
package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	shared "github.com/tranship/tranship/test/lab"
)

// lab is one test's own branch, ledger, namespaces and daemon on the bed.
type lab struct {
	*shared.Lab
	t      *testing.T
	bed    *shared.Bed
	binary string
	dir    string // clone, config, secrets, data
	name   string // unique; plans and namespaces carry it
}

var image struct {
	once sync.Once
	ref  string
	err  error
}

func newLab(t *testing.T) *lab {
	t.Helper()
	file := os.Getenv("TRANSHIP_BED")
	if file == "" {
		t.Skip("TRANSHIP_BED names no bed: run `make test`")
	}
	l := &lab{t: t, dir: t.TempDir(), binary: os.Getenv("TRANSHIP_BINARY")}
	if l.binary == "" {
		t.Fatal("TRANSHIP_BINARY names no binary: run `make test`")
	}
	var err error
	l.bed, err = shared.ReadBed(file)
	l.must(err)
	l.Lab, err = shared.New(l.bed, l.binary, l.dir, "e")
	l.must(err)
	l.name = l.Name
	image.once.Do(func() { image.ref, image.err = l.LoadImage("../bed", filepath.Dir(file)) })
	l.must(image.err)
	l.writeConfig(image.ref)
	t.Cleanup(l.cleanUp)
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) text(file string) string {
	l.t.Helper()
	text, err := shared.Text(file)
	l.must(err)
	return text
}

func (l *lab) write(file, text string) {
	l.t.Helper()
	l.must(l.Write(file, text))
}

// run executes a program and returns what it prints.
func (l *lab) run(name string, args ...string) string {
	l.t.Helper()
	out, err := l.Run(name, args...)
	l.must(err)
	return out
}

func (l *lab) git(args ...string) string {
	l.t.Helper()
	out, err := l.Git(args...)
	l.must(err)
	return out
}

// commit writes files (an empty text deletes) and pushes them.
func (l *lab) commit(message string, files map[string]string) string {
	l.t.Helper()
	head, err := l.Commit(message, files)
	l.must(err)
	return head
}

func indent(text, by string) string { return shared.Indent(text, by) }

// writeConfig writes the daemon's configuration and its secrets.
func (l *lab) writeConfig(moverImage string) {
	l.t.Helper()
	l.must(l.Configure(moverImage))
}

// infrastructure is the documents that every plan needs.
func (l *lab) infrastructure() map[string]string {
	l.t.Helper()
	files, err := l.Infrastructure()
	l.must(err)
	return files
}

// plan is a plan's document; extra is YAML below spec.
func (l *lab) plan(state spec.State, extra string) string { return shared.Plan(l.name, state, extra) }

// open is how most tests begin: the application runs on the source, the plan
// is committed, the daemon has been started. extra is YAML below the plan's spec.
func (l *lab) open(app, workload, extra string) {
	l.t.Helper()
	l.apply(app)
	l.rolledOut(workload)
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, extra)
	l.commit("Plan the move", files)
	l.start()
}

// openStaged is open, and the daemon has taken the plan up.
func (l *lab) openStaged(app, workload, extra string) {
	l.t.Helper()
	l.open(app, workload, extra)
	l.waitReason("Staged", time.Minute)
}

// flip commits the plan with another state, and returns the commit.
func (l *lab) flip(state spec.State, extra string) string {
	l.t.Helper()
	return l.commit("Set the plan to "+string(state), map[string]string{"plan.yaml": l.plan(state, extra)})
}

// start runs the daemon; kill ends it with SIGKILL.
func (l *lab) start() {
	l.t.Helper()
	l.must(l.Start(0))
}

func (l *lab) kill() {
	if err := l.Kill(); err != nil {
		l.t.Log(err)
	}
}

// story is what `tranship status` says of the plan, from Git alone.
type story struct{ shared.Story }

func (s *story) condition(kind string) (reason, message string) { return s.Condition(kind) }

func (l *lab) status() (*story, error) {
	s, err := l.Status(l.name)
	if err != nil {
		return nil, err
	}
	return &story{*s}, nil
}

// wait polls the ledger until ok says so, for several times the limit; the
// failure shows the last story and the daemon's log.
func (l *lab) wait(what string, limit time.Duration, ok func(s *story) bool) *story {
	l.t.Helper()
	var last *story
	for end := time.Now().Add(slack * limit); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if s, err := l.status(); err == nil {
			if last = s; ok(s) {
				return s
			}
		}
	}
	text, _ := json.MarshalIndent(last, "", " ")
	l.t.Fatalf("timed out waiting for %s\n%s\ndaemon:\n%s", what, text, tail(l.Log.String(), 6000))
	return nil
}

func tail(s string, n int) string { return shared.Tail(s, n) }

func (l *lab) waitReason(reason string, limit time.Duration) *story {
	l.t.Helper()
	return l.wait(reason, limit, func(s *story) bool { r, _ := s.condition("Ready"); return r == reason })
}

func (l *lab) kubectl(kubeconfig string, args ...string) (string, error) {
	return l.Kubectl(kubeconfig, args...)
}

// onSource and onTarget run kubectl and must succeed.
func (l *lab) onSource(args ...string) string {
	l.t.Helper()
	return l.on(&l.bed.Source, args...)
}

func (l *lab) onTarget(args ...string) string {
	l.t.Helper()
	return l.on(&l.bed.Target, args...)
}

// apply puts YAML onto the source.
func (l *lab) apply(yaml string) {
	l.t.Helper()
	l.write("app.yaml", yaml)
	l.onSource("apply", "-f", filepath.Join(l.dir, "app.yaml"))
}

func (l *lab) cleanUp() {
	l.kill()
	if err := l.Fsck(); err != nil {
		l.t.Error(err)
	}
	l.Remove(l.name, l.name)
	if l.t.Failed() {
		l.t.Logf("daemon:\n%s", tail(l.Log.String(), 8000))
	}
}

// logTimes prints how long the steps of a cutover took.
func (l *lab) logTimes(r *spec.Run) {
	l.t.Helper()
	var b strings.Builder
	for _, s := range r.Steps {
		if s.Started != nil && s.Ended != nil {
			fmt.Fprintf(&b, " %s %.2f", s.Name, s.Ended.Sub(s.Started.Time).Seconds())
		}
	}
	l.t.Logf("stop time: %.1f s (application's own: %.1f s); seconds a step:%s", r.Status.StopSeconds, r.Status.OwnSeconds, b.String())
}

// neverSaid looks for words in the daemon's log and the run's messages that
// stand for a way that works and should not have been taken.
func (l *lab) neverSaid(words ...string) {
	l.t.Helper()
	text, err := json.Marshal(l.mustStatus())
	l.must(err)
	all := l.Log.String() + string(text)
	for _, w := range words {
		if strings.Contains(all, w) {
			l.t.Errorf("the daemon said %q:\n%s", w, tail(all, 4000))
		}
	}
}
