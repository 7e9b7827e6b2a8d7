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

func (l *bedLab) await(what string, patience time.Duration, ok func() bool) time.Duration {
	l.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > patience {
			l.t.Fatalf("no %s after %s", what, patience)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(began)
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
	l.await("running application", time.Minute, func() bool { return l.running() != nil })
	dir := l.path(l.Source, l.from, "data")
	l.must(os.Chmod(dir, 0o777))
	fill(dir)
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
		l.await("end of the application", 30*time.Second, func() bool { return len(l.pods(l.Source, l.from, "app=web")) == 0 })
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
	l.scale(1)
	l.await("running application", time.Minute, func() bool { return l.running() != nil })
	l.step("upload", "mover.upload", 2)
	l.step("restore-volumes", "mover.restore", 2) // of a dirty claim: compares every file
	l.equal(src, l.path(l.Target, l.Settings.Namespace, v.StagingClaim))
	l.Run.Spec.Kind = spec.RunClose
	l.step("policies", "mover.policies", 1)
	l.step("claims", "mover.close-claims", 1)
}

// While a large file is read, the application moves to the other node: holder
// and reader are gone within ten seconds, and the copy is made afterwards.
func TestBedMakesWay(t *testing.T) {
	l := newBedLab(t)
	src := l.app("bed-shared", func(dir string) {
		for i := range 4 {
			l.random(fmt.Sprintf("%s/big%d", dir, i), 400<<20)
		}
	})
	was := l.running().Spec.NodeName
	result := make(chan reconciler.Observation, 1)
	e := *l.Env
	go func() { result <- bedtest.Drive(t, &e, Verbs(), "upload", "mover.upload", 1) }()
	reader := kube.LabelPlan + "=" + kube.Short(l.Run.Spec.Plan) + "," + LabelComponent + "=" + ComponentReader
	l.await("reader", time.Minute, func() bool {
		p := l.pods(l.Source, l.Settings.Namespace, reader)
		return len(p) > 0 && p[0].Status.Phase == corev1.PodRunning
	})
	time.Sleep(time.Second)
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"NotIn","values":[%q]}]}]}}}}}}}`, was)
	_, err := l.Source.Kube.AppsV1().Deployments(l.from).Patch(t.Context(), "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	l.must(err)
	l.await("scheduled pod on the other node", time.Minute, func() bool {
		for _, p := range l.pods(l.Source, l.from, "app=web") {
			if p.Spec.NodeName != "" && p.Spec.NodeName != was {
				return true
			}
		}
		return false
	})
	holder := kube.LabelPlan + "=" + kube.Short(l.Run.Spec.Plan) + "," + LabelComponent + "=" + ComponentHolder
	left := l.await("node without our pods", 30*time.Second, func() bool {
		for _, p := range append(l.pods(l.Source, l.from, holder), l.pods(l.Source, l.Settings.Namespace, reader)...) {
			if p.Spec.NodeName == was {
				return false
			}
		}
		return true
	})
	ran := l.await("running application", time.Minute, func() bool { return l.running() != nil })
	t.Logf("made way in %.1f s; the application ran %.1f s later", left.Seconds(), ran.Seconds())
	if left > 10*time.Second {
		t.Errorf("made way in %s, want 10 s", left)
	}
	o := <-result
	if o.Seen != reconciler.Succeeded || o.Facts.Volumes[0].Files != 5 {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
	_ = src
}

// A file that we read does not keep the application's pod from ending, and a
// reader that is killed with its file open leaves no mount behind.
func TestBedOpenFileDoesNotBlock(t *testing.T) {
	l := newBedLab(t)
	l.app("bed-shared", func(dir string) {
		for i := range 3 {
			l.random(fmt.Sprintf("%s/big%d", dir, i), 400<<20)
		}
	})
	result := make(chan reconciler.Observation, 1)
	e := *l.Env
	go func() { result <- bedtest.Drive(t, &e, Verbs(), "upload", "mover.upload", 1) }()
	reader := kube.LabelPlan + "=" + kube.Short(l.Run.Spec.Plan) + "," + LabelComponent + "=" + ComponentReader
	l.await("reader", time.Minute, func() bool {
		p := l.pods(l.Source, l.Settings.Namespace, reader)
		return len(p) > 0 && p[0].Status.Phase == corev1.PodRunning
	})
	began := time.Now()
	l.scale(0)
	t.Logf("the application's pod was gone after %.1f s, with our reader on the volume", time.Since(began).Seconds())
	if n := len(l.pods(l.Source, l.Settings.Namespace, reader)); n == 0 {
		t.Error("the reader was not there any more: nothing was shown")
	}
	if o := <-result; o.Seen != reconciler.Succeeded {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
}

// What an application's namespace and our objects show to whoever may read them.
func TestBedShowsNoSecret(t *testing.T) {
	l := newBedLab(t)
	l.app("bed-node", func(dir string) { l.random(dir+"/f", 1000) })
	secret, err := l.Secrets.Read(t.Context(), spec.SecretRef{From: "s3"}, "secretKey")
	l.must(err)
	e := *l.Env
	e.Step = spec.Step{Name: "upload", Verb: "mover.upload", Attempt: 1}
	for range 40 {
		o, err := Verbs()["mover.upload"].Look(t.Context(), &e)
		l.must(err)
		if o.Seen == reconciler.Absent {
			l.must(Verbs()["mover.upload"].Ensure(t.Context(), &e))
		}
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
		if o.Seen == reconciler.Succeeded {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatal("the upload does not end")
}
