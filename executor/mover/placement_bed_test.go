package mover

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/reconciler"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const narrowYAML = `
apiVersion: v1
kind: LimitRange
metadata: {name: narrow}
spec:
  limits:
  - {type: Container, min: {cpu: 10m, memory: 20Mi}, max: {cpu: 80m, memory: 48Mi}, maxLimitRequestRatio: {cpu: 4, memory: 2}, default: {cpu: 40m, memory: 32Mi}, defaultRequest: {cpu: 20m, memory: 20Mi}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: narrow}
spec: {hard: {requests.cpu: 100m, limits.cpu: 500m, requests.memory: 200Mi, limits.memory: 500Mi, pods: 4}}
`

// stats lists, for every file of a tree, all that a reader must not touch; the
// time of the last access belongs to the application.
func (l *bedLab) stats(root string) string {
	l.t.Helper()
	var b strings.Builder
	l.must(filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := i.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, p)
		fmt.Fprintf(&b, "%s %o %d:%d mtime %d ctime %d\n", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Nano(), st.Ctim.Nano())
		return nil
	}))
	return b.String()
}

// A stage in a namespace that is restricted, has a quota and limit ranges that
// our holder's own wishes would break, of an application with an fsGroup,
// leaves the source's tree as it was: owners, modes and change times.
func TestBedAStageChangesNothing(t *testing.T) {
	l := newBedLab(t)
	bedtest.Put(t, l.Source, l.from, narrowYAML)
	bedtest.Put(t, l.Source, l.from, strings.Replace(fmt.Sprintf(appYAML, "bed-shared"), "runAsUser: 1000,", "runAsUser: 1000, fsGroup: 2000,", 1))
	dir := l.started(time.Time{})
	l.random(dir+"/d/private", 1000)
	l.must(os.Chmod(dir+"/d/private", 0o600))
	l.must(os.Chown(dir+"/d/private", 7, 8))
	l.must(os.Symlink("private", dir+"/d/link"))
	before := l.stats(dir)
	l.step("upload", "mover.upload", 1)
	if after := l.stats(dir); after != before || strings.Count(before, "\n") < 5 {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if v := l.Run.Facts.Volumes[0]; v.Files < 1 || v.DiskBytes == 0 {
		t.Errorf("%+v", v)
	}
}

// long leaves a test to those who have the time.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("TRANSHIP_LONG") == "" {
		t.Skip("TRANSHIP_LONG is not set")
	}
}

// What one pod alone may use is read through that pod while it runs, and
// through a holder when it has stopped.
func TestBedReadWriteOncePod(t *testing.T) {
	long(t)
	l := newBedLab(t)
	bedtest.Put(t, l.Source, l.from, strings.Replace(fmt.Sprintf(appYAML, "bed-shared"), "[ReadWriteOnce]", "[ReadWriteOncePod]", 1))
	dir := l.started(time.Time{})
	l.random(dir+"/first", 1000)
	holder := kube.LabelPlan + "=" + kube.Short(l.Run.Spec.Plan) + "," + LabelComponent + "=" + ComponentHolder
	held := func() bool { return len(l.pods(l.Source, l.from, holder)) > 0 }
	done := make(chan bool)
	seen := make(chan bool)
	go func() {
		saw := false
		for {
			select {
			case <-done:
				seen <- saw
				return
			case <-time.After(100 * time.Millisecond):
				saw = saw || held()
			}
		}
	}()
	l.step("upload", "mover.upload", 1)
	close(done)
	if <-seen {
		t.Error("a stage made a holder, which the application's pod shuts out")
	}
	if l.running() == nil {
		t.Error("the application does not run any more")
	}
	l.step("claims", "mover.claims", 1)
	l.step("restore-volumes", "mover.restore", 1)
	l.scale(0)
	l.random(dir+"/second", 1000)
	l.step("last-upload", "mover.upload", 1)
	l.step("last-restore", "mover.restore", 1)
	l.equal(dir, l.path(l.Target, l.Settings.Namespace, l.Run.Facts.Volumes[0].StagingClaim))
}

// A holder that fits on no node says so, instead of hanging, and the upload goes
// on when it fits. The application is scaled to zero: its volume is pinned to
// one node all the same.
func TestBedUnschedulable(t *testing.T) {
	long(t)
	l := newBedLab(t)
	l.app("bed-node", func(dir string) { l.random(dir+"/f", 1000) })
	node := l.running().Spec.NodeName
	l.scale(0)
	bedtest.Put(t, l.Source, l.from, "{apiVersion: v1, kind: LimitRange, metadata: {name: huge}, spec: {limits: [{type: Container, min: {cpu: 500}}]}}")
	look := l.upload()
	var o reconciler.Observation
	l.await("word of a holder that fits nowhere", func() bool {
		o = look()
		return o.Reason == "HolderPending" && strings.Contains(o.Message, "Insufficient cpu")
	})
	t.Log(o.Message)
	l.must(l.Source.Kube.CoreV1().LimitRanges(l.from).Delete(t.Context(), "huge", metav1.DeleteOptions{}))
	for _, p := range l.pods(l.Source, l.from, LabelComponent+"="+ComponentHolder) {
		l.must(deletePod(t.Context(), l.Source, &p)) // an administrator's hand; its requests are what it was made with
	}
	on := map[string]bool{}
	l.await("the upload", func() bool {
		o = look()
		for _, p := range l.pods(l.Source, l.from, LabelComponent+"="+ComponentHolder) {
			if p.Spec.NodeName != "" {
				on[p.Spec.NodeName] = true
			}
		}
		return o.Seen == reconciler.Succeeded
	})
	if len(on) != 1 || !on[node] {
		t.Errorf("the holder was on %v, and the volume is on %s alone", on, node)
	}
	if n := len(l.pods(l.Source, l.Settings.Namespace, kube.LabelPlan+"="+kube.Short(l.Run.Spec.Plan)+","+LabelComponent+"="+ComponentReader)); n == 0 {
		t.Error("no reader is left to tell where it read")
	}
}
