package mover

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bedLab is a plan of one namespace on the test bed (TRANSHIP_BED names its
// bed.json), with the image TRANSHIP_MOVER_IMAGE loaded into its nodes.
type bedLab struct {
	*kube.Env
	t    *testing.T
	dir  string // of the bed
	from string
	to   string
}

func newBedLab(t *testing.T) *bedLab {
	file, image := os.Getenv("TRANSHIP_BED"), os.Getenv("TRANSHIP_MOVER_IMAGE")
	if file == "" || image == "" {
		t.Skip("TRANSHIP_BED names no bed.json or TRANSHIP_MOVER_IMAGE no image on its nodes")
	}
	var raw [4]byte
	_, _ = rand.Read(raw[:])
	id := "mover-" + hex.EncodeToString(raw[:])
	l := &bedLab{Env: bedtest.Env(t, id, id, id+"-new"), t: t, dir: filepath.Dir(file), from: id, to: id + "-new"}
	l.Settings.Mover.Image = image
	l.Run.Spec.Closure.Repository.Spec.Prefix = "mover-test"
	bedtest.Namespace(t, l.Source, l.from, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	bedtest.Namespace(t, l.Target, l.to, nil)
	for _, on := range []*kube.Cluster{l.Source, l.Target} {
		l.secret(on)
	}
	t.Cleanup(l.cleanUp)
	return l
}

// secret stands in for the locations step.
func (l *bedLab) secret(on *kube.Cluster) {
	access, err := l.Secrets.Read(l.t.Context(), spec.SecretRef{From: "s3"}, "accessKey")
	l.must(err)
	secret, err := l.Secrets.Read(l.t.Context(), spec.SecretRef{From: "s3"}, "secretKey")
	l.must(err)
	s := &corev1.Secret{ObjectMeta: objectMeta(l.Env, l.Settings.Namespace, SecretName(l.Env), "secret"), StringData: map[string]string{
		"cloud":    fmt.Sprintf("[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", strings.TrimSpace(string(access)), strings.TrimSpace(string(secret))),
		"password": "for-the-test",
	}}
	_, err = on.Kube.CoreV1().Secrets(s.Namespace).Create(l.t.Context(), s, metav1.CreateOptions{})
	l.must(err)
}

func (l *bedLab) cleanUp() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	o := metav1.ListOptions{LabelSelector: kube.LabelPlan + "=" + kube.Short(l.Run.Spec.Plan)}
	background := metav1.DeletePropagationBackground
	d := metav1.DeleteOptions{PropagationPolicy: &background}
	for _, on := range []*kube.Cluster{l.Source, l.Target} {
		ns := l.Settings.Namespace
		_ = on.Kube.BatchV1().Jobs(ns).DeleteCollection(ctx, d, o)
		_ = on.Kube.CoreV1().ConfigMaps(ns).DeleteCollection(ctx, d, o)
		_ = on.Kube.CoreV1().PersistentVolumeClaims(ns).DeleteCollection(ctx, d, o)
		_ = on.Kube.CoreV1().Secrets(ns).Delete(ctx, SecretName(l.Env), d)
	}
}

func (l *bedLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// step drives a verb to its end and wants success.
func (l *bedLab) step(step, verb string, attempt int) time.Duration {
	l.t.Helper()
	began := time.Now()
	if o := bedtest.Drive(l.t, l.Env, Verbs(), step, verb, attempt); o.Seen != reconciler.Succeeded {
		l.t.Fatalf("%s: %d %s: %s", verb, o.Seen, o.Reason, o.Message)
	}
	return time.Since(began)
}

// path is where a claim's files lie on this machine: the bed's driver keeps
// each volume in a folder.
func (l *bedLab) path(on *kube.Cluster, namespace, claim string) string {
	l.t.Helper()
	c, err := on.Kube.CoreV1().PersistentVolumeClaims(namespace).Get(l.t.Context(), claim, metav1.GetOptions{})
	l.must(err)
	pv, err := on.Kube.CoreV1().PersistentVolumes().Get(l.t.Context(), c.Spec.VolumeName, metav1.GetOptions{})
	l.must(err)
	return filepath.Join(l.dir, "csi", "volumes", pv.Spec.CSI.VolumeHandle, "data")
}

// tree describes every file of a folder: type, mode, owner, size, time and content.
func (l *bedLab) tree(root string) string {
	l.t.Helper()
	var b strings.Builder
	l.must(filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		st := i.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, p)
		fmt.Fprintf(&b, "%s %s %d:%d %d", rel, i.Mode(), st.Uid, st.Gid, i.ModTime().UnixNano())
		if i.Mode().IsRegular() {
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %x", i.Size(), shortSum(raw))
		}
		if i.Mode()&fs.ModeSymlink != 0 {
			to, _ := os.Readlink(p)
			b.WriteString(" -> " + to)
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

func shortSum(raw []byte) (sum uint64) {
	for _, c := range raw {
		sum = sum*1099511628211 + uint64(c)
	}
	return sum
}

func (l *bedLab) equal(a, b string) {
	l.t.Helper()
	if x, y := l.tree(a), l.tree(b); x != y {
		l.t.Fatalf("%s and %s differ:\n%s\n---\n%s", a, b, head(x), head(y))
	}
}

func head(s string) string {
	if len(s) > 1500 {
		return s[:1500] + "…"
	}
	return s
}

func (l *bedLab) await(what string, ok func() bool) time.Duration {
	l.t.Helper()
	return bedtest.Await(l.t, what, ok)
}

// upload returns what makes one turn of the upload at a time, as the loop does.
func (l *bedLab) upload() func() reconciler.Observation {
	e := l.Env
	e.Step, e.Verb = spec.Step{Name: "upload", Verb: "mover.upload", Attempt: 1}, "mover.upload"
	v := Verbs()[e.Verb]
	return func() reconciler.Observation {
		l.t.Helper()
		o, err := v.Look(l.t.Context(), e)
		if err == nil && o.Seen == reconciler.Absent {
			err = v.Ensure(l.t.Context(), e)
		}
		if err != nil {
			bedtest.Again(l.t, e.Verb, err)
			return reconciler.Observation{Seen: reconciler.Working, Reason: "Again", Message: err.Error()}
		}
		return o
	}
}

// succeeds makes turns until the last, which must have succeeded.
func (l *bedLab) succeeds(turn func() reconciler.Observation) (o reconciler.Observation) {
	l.t.Helper()
	l.await("the end of "+l.Verb, func() bool {
		o = turn()
		return o.Seen == reconciler.Succeeded || o.Seen == reconciler.Broken
	})
	if o.Seen != reconciler.Succeeded {
		l.t.Fatalf("%s: %s: %s", l.Verb, o.Reason, o.Message)
	}
	return o
}

func (l *bedLab) pods(on *kube.Cluster, namespace, selector string) []corev1.Pod {
	l.t.Helper()
	p, err := on.Kube.CoreV1().Pods(namespace).List(l.t.Context(), metav1.ListOptions{LabelSelector: selector})
	l.must(err)
	return p.Items
}

const appYAML = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, labels: {app: web}, annotations: {team: a}}
spec: {accessModes: [ReadWriteOnce], storageClassName: %[1]s, resources: {requests: {storage: 2Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: web
        image: localhost/bed/busybox:1
        command: [/bin/sh, -c, "trap 'exit 0' TERM; exec 3>/data/open 2>/dev/null; while true; do sleep 1; done"]
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`

// app starts the application and fills its volume from outside.
func (l *bedLab) app(class string, fill func(dir string)) string {
	l.t.Helper()
	bedtest.Put(l.t, l.Source, l.from, fmt.Sprintf(appYAML, class))
	l.await("running application", func() bool { return l.running() != nil })
	l.must(os.Chmod(l.path(l.Source, l.from, "data"), 0o777))
	dir := l.started(time.Time{})
	fill(dir)
	return dir
}

// started waits until the application runs and has made the file that it keeps
// open, at a later time than that of one before it, and returns its folder.
func (l *bedLab) started(later time.Time) (dir string) {
	l.t.Helper()
	l.await("the running application's open file", func() bool {
		if l.running() == nil {
			return false
		}
		dir = l.path(l.Source, l.from, "data")
		i, err := os.Stat(dir + "/open")
		return err == nil && i.ModTime().After(later)
	})
	return dir
}

func (l *bedLab) running() *corev1.Pod {
	for _, p := range l.pods(l.Source, l.from, "app=web") {
		if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil && p.Status.ContainerStatuses[0].Ready {
			return &p
		}
	}
	return nil
}

func (l *bedLab) scale(n int) {
	l.t.Helper()
	_, err := l.Source.Kube.AppsV1().Deployments(l.from).Patch(l.t.Context(), "web", types.MergePatchType, []byte(fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)), metav1.PatchOptions{})
	l.must(err)
	if n == 0 {
		l.await("end of the application", func() bool { return len(l.pods(l.Source, l.from, "app=web")) == 0 })
	}
}

func (l *bedLab) random(file string, size int64) {
	l.t.Helper()
	l.must(exec.Command("sh", "-c", fmt.Sprintf("mkdir -p %s && head -c %d /dev/urandom > %s && chown 1000:1000 %s", filepath.Dir(file), size, file, file)).Run())
}

// A whole migration of the data of one Deployment: 100 MB in 200 files, a live
// copy, a second one, the last one after the stop, the hand-over, and back.
func TestBedMigrateAndBack(t *testing.T) {
	l := newBedLab(t)
	src := l.app("bed-shared", func(dir string) {
		for i := range 200 {
			l.random(fmt.Sprintf("%s/d%d/f%d", dir, i%10, i), 500_000)
		}
		l.must(os.Symlink("f0", dir+"/d0/link"))
	})
	time.Sleep(6 * time.Second) // a change time younger than the margin proves nothing
	l.step("upload", "mover.upload", 1)
	l.step("claims", "mover.claims", 1)
	l.step("restore-volumes", "mover.restore", 1)
	v := &l.Run.Facts.Volumes[0]
	l.equal(src, l.path(l.Target, l.Settings.Namespace, v.StagingClaim))

	l.scale(0)
	l.random(src+"/d0/f0", 500_000)
	l.must(os.Remove(src + "/d1/f1"))
	l.must(os.Chmod(src+"/d2/f2", 0o640))
	up := l.step("last-upload", "mover.upload", 1)
	down := l.step("last-restore", "mover.restore", 1)
	over := l.step("hand-over", "mover.hand-over", 1)
	t.Logf("after the stop: upload %.2f s + restore %.2f s + hand-over %.2f s", up.Seconds(), down.Seconds(), over.Seconds())
	if v := l.Run.Facts.Volumes[0]; v.ChangedBytes > 1_000_000 {
		t.Errorf("the last upload read %d bytes", v.ChangedBytes)
	}
	l.step("live", "mover.live", 1)
	l.equal(src, l.path(l.Target, l.to, "data"))
	c, err := l.Target.Kube.CoreV1().PersistentVolumeClaims(l.to).Get(t.Context(), "data", metav1.GetOptions{})
	l.must(err)
	if c.Labels["app"] != "web" || c.Annotations["team"] != "a" {
		t.Errorf("labels %v, annotations %v", c.Labels, c.Annotations)
	}
	// A live claim is refused, whatever is asked.
	l.Run.Facts.Volumes[0].Snapshot = "another"
	if o := bedtest.Drive(t, l.Env, Verbs(), "restore-volumes", "mover.restore", 9); o.Reason != "LiveClaim" || !o.Final {
		t.Errorf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
	l.random(l.path(l.Target, l.to, "data")+"/written-on-the-target", 1000)
	l.step("hand-over", "mover.hand-back", 1)
	before, err := os.Stat(src + "/open")
	l.must(err)
	l.scale(1)
	l.started(before.ModTime())
	l.step("upload", "mover.upload", 2)
	l.step("restore-volumes", "mover.restore", 2) // of a dirty claim: compares every file
	l.equal(src, l.path(l.Target, l.Settings.Namespace, v.StagingClaim))
	l.Run.Spec.Kind = spec.RunClose
	l.step("policies", "mover.policies", 1)
	l.step("claims", "mover.close-claims", 1)
}

// largeAndSlow is an application with a file whose reading takes longer than
// anything that happens to its pod meanwhile. It returns once a reader is at it;
// later ones are as fast as they can.
func (l *bedLab) largeAndSlow() (turn func() reconciler.Observation) {
	l.t.Helper()
	l.app("bed-shared", func(dir string) { l.random(dir+"/big", 300<<20) })
	l.Settings.Mover.BytesPerSecond = "256Ki"
	turn = l.upload()
	l.await("reader at work", func() bool {
		if o := turn(); o.Seen == reconciler.Succeeded || o.Seen == reconciler.Broken {
			l.t.Fatalf("the upload has ended: %s: %s", o.Reason, o.Message)
		}
		p := l.pods(l.Source, l.Settings.Namespace, l.component(ComponentReader))
		return len(p) > 0 && p[0].Status.Phase == corev1.PodRunning
	})
	l.Settings.Mover.BytesPerSecond = "" // for the reader that comes after this one
	return turn
}

func (l *bedLab) component(name string) string {
	return kube.LabelPlan + "=" + kube.Short(l.Run.Spec.Plan) + "," + LabelComponent + "=" + name
}

// While a large file is read, the application moves to the other node: holder
// and reader leave in the middle of it, and the copy is made afterwards.
func TestBedMakesWay(t *testing.T) {
	l := newBedLab(t)
	turn := l.largeAndSlow()
	was := l.running().Spec.NodeName
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"NotIn","values":[%q]}]}]}}}}}}}`, was)
	_, err := l.Source.Kube.AppsV1().Deployments(l.from).Patch(t.Context(), "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	l.must(err)
	l.await("scheduled pod on the other node", func() bool {
		for _, p := range l.pods(l.Source, l.from, "app=web") {
			if p.Spec.NodeName != "" && p.Spec.NodeName != was {
				return true
			}
		}
		return false
	})
	made := turn()
	left := l.await("node without our pods", func() bool {
		if o := turn(); o.Seen == reconciler.Succeeded || o.Seen == reconciler.Broken {
			t.Fatalf("the upload ended where it had to make way: %s: %s", o.Reason, o.Message)
		}
		for _, p := range append(l.pods(l.Source, l.from, l.component(ComponentHolder)), l.pods(l.Source, l.Settings.Namespace, l.component(ComponentReader))...) {
			if p.Spec.NodeName == was {
				return false
			}
		}
		return true
	})
	// It was the very first look that let go.
	if made.Seen != reconciler.Absent || made.Reason != "MadeWay" {
		t.Errorf("the pod was there, and the look said %d %s: %s", made.Seen, made.Reason, made.Message)
	}
	ran := l.await("running application", func() bool { turn(); return l.running() != nil })
	t.Logf("made way in %.1f s; the application ran %.1f s later", left.Seconds(), ran.Seconds())
	if o := l.succeeds(turn); o.Facts.Volumes[0].Files != 2 {
		t.Errorf("%d files", o.Facts.Volumes[0].Files)
	}
}

// A file that we read does not keep the application's pod from ending, and a
// reader that is killed with its file open leaves no mount behind.
func TestBedOpenFileDoesNotBlock(t *testing.T) {
	l := newBedLab(t)
	turn := l.largeAndSlow()
	began := time.Now()
	l.scale(0)
	t.Logf("the application's pod was gone after %.1f s, with our reader on the volume", time.Since(began).Seconds())
	readers := l.pods(l.Source, l.Settings.Namespace, l.component(ComponentReader))
	if len(readers) != 1 || readers[0].Status.Phase != corev1.PodRunning {
		t.Fatalf("the reader does not run any more, so that nothing was shown: %+v", readers)
	}
	background := metav1.DeletePropagationBackground
	l.must(l.Source.Kube.BatchV1().Jobs(l.Settings.Namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{LabelSelector: l.component(ComponentReader)}))
	l.await("end of the reader", func() bool {
		return len(l.pods(l.Source, l.Settings.Namespace, l.component(ComponentReader))) == 0
	})
	l.succeeds(turn)
}

// What an application's namespace and our objects show to whoever may read them.
func TestBedShowsNoSecret(t *testing.T) {
	l := newBedLab(t)
	l.app("bed-node", func(dir string) { l.random(dir+"/f", 1000) })
	secret, err := l.Secrets.Read(t.Context(), spec.SecretRef{From: "s3"}, "secretKey")
	l.must(err)
	turn := l.upload()
	l.await("end of the upload", func() bool {
		o := turn()
		for _, p := range l.pods(l.Source, l.from, LabelComponent+"="+ComponentHolder) {
			if len(p.Spec.Volumes) != 1 || p.Spec.Volumes[0].PersistentVolumeClaim == nil || len(p.Spec.Containers[0].Env)+len(p.Spec.Containers[0].EnvFrom) > 0 || len(p.Spec.ImagePullSecrets) > 0 {
				t.Fatalf("the holder has more than its claim: %+v", p.Spec)
			}
		}
		for _, list := range []func() (any, error){
			func() (any, error) { return l.Source.Kube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}) },
			func() (any, error) {
				return l.Source.Kube.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
			},
			func() (any, error) {
				return l.Source.Kube.BatchV1().Jobs("").List(t.Context(), metav1.ListOptions{})
			},
			func() (any, error) {
				return l.Source.Kube.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
			},
		} {
			objects, err := list()
			l.must(err)
			raw, err := json.Marshal(objects)
			l.must(err)
			if strings.Contains(string(raw), strings.TrimSpace(string(secret))) || strings.Contains(string(raw), "for-the-test") {
				t.Fatal("a secret value shows")
			}
		}
		return o.Seen == reconciler.Succeeded
	})
}
