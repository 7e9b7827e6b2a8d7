package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

// world is a cluster in memory that behaves like one where the mover relies on
// it: UID and resourceVersion preconditions, the binding and reclaiming of
// volumes, and Jobs that run at once. It can kill its caller at any write.
type world struct {
	*fake.Clientset
	t        testing.TB
	writes   int
	killAt   int  // 0: never
	late     bool // kill after the effect instead of before
	serial   int
	job      func(w *world, j *batchv1.Job, r engine.Request) engine.Result // what a Job does; nil leaves it running
	deaf     bool                                                           // movers that stand by cannot be told
	loses    bool                                                           // the volume controller binds a volume and leaves its claim Pending until it changes
	lostAt   map[string]bool                                                // the versions of such claims
	schedule string                                                         // the node of every pod that is created
	lost     []string                                                       // volumes deleted with their data
	stolen   []string                                                       // volumes that were anybody's for a moment
	reaction k8stesting.ReactionFunc
}

var errKilled = errors.New("killed")

func newWorld(t testing.TB, objects ...runtime.Object) *world {
	w := &world{Clientset: fake.NewSimpleClientset(), t: t, lostAt: map[string]bool{}}
	w.reaction = k8stesting.ObjectReaction(w.Tracker())
	for _, o := range objects {
		w.add(o)
	}
	w.PrependReactor("*", "*", w.react)
	return w
}

// add puts an object of any kind there.
func (w *world) add(o runtime.Object) {
	w.stamp(o)
	if err := w.Tracker().Add(o); err != nil {
		w.t.Fatal(err)
	}
}

