package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	shared "github.com/tranship/tranship/test/lab"

	"github.com/tranship/tranship/spec"
)

// editor is a user with `edit` in the application's namespace of both clusters, who
// looks for what opens the store or the repository.
type editor struct {
	*lab
	secrets   []string
	pods      map[string]int // of ours that were looked into, by cluster
	processes int            // of theirs
	seen      map[string]bool
}

func (l *lab) editor() *editor {
	return &editor{lab: l, secrets: []string{l.text(l.bed.S3.SecretKeyFile), "correct horse battery staple"}, pods: map[string]int{}, seen: map[string]bool{}}
}

// look reads what eve may read, and goes further than she can: into the memory of
// what runs beside the application, where an exec would put her.
func (e *editor) look(name string, c *shared.Cluster) {
	e.t.Helper()
	if out, err := e.kubectl(c.Kubeconfig, "--as=eve", "-n", e.name, "get", "secrets,configmaps,pods,jobs,pvc", "-o", "yaml"); err == nil {
		e.search(out, "what eve reads on "+name)
	}
	for _, ns := range []string{"tranship-system", "velero"} {
		if out, err := e.kubectl(c.Kubeconfig, "--as=eve", "-n", ns, "get", "secrets"); err == nil {
			e.t.Errorf("eve lists the secrets of %s: %s", ns, out)
		}
	}
	out, err := e.kubectl(c.Kubeconfig, "-n", e.name, "get", "pods", "-l", "app.kubernetes.io/managed-by=tranship", "-o", "json")
	if err != nil {
		return // the target's namespace is not there yet
	}
	var list struct {
		Items []struct{ Metadata struct{ UID, Name string } }
	}
	e.must(json.Unmarshal([]byte(out), &list))
	for _, p := range list.Items {
		pids, err := shared.PodProcesses(p.Metadata.UID)
		e.must(err)
		for _, pid := range pids {
			if e.inside(fmt.Sprintf("/proc/%d", pid), name+" pod "+p.Metadata.Name) && !e.seen[p.Metadata.UID] {
				e.seen[p.Metadata.UID] = true
				e.pods[name]++
			}
		}
	}
}

// inside reads environment, arguments and small files of a process; false when it
// has ended, or is not in its container yet: the runtime's first process still has
// this machine's files, and so this test's.
func (e *editor) inside(dir, what string) bool {
	e.t.Helper()
	here, err := os.Stat("/")
	e.must(err)
	if there, err := os.Stat(filepath.Join(dir, "root") + "/"); err != nil || os.SameFile(here, there) {
		return false
	}
	env, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil || len(env) == 0 {
		return false
	}
	args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	e.search(string(env)+"\x00"+string(args), "environment and arguments of "+what)
	e.processes++
	root := filepath.Join(dir, "root") + "/"
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error { // it may end meanwhile
		switch top, _, _ := strings.Cut(strings.TrimPrefix(path, root), "/"); {
		case err != nil:
			return nil
		case d.IsDir() && (top == "proc" || top == "sys" || top == "dev"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > 1<<20 {
			return nil
		}
		if text, err := os.ReadFile(path); err == nil {
			e.search(string(text), path+" of "+what)
		}
		return nil
	})
	return true
}

func (e *editor) search(text, where string) {
	e.t.Helper()
	for _, s := range e.secrets {
		if strings.Contains(text, s) {
			e.t.Errorf("a secret of %d characters is in %s", len(s), where)
		}
	}
}

// TestEditorsReadNoCredential looks during a stage run and a cutover, on both
// clusters, at everything of ours in the application's namespace.
func TestEditorsReadNoCredential(t *testing.T) {
	l := newLab(t)
	e := l.editor()
	l.open(l.stateful(), "statefulset/db", fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	l.onSource("-n", l.name, "create", "rolebinding", "editor", "--clusterrole=edit", "--user=eve")
	until := func(what string, ok func(s *story) bool) {
		t.Helper()
		l.wait(what, 3*time.Minute, func(s *story) bool {
			e.look("source", &l.bed.Source)
			e.look("target", &l.bed.Target)
			return ok(s)
		})
	}
	// On a busy machine few looks fall into one stage run.
	for run := 1; run == 1 || e.pods["source"] == 0; run++ {
		if run > 5 {
			t.Fatal("no pod of ours was looked into")
		}
		if run > 1 {
			l.flip(spec.Staged, requestStage())
		}
		until("a stage run", func(s *story) bool {
			return s.Status.Recorded.Numbers[spec.RunStage] == run && s.Status.Recorded.OpenRun == ""
		})
	}
	staged := e.processes
	l.flip(spec.Migrated, "")
	until("Migrated", func(s *story) bool { r, _ := s.condition("Ready"); return r == "Migrated" })
	t.Logf("%v pods of ours, %d looks into their processes, %d of them in the cutover", e.pods, e.processes, e.processes-staged)
	if e.processes == staged {
		t.Error("no process of ours was looked into during the cutover")
	}
	// The looks would have found something: the daemon itself, which has it all.
	found := 0
	for _, s := range e.secrets {
		if text, err := l.kubectl(l.bed.Source.Kubeconfig, "-n", "tranship-system", "get", "secrets", "-o", `go-template={{range .items}}{{range .data}}{{. | base64decode}}{{"\n"}}{{end}}{{end}}`); err == nil && strings.Contains(text, s) {
			found++
		}
	}
	if found == 0 {
		t.Error("the secrets that were looked for are not those in use")
	}
}
