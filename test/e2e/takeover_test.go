package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	shared "github.com/tranship/tranship/test/lab"
)

// numbered writes a line every fifth of a second, "7 source-2", as long as it may. When
// it is told to end it writes nothing more, and ends once a file says so.
func (l *lab) numbered() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 32Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 600
      containers:
      - name: web
        image: IMAGE
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        command: [/bin/sh, -c, "trap 'until test -e /data/go; do sleep 0.2; done; exit 0' TERM; touch /data/writes; n=$(wc -l < /data/writes); while true; do n=$((n+1)); echo $n $NODE >> /data/writes; sleep 0.2 & wait $!; done"]
        readinessProbe: {exec: {command: [test, -s, /data/writes]}, periodSeconds: 1, timeoutSeconds: 30}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`)
}

// numbers is that application on the source.
type numbers struct {
	*lab
	pod     string // of the source
	written string // by it, all in all
}

// numbers waits for it to run.
func (l *lab) numbers() *numbers {
	l.t.Helper()
	l.rolledOut("deployment/web")
	return &numbers{lab: l, pod: strings.TrimSpace(l.onSource("-n", l.name, "get", "pods", "-o", "jsonpath={.items[0].metadata.name}"))}
}

// witness stands before both API servers and notes who changes what. It is safe for
// concurrent use.
type witness struct {
	mu    sync.Mutex
	first string               // what the first daemon identifies itself with
	epoch map[string]time.Time // when the second one's stood on a cluster
	late  []string             // what the first one sent after that
}

func (w *witness) sees(cluster string, r *http.Request, serve func()) {
	changes := r.Method != http.MethodGet && !strings.Contains(r.URL.RawQuery, "dryRun=") && !strings.Contains(r.URL.Path, "/authorization.k8s.io/")
	first := strings.HasSuffix(r.Header.Get("Authorization"), w.first)
	w.mu.Lock()
	if first && changes && !w.epoch[cluster].IsZero() {
		w.late = append(w.late, fmt.Sprintf("%s %s on %s, %.1f s after the epoch", r.Method, r.URL.Path, cluster, time.Since(w.epoch[cluster]).Seconds()))
	}
	w.mu.Unlock()
	serve()
	if !first && changes && strings.Contains(r.URL.Path, "/configmaps") && strings.Contains(r.URL.Path, "tranship-epoch-") {
		w.mu.Lock()
		w.epoch[cluster] = time.Now()
		w.mu.Unlock()
	}
}

// firstGID is the group of the first daemon, so that its traffic can be told from all
// other: both must reach one Git server at one address.
const firstGID = 54018

// twoDaemons is a cutover in the middle of which there are two.
type twoDaemons struct {
	*numbers
	witness witness
	flags   []string // of the second one
}

// untilStopped lets the first daemon stop the application on the source: it waits
// for the last pod to end.
func untilStopped(t *testing.T) *twoDaemons {
	d := &twoDaemons{numbers: &numbers{lab: newLab(t)}, witness: witness{epoch: map[string]time.Time{}}}
	d.witness.first = d.text(d.bed.Source.TokenFile)
	for name, text := range map[string]string{"git/username": d.bed.Git.Daemon.User, "git/password": d.text(d.bed.Git.Daemon.PasswordFile),
		"old/token": d.onSource("-n", "tranship-system", "create", "token", "tranship"), "new/token": d.onTarget("-n", "tranship-system", "create", "token", "tranship"),
		"s3/accessKey": d.text(d.bed.S3.AccessKeyFile), "s3/secretKey": d.text(d.bed.S3.SecretKeyFile), "s3/password": d.text(d.dir + "/secrets/s3/password")} {
		d.write("second/"+name, strings.TrimSpace(text))
	}
	d.flags = []string{"--take-over", "--config", filepath.Join(d.dir, "config.yaml"), "--secrets-dir", filepath.Join(d.dir, "second")}
	d.apply(d.numbered())
	d.numbers = d.lab.numbers()
	files := d.infrastructure()
	for name, c := range map[string]*shared.Cluster{"old": &d.bed.Source, "new": &d.bed.Target} {
		address, ca := d.before(c.Server, c.CAFile, func(r *http.Request, serve func()) { d.witness.sees(name, r, serve) })
		d.through(files, name, c, address, ca)
	}
	files["plan.yaml"] = d.plan(spec.Staged, "cutover: {gitOutage: 10m}")
	d.commit("Plan the move", files)
	d.must(d.Start(firstGID))
	d.waitReason("Staged", time.Minute)
	d.flip(spec.Migrated, "cutover: {gitOutage: 10m}")
	d.source("stopped", 2*time.Minute, "{.spec.replicas}", "0")
	return d
}

// takeOver starts the second daemon, and waits until it stands on both clusters: it
// has nothing to do there, since the pod that the cutover waits for has not ended.
func (d *twoDaemons) takeOver() {
	d.t.Helper()
	said := d.second(d.flags...)
	d.poll("the second daemon's epoch on both clusters", 100*time.Millisecond, func() (string, bool) {
		d.witness.mu.Lock()
		defer d.witness.mu.Unlock()
		return tail(said.String(), 3000), len(d.witness.epoch) == 2
	})
}

// letEnd lets the source's pod end, and keeps what it has written.
func (d *numbers) letEnd() {
	d.t.Helper()
	d.poll("the source's pod to write no more", time.Second, func() (string, bool) {
		was := d.written
		d.written = d.onSource("-n", d.name, "exec", d.pod, "--", "cat", "/data/writes")
		return d.written, was == d.written
	})
	d.onSource("-n", d.name, "exec", d.pod, "--", "touch", "/data/go")
}

// actedOnNothing: the first daemon has ended, and has changed nothing on either
// cluster since the second one's epoch stood there.
func (d *twoDaemons) actedOnNothing() {
	d.t.Helper()
	d.firstEnds()
	d.witness.mu.Lock()
	defer d.witness.mu.Unlock()
	for _, late := range d.witness.late {
		d.t.Errorf("the first daemon acted: %s", late)
	}
}

// whole checks that a side has every line that the source has written, each once and
// in its order, and then those of its own.
func (d *numbers) whole(on func(...string) string) {
	d.t.Helper()
	got := d.inWeb(on, "cat /data/writes")
	if !strings.HasPrefix(got, strings.TrimSpace(d.written)) {
		d.t.Errorf("the source had written\n%s\nand it has\n%s", tail(d.written, 300), tail(got, 600))
	}
	for n, line := range strings.Split(got, "\n") {
		if !strings.HasPrefix(line, fmt.Sprint(n+1, " ")) {
			d.t.Fatalf("line %d is %q", n+1, line)
		}
	}
}

// sound checks that the ledger is what daemons write.
func (l *lab) sound() {
	l.t.Helper()
	l.t.Log(l.run(l.binary, append([]string{"audit", "verify"}, l.Flags()...)...))
}

// TestCutOffFromGitAndReplaced: the daemon that has stopped the application sees both
// clusters and not Git, in which another one takes over. It learns so from the
// clusters, and the other one finishes.
func TestCutOffFromGitAndReplaced(t *testing.T) {
	d := untilStopped(t)
	mend, err := shared.Cut(firstGID, d.bed.Git.URL)
	d.must(err)
	t.Cleanup(func() { _ = mend() })
	d.takeOver()
	d.letEnd()
	d.actedOnNothing()
	s := d.waitReason("Migrated", 3*time.Minute)
	if s.Run.Metadata.Name != d.name+"-migrate-1" || s.Status.Recorded.Numbers[spec.RunMigrate] != 1 {
		t.Errorf("the cutover was made again: %s", s.Run.Metadata.Name)
	}
	d.whole(d.onTarget)
	d.sound()
	if pods := d.onTarget("-n", d.name, "get", "pods", "-o", "name"); strings.Count(pods, "/") != 1 {
		t.Errorf("on the target run %s", pods)
	}
	d.source("stopped still", time.Second, "{.spec.replicas}", "0")
}

// TestPausedAndReplaced: the daemon that has stopped the application stands still,
// another one takes over and takes the cutover back. Then the first one wakes up.
func TestPausedAndReplaced(t *testing.T) {
	long(t)
	d := untilStopped(t)
	d.must(d.Signal(syscall.SIGSTOP))
	d.takeOver()
	d.flip(spec.Staged, "")
	d.letEnd()
	d.source("back", 3*time.Minute, "{.spec.replicas} {.status.readyReplicas}", "1 1")
	s := d.wait("the end of the run", time.Minute, func(s *story) bool { return s.Status.Recorded.OpenRun == "" })
	pods := d.onSource("-n", d.name, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}")
	d.must(d.Signal(syscall.SIGCONT))
	d.actedOnNothing()
	if now := d.onSource("-n", d.name, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"); now != pods {
		t.Errorf("pods on the source: %s, then %s", pods, now)
	}
	if again := d.mustStatus(); again.Run.Metadata.Name != s.Run.Metadata.Name || !again.Run.Status.Ended.Equal(s.Run.Status.Ended) {
		t.Errorf("the record changed: %+v", again.Run.Status)
	}
	d.whole(d.onSource)
	d.sound()
	d.source("running still", time.Second, "{.spec.replicas} {.status.readyReplicas}", "1 1")
}