// stamp gives an object what an API server gives it.
func (w *world) stamp(o runtime.Object) {
	m, err := meta.Accessor(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.serial++
	m.SetResourceVersion(strconv.Itoa(w.serial))
	if created := m.GetCreationTimestamp(); created.IsZero() {
		m.SetCreationTimestamp(metav1.Now())
	}
	if m.GetUID() == "" {
		m.SetUID(types.UID(fmt.Sprintf("uid-%d", w.serial)))
	}
}

func (w *world) react(a k8stesting.Action) (bool, runtime.Object, error) {
	switch a.GetVerb() {
	case "get", "list", "watch":
		return false, nil, nil
	}
	w.writes++
	if w.writes == w.killAt && !w.late {
		return true, nil, errKilled
	}
	o, err := w.write(a)
	if err == nil {
		w.settle()
	}
	if w.writes == w.killAt && err == nil {
		return true, nil, errKilled
	}
	return true, o, err
}

func (w *world) write(a k8stesting.Action) (runtime.Object, error) {
	gvr, ns := a.GetResource(), a.GetNamespace()
	switch a := a.(type) {
	case k8stesting.CreateAction:
		w.stamp(a.GetObject())
		if j, ok := a.GetObject().(*batchv1.Job); ok {
			return w.createJob(a, j)
		}
		if c, ok := a.GetObject().(*corev1.PersistentVolumeClaim); ok {
			c.Status.Phase = corev1.ClaimPending
		}
		if p, ok := a.GetObject().(*corev1.Pod); ok && w.schedule != "" {
			p.Spec.NodeName, p.Status.Phase = w.schedule, corev1.PodRunning
		}
	case k8stesting.PatchAction:
		have, err := w.Tracker().Get(gvr, ns, a.GetName())
		if err != nil {
			return nil, err
		}
		if err := w.preconditions(have, a.GetPatch()); err != nil {
			return nil, err
		}
		_, o, err := w.reaction(a)
		if err != nil {
			return nil, err
		}
		w.stamp(o)
		return o, w.Tracker().Update(gvr, o, ns)
	case k8stesting.DeleteActionImpl:
		have, err := w.Tracker().Get(gvr, ns, a.GetName())
		if err != nil {
			return nil, err
		}
		m, _ := meta.Accessor(have)
		if p := a.DeleteOptions.Preconditions; p != nil && p.UID != nil && *p.UID != m.GetUID() {
			return nil, apierrors.NewConflict(gvr.GroupResource(), a.GetName(), errors.New("uid"))
		}
		if c, ok := have.(*corev1.PersistentVolumeClaim); ok && w.named(c) {
			c.DeletionTimestamp = ptr.To(metav1.Now())
			w.put(c)
			return nil, nil
		}
		if j, ok := have.(*batchv1.Job); ok {
			_ = w.Tracker().Delete(podResource, j.Namespace, j.Name+"-pod")
		}
	}
	_, o, err := w.reaction(a)
	return o, err
}

func (w *world) preconditions(have runtime.Object, patch []byte) error {
	var p struct {
		Metadata struct {
			UID             types.UID `json:"uid"`
			ResourceVersion string    `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(patch, &p); err != nil {
		return err
	}
	m, _ := meta.Accessor(have)
	if p.Metadata.UID != m.GetUID() || p.Metadata.ResourceVersion != m.GetResourceVersion() {
		return apierrors.NewConflict(corev1.Resource("object"), m.GetName(), fmt.Errorf("patched version %s of %s, it is %s of %s", p.Metadata.ResourceVersion, p.Metadata.UID, m.GetResourceVersion(), m.GetUID()))
	}
	return nil
}

// createJob keeps the Job and plays its pod, unless nobody said how.
func (w *world) createJob(a k8stesting.CreateAction, j *batchv1.Job) (runtime.Object, error) {
	_, o, err := w.reaction(a)
	if err != nil || w.job == nil {
		return o, err
	}
	w.bindWaiting(j)
	p := &corev1.Pod{ObjectMeta: *j.Spec.Template.ObjectMeta.DeepCopy(), Spec: j.Spec.Template.Spec}
	p.Namespace, p.Name = j.Namespace, j.Name+"-pod"
	p.Labels[batchv1.JobNameLabel] = j.Name
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: j.Name, UID: j.UID, Controller: ptr.To(true)}}
	p.Spec.NodeName, p.Status.Phase = "node-1", corev1.PodRunning
	p.Status.PodIP = "10.0.0.1"
	if a := assignmentOf(w, j); !a.StandBy && a.Request.Op != engine.OpReceive { // a receiver ends when its sender does
		w.play(p, w.job(w, j, a.Request))
	}
	w.stamp(p)
	return o, w.Tracker().Add(p)
}

// play ends a mover's pod with a result.
func (w *world) play(p *corev1.Pod, res engine.Result) {
	message, _ := json.Marshal(Report{Done: true, Result: res})
	code, phase := int32(0), corev1.PodSucceeded
	if res.Error != "" {
		code, phase = 1, corev1.PodFailed
	}
	p.Status.Phase = phase
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: workContainer, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: string(message)}}}}
}

// exec is a mover that stands by being told; a kill comes before or after.
func (w *world) exec(_ context.Context, p *corev1.Pod, _ string, _ []string, input []byte) ([]byte, error) {
	w.writes++
	if w.deaf {
		return nil, errors.New("no mover stands by here")
	}
	if w.writes == w.killAt && !w.late {
		return nil, errKilled
	}
	var req engine.Request
	if err := json.Unmarshal(input, &req); err != nil {
		w.t.Fatal(err)
	}
	o, err := w.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), p.Namespace, p.Name)
	if err != nil {
		return nil, err
	}
	job, err := w.Tracker().Get(batchv1.SchemeGroupVersion.WithResource("jobs"), p.Namespace, p.Labels[batchv1.JobNameLabel])
	if err != nil {
		return nil, err
	}
	pod := o.(*corev1.Pod)
	w.play(pod, w.job(w, job.(*batchv1.Job), req))
	w.stamp(pod)
	if err := w.Tracker().Update(podResource, pod, pod.Namespace); err != nil {
		return nil, err
	}
	if w.writes == w.killAt {
		return nil, errKilled
	}
	return nil, nil
}

// bindWaiting makes volumes for the claims that a Job mounts first.
func (w *world) bindWaiting(j *batchv1.Job) {
	for _, v := range j.Spec.Template.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			continue
		}
		c := w.claim(j.Namespace, v.PersistentVolumeClaim.ClaimName)
		if c == nil || c.Spec.VolumeName != "" {
			continue
		}
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(c.UID)}, Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi", VolumeHandle: "handle-" + string(c.UID)}},
			ClaimRef:                      &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name, UID: c.UID},
		}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}}
		w.put(pv)
		c.Spec.VolumeName, c.Status.Phase = pv.Name, corev1.ClaimBound
		w.put(c)
	}
}

func (w *world) put(o runtime.Object) {
	w.stamp(o)
	m, _ := meta.Accessor(o)
	gvr := claimResource
	if _, ok := o.(*corev1.PersistentVolume); ok {
		gvr = volumeResource
	}
	if _, err := w.Tracker().Get(gvr, m.GetNamespace(), m.GetName()); apierrors.IsNotFound(err) {
		err = w.Tracker().Add(o)
		if err != nil {
			w.t.Fatal(err)
		}
		return
	}
	if err := w.Tracker().Update(gvr, o, m.GetNamespace()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) claim(ns, name string) *corev1.PersistentVolumeClaim {
	o, err := w.Tracker().Get(claimResource, ns, name)
	if err != nil {
		return nil
	}
	return o.(*corev1.PersistentVolumeClaim)
}

func (w *world) volume(name string) *corev1.PersistentVolume {
	o, err := w.Tracker().Get(volumeResource, "", name)
	if err != nil {
		return nil
	}
	return o.(*corev1.PersistentVolume)
}

// named says that a pod, ended or not, keeps a claim from going.
func (w *world) named(c *corev1.PersistentVolumeClaim) bool {
	o, err := w.Tracker().List(podResource, corev1.SchemeGroupVersion.WithKind("Pod"), c.Namespace)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range o.(*corev1.PodList).Items {
		if namesClaim(&o.(*corev1.PodList).Items[i], c.Name) {
			return true
		}
	}
	return false
}

// protect lets claims go that are being deleted and that no pod names any more.
func (w *world) protect() {
	o, err := w.Tracker().List(claimResource, corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"), "")
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range o.(*corev1.PersistentVolumeClaimList).Items {
		c := &o.(*corev1.PersistentVolumeClaimList).Items[i]
		if c.DeletionTimestamp != nil && !w.named(c) {
			if err := w.Tracker().Delete(claimResource, c.Namespace, c.Name); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// settle is the volume controller: it binds, releases and reclaims.
func (w *world) settle() {
	w.protect()
	o, err := w.Tracker().List(volumeResource, corev1.SchemeGroupVersion.WithKind("PersistentVolume"), "")
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range o.(*corev1.PersistentVolumeList).Items {
		pv := &o.(*corev1.PersistentVolumeList).Items[i]
		r := pv.Spec.ClaimRef
		if r == nil {
			w.stolen = append(w.stolen, pv.Name)
			continue
		}
		c := w.claim(r.Namespace, r.Name)
		switch {
		case c != nil && (r.UID == "" || r.UID == c.UID):
			if w.loses && c.Spec.VolumeName == pv.Name && pv.Status.Phase != corev1.VolumeBound {
				r.UID, pv.Status.Phase = c.UID, corev1.VolumeBound
				w.put(pv)
				w.lostAt[c.ResourceVersion] = true
				continue
			}
			if c.Spec.VolumeName == pv.Name && c.Status.Phase != corev1.ClaimBound && !w.lostAt[c.ResourceVersion] {
				r.UID, pv.Status.Phase, c.Status.Phase = c.UID, corev1.VolumeBound, corev1.ClaimBound
				w.put(pv)
				w.put(c)
			}
		case r.UID == "":
			if pv.Status.Phase != corev1.VolumeAvailable {
				pv.Status.Phase = corev1.VolumeAvailable
				w.put(pv)
			}
		case pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
			w.lost = append(w.lost, pv.Name)
			if err := w.Tracker().Delete(volumeResource, "", pv.Name); err != nil {
				w.t.Fatal(err)
			}
		default:
			if pv.Status.Phase != corev1.VolumeReleased {
				pv.Status.Phase = corev1.VolumeReleased
				w.put(pv)
			}
		}
	}
}

const ourNamespace = "tranship-system"

func cluster(side spec.Side, name string, w *world) *kube.Cluster {
	scheme := runtime.NewScheme()
	_ = corev1.AddToScheme(scheme)
	dynamic := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(scheme, map[schema.GroupVersionResource]string{
		uploadResource: "DataUploadList", downloadResource: "DataDownloadList", snapshotResource: "VolumeSnapshotList", snapshotClassResource: "VolumeSnapshotClassList",
		backupResource: "BackupList", restoreResource: "RestoreList", statusRequestResource: "ServerStatusRequestList", snapshotLocationResource: "VolumeSnapshotLocationList", configMapResource: "ConfigMapList",
	})
	return &kube.Cluster{Side: side, Name: name, Kube: w, Exec: w.exec, Dynamic: dynamic, VeleroNamespace: "velero"}
}

// testEnv is a call of a cutover of plan shop, at a step.
func testEnv(source, target *world, step, verb string) *kube.Env {
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: 1}}
	p := &run.Spec.Closure.Plan
	p.Metadata.Name = "shop"
	p.Spec.Namespaces = []spec.NamespaceMapping{{Name: "shop", TargetName: "shop-new"}}
	run.Spec.Closure.Repository.Spec = spec.RepositorySpec{Provider: spec.ProviderAWS, Bucket: "b", Prefix: "p", Endpoint: "https://s3"}
	e := &kube.Env{Source: cluster(spec.Source, "old", source), Target: cluster(spec.Target, "new", target), Log: slog.New(slog.DiscardHandler)}
	e.Run, e.Verb = run, verb
	e.Step = spec.Step{Name: step, Verb: verb, Attempt: 1, State: spec.StepRunning}
	e.Settings = kube.Settings{Namespace: ourNamespace, Epoch: 1, Mover: spec.Mover{Image: "localhost/tranship:1"}}
	return e
}

func sourceClaim(name string, labels map[string]string, modes ...corev1.PersistentVolumeAccessMode) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	if len(modes) == 0 {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: labels, Annotations: map[string]string{"pv.kubernetes.io/bind-completed": "yes", "team": "a"}},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name, StorageClassName: ptr.To("fast"), AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: size}},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: size},
	}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: modes, StorageClassName: "fast", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi", VolumeHandle: "src-" + name}},
		ClaimRef:               &corev1.ObjectReference{Namespace: "shop", Name: name},
	}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}}
	return c, pv
}

func class(name, provisioner string, isDefault bool) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner}
	if isDefault {
		c.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	}
	return c
}

// stagedVolume is what the ledger knows of a volume after its upload.
func stagedVolume(e *kube.Env, claim, snapshot string) spec.Volume {
	v := spec.Volume{
		Namespace: "shop", Claim: claim, TargetNamespace: "shop-new", TargetClaim: claim, Action: "copy", Method: "filesystem",
		StorageClassName: "fast", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: "1Gi",
		Group: "Deployment/web/0", SourcePV: "pv-" + claim, Snapshot: snapshot,
	}
	v.StagingClaim = stagingName(e, &v)
	return v
}

// drive looks and ensures as the loop does, until nothing is absent any more.
func drive(t testing.TB, e *kube.Env) reconciler.Observation {
	t.Helper()
	v := Verbs()[e.Verb]
	for range 30 {
		o, err := v.Look(t.Context(), e)
		if err != nil {
			t.Fatalf("look of %s: %v", e.Verb, err)
		}
		if o.Seen != reconciler.Absent {
			if o.Seen == reconciler.Succeeded && o.Facts != nil && o.Facts.Volumes != nil {
				e.Run.Facts.Volumes = o.Facts.Volumes
			}
			return o
		}
		if err := v.Ensure(t.Context(), e); err != nil && !errors.Is(err, errKilled) {
			t.Fatalf("ensure of %s: %v", e.Verb, err)
		}
	}
	t.Fatalf("%s does not come to an end", e.Verb)
	return reconciler.Observation{}
}

func at(e *kube.Env, step, verb string) *kube.Env {
	e.Verb = verb
	e.Step = spec.Step{Name: step, Verb: verb, Attempt: e.Step.Attempt, State: spec.StepRunning}
	return e
}

// writesAll is a Job that does what it is asked for.
func writesAll(w *world, _ *batchv1.Job, r engine.Request) engine.Result {
	res := engine.Result{RepositoryExists: true}
	for _, v := range r.Volumes {
		s := v.Snapshot
		if r.Op == engine.OpUpload {
			s = "snap-" + strconv.Itoa(w.serial)
		}
		done := engine.VolumeResult{Name: v.Name, Snapshot: s, Files: 3, Bytes: 30}
		if v.Verify != engine.VerifyNothing {
			done.Verified = &engine.Verified{Complete: v.Verify == engine.VerifyAll, Files: 3, Bytes: 30}
		}
		res.Volumes = append(res.Volumes, done)
	}
	return res
}

func assignmentOf(w *world, j *batchv1.Job) Assignment {
	o, err := w.Tracker().Get(corev1.SchemeGroupVersion.WithResource("configmaps"), j.Namespace, j.Name)
	if err != nil {
		w.t.Fatalf("Job %s has no request: %v", j.Name, err)
	}
	var a Assignment
	if err := json.Unmarshal([]byte(o.(*corev1.ConfigMap).Data[requestKey]), &a); err != nil {
		w.t.Fatal(err)
	}
	return a
}
