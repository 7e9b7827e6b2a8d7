package mover

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// directWorld is two clusters whose plan wants claim data sent directly; sent is
// what becomes of it on the source, got on the target.
type directWorld struct {
	source, target *world
	e              *kube.Env
	requests       []engine.Request // of senders
	sent, got      engine.Result
	began          []string // marks of the claim when a sender began
}

func newDirectWorld(t testing.TB) *directWorld {
	source, e := runningWorld(t, corev1.ReadWriteOnce, appPod("web-0", "node-1", corev1.PodRunning))
	d := &directWorld{source: source, target: e.Target.Kube.(*world), e: e}
	e.Plan().Volumes.Defaults.Transfer = transferDirect
	d.target.job = writesAll
	source.job = func(w *world, j *batchv1.Job, r engine.Request) engine.Result {
		if r.Op != engine.OpSend {
			return writesAll(w, j, r)
		}
		d.requests = append(d.requests, r)
		d.began = append(d.began, d.mark())
		d.receiversEnd()
		return d.sent
	}
	whole := engine.Result{Volumes: []engine.VolumeResult{{Name: "shop/data", Snapshot: "s1", Files: 3, Bytes: 30, ReadBytes: 20}}}
	d.sent, d.got = whole, whole
	want(t, drive(t, at(e, "direct-claims", "mover.claims")), reconciler.Succeeded)
	d.target.writes = 0
	at(e, "direct", "mover.direct")
	return d
}

func (d *directWorld) mark() string {
	return d.target.claim(ourNamespace, stagingName(d.e, &spec.Volume{Namespace: "shop", Claim: "data"})).Annotations[kube.AnnotationMark]
}

// receiversEnd ends the receivers as their sender does.
func (d *directWorld) receiversEnd() {
	l, err := d.target.Tracker().List(podResource, corev1.SchemeGroupVersion.WithKind("Pod"), ourNamespace)
	if err != nil {
		d.target.t.Fatal(err)
	}
	for _, p := range l.(*corev1.PodList).Items {
		if p.Status.Phase == corev1.PodRunning && d.got.Volumes != nil {
			d.target.play(&p, d.got)
			d.target.stamp(&p)
			if err := d.target.Tracker().Update(podResource, &p, ourNamespace); err != nil {
				d.target.t.Fatal(err)
			}
		}
	}
}

func secretsOf(t testing.TB, w *world) int {
	t.Helper()
	l, err := w.CoreV1().Secrets(ourNamespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(l.Items)
}

// Killed at any call on either side, the transfer ends with one clean claim and
// no key left behind; a sender only ever begins when the claim is marked.
func TestDirectKilledAtEveryCall(t *testing.T) {
	for _, side := range []string{"source", "target"} {
		for _, late := range []bool{false, true} {
			n := 1
			for i := 0; i <= n; i++ {
				d := newDirectWorld(t)
				w := map[string]*world{"source": d.source, "target": d.target}[side]
				w.killAt, w.late = w.writes+i, late
				o := drive(t, d.e)
				want(t, o, reconciler.Succeeded)
				n = max(n, w.writes)
				v := o.Facts.Volumes[0]
				if d.mark() != "clean s1" || v.Snapshot != "s1" || v.Transfer != transferDirect || v.Files != 3 || v.ChangedBytes != 20 {
					t.Fatalf("%s killed at %d (late %t): mark %q, %+v", side, i, late, d.mark(), v)
				}
				if secretsOf(t, d.source)+secretsOf(t, d.target) != 0 {
					t.Fatalf("%s killed at %d (late %t): keys are left", side, i, late)
				}
				for _, m := range d.began {
					if !strings.HasPrefix(m, "writing -→direct-") {
						t.Fatalf("a sender began while the claim was marked %q", m)
					}
				}
			}
		}
	}
}

// The sender gets the receiver's address, and begins with what the claim holds.
func TestDirectOrders(t *testing.T) {
	for name, c := range map[string]struct {
		mark    string
		step    string
		parent  string
		content bool
	}{
		"a new claim":      {"", "direct", "", false},
		"a clean one":      {"clean s0", stepLastDirect, "s0", false},
		"one half written": {"writing s0→s9", "direct", "", true},
		"a dirty one":      {"dirty", "direct", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectWorld(t)
			claim := d.target.claim(ourNamespace, stagingName(d.e, &spec.Volume{Namespace: "shop", Claim: "data"}))
			claim.Annotations[kube.AnnotationMark] = c.mark
			d.target.put(claim)
			want(t, drive(t, at(d.e, c.step, "mover.direct")), reconciler.Succeeded)
			v := d.requests[0].Volumes[0]
			if v.Peer != "10.0.0.1:7443" || v.Parent != c.parent || v.Content != c.content || d.requests[0].Live == (c.step == stepLastDirect) {
				t.Fatalf("%+v", d.requests[0])
			}
		})
	}
}

// A copy that was read back and differs is not believed, and is compared by
// content the next time.
func TestDirectVerifies(t *testing.T) {
	d := newDirectWorld(t)
	d.e.Plan().Volumes.Defaults.Verify = true
	whole := d.got
	d.got = engine.Result{Volumes: []engine.VolumeResult{{Name: "shop/data", Snapshot: "s1", Verified: &engine.Verified{Complete: true, Errors: 1, First: []string{"a differs"}}}}}
	o := drive(t, d.e)
	if o.Seen != reconciler.Broken || o.Reason != reasonVerifyErrors || strings.HasPrefix(d.mark(), "clean") {
		t.Fatalf("%d %s: %s, mark %q", o.Seen, o.Reason, o.Message, d.mark())
	}
	d.e.Run.Facts.Volumes = o.Facts.Volumes
	d.e.Step.Attempt = 2
	d.got = whole
	d.got.Volumes[0].Verified = &engine.Verified{Complete: true, Files: 3}
	o = drive(t, d.e)
	want(t, o, reconciler.Succeeded)
	if !d.requests[1].Volumes[0].Content || o.Facts.Volumes[0].Verified == nil || !o.Facts.Volumes[0].Verified.Complete {
		t.Fatalf("%+v", d.requests[1])
	}
	want(t, drive(t, at(d.e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
}

// What fails is tried again or given to the repository, with the reason.
func TestDirectFallsBack(t *testing.T) {
	failed := func(r engine.Reason) engine.Result {
		return engine.Result{Reason: r, Error: "what happened", Volumes: []engine.VolumeResult{{Name: "shop/data"}}}
	}
	for name, c := range map[string]struct {
		sent, got engine.Result
		attempt   int
		seen      reconciler.Seen
		reason    string // of the observation
		fell      string // the beginning of the recorded reason
	}{
		"nobody there":               {failed(engine.ReasonDirectUnreachable), engine.Result{}, 1, reconciler.Succeeded, "", "DirectUnreachable: "},
		"a stranger there":           {failed(engine.ReasonDirectUntrusted), engine.Result{}, 1, reconciler.Succeeded, "", "DirectUntrusted: "},
		"a broken connection":        {failed(engine.ReasonDirectBroken), failed(engine.ReasonDirectBroken), 1, reconciler.Broken, "DirectBroken", ""},
		"a second broken connection": {failed(engine.ReasonDirectBroken), failed(engine.ReasonDirectBroken), 2, reconciler.Succeeded, "", "DirectBroken: "},
		"a full claim":               {failed(engine.ReasonDirectBroken), failed(engine.ReasonNoSpace), 1, reconciler.Succeeded, "", "NoSpace: "},
		"a source that moves":        {failed(engine.ReasonSourceChanged), failed(engine.ReasonDirectBroken), 2, reconciler.Broken, "SourceChanged", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectWorld(t)
			d.e.Step.Attempt = c.attempt
			d.sent, d.got = c.sent, c.got
			o := drive(t, d.e)
			if o.Seen != c.seen || o.Reason != c.reason || o.Final {
				t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
			}
			if secretsOf(t, d.source)+secretsOf(t, d.target) != 0 {
				t.Error("keys are left")
			}
			if c.fell == "" {
				return
			}
			if v := o.Facts.Volumes[0]; v.Transfer != transferRepository || !strings.HasPrefix(v.TransferReason, c.fell) {
				t.Fatalf("%+v", v)
			}
			want(t, drive(t, at(d.e, "upload", "mover.upload")), reconciler.Succeeded)
			want(t, drive(t, at(d.e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
			if !strings.HasPrefix(d.mark(), "clean snap-") {
				t.Fatalf("the claim is marked %q", d.mark())
			}
			want(t, drive(t, at(d.e, stepLastDirect, "mover.direct")), reconciler.Succeeded)
			if len(d.requests) != 1 {
				t.Fatalf("%d senders were started", len(d.requests))
			}
		})
	}
}

// A Service that gets no address is no way.
func TestDirectWithoutAnAddress(t *testing.T) {
	d := newDirectWorld(t)
	d.e.Settings.Mover.Receiver = spec.ReceiverLoadBalancer
	o := drive(t, d.e)
	if o.Seen != reconciler.Working || o.Reason != "ReceiverAddress" {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
	services := d.target.CoreV1().Services(ourNamespace)
	l, err := services.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(l.Items) != 1 {
		t.Fatalf("%d Services, %v", len(l.Items), err)
	}
	s := &l.Items[0]
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
	if got := balanced(s); got != "lb.example.com:7443" {
		t.Errorf("address %q", got)
	}
	s.Status.LoadBalancer.Ingress = nil
	s.CreationTimestamp = metav1.NewTime(time.Now().Add(-2 * wayPatience))
	if err := d.target.Tracker().Update(corev1.SchemeGroupVersion.WithResource("services"), s, ourNamespace); err != nil {
		t.Fatal(err)
	}
	o = drive(t, d.e)
	if o.Seen != reconciler.Succeeded || !strings.HasPrefix(o.Facts.Volumes[0].TransferReason, "DirectUnreachable: ") || len(d.requests) != 0 {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
	want(t, drive(t, at(d.e, "clean-up-movers", "mover.clean-up")), reconciler.Succeeded)
	if l, err = services.List(t.Context(), metav1.ListOptions{}); err != nil || len(l.Items) != 0 {
		t.Errorf("%d Services are left, %v", len(l.Items), err)
	}
}

// A node's address is its external one, if it has one.
func TestOnNodePort(t *testing.T) {
	s := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{NodePort: 30001}}}}
	n := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "fd00::1"}}}}
	if got := onNodePort(s, n); got != "[fd00::1]:30001" {
		t.Errorf("%q", got)
	}
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "192.0.2.7"})
	if got := onNodePort(s, n); got != "192.0.2.7:30001" {
		t.Errorf("%q", got)
	}
}
