package mover

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/velero"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov2 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	// ComponentSnapshot is a VolumeSnapshot of a source claim and its DataUpload.
	ComponentSnapshot = "snapshot"
	methodSnapshot    = "snapshot"
	// operationTimeout bounds what a node agent waits for in between, such as
	// the deletion of a pod; the copy itself is bounded by the step. Velero's
	// own default.
	operationTimeout = 10 * time.Minute
)

// shot is one claim whose snapshot is moved into the repository.
type shot struct {
	v        *spec.Volume
	snapshot *unstructured.Unstructured // of this attempt, nil if not there
	upload   *movement                  // of this attempt
}

// thinkSnapshot takes a CSI snapshot of every claim of method snapshot, and has
// Velero move it into the repository. What has not changed since the previous
// one is not read again; at the restore all of it is.
func thinkSnapshot(ctx context.Context, e *kube.Env) (thought, error) {
	volumes, err := volumesOf(ctx, e)
	if err != nil {
		return thought{}, err
	}
	uploads, watch, err := movements(ctx, e, e.Source, uploadResource)
	if err != nil {
		return thought{}, err
	}
	snapshots, err := listOf(ctx, e.Source, snapshotResource, metav1.NamespaceAll, ofPlan(e))
	if err != nil {
		return thought{}, err
	}
	t := thought{watches: []watched{watch, watchOf(e.Source, snapshotResource, metav1.NamespaceAll, ofPlan(e).LabelSelector, snapshots.GetResourceVersion())}}
	// One of an earlier attempt still reads: two would share the node agent.
	if o := endMovements(e, &t, uploads); o != nil || len(t.moves) > 0 {
		if o != nil {
			t.seen = *o
		}
		return t, nil
	}
	var waits, failures []reconciler.Observation
	count := 0
	for i := range volumes {
		if !snapshotted(&volumes[i]) {
			continue
		}
		count++
		if native(&volumes[i]) {
			continue
		}
		s := &shot{v: &volumes[i]}
		s.find(e, snapshots, uploads)
		switch o := s.next(e, &t); {
		case o == nil:
		case o.Seen == reconciler.Broken:
			failures = append(failures, *o)
		default:
			waits = append(waits, *o)
		}
	}
	o, err := shootNative(ctx, e, volumes, &t)
	switch {
	case err != nil:
		return thought{}, err
	case len(failures) > 0:
		return thought{seen: failures[0]}, nil
	case o != nil && o.Seen == reconciler.Broken:
		return thought{seen: *o}, nil
	case len(waits) > 0:
		t.seen = waits[0]
	case o != nil:
		t.seen = *o
	default:
		t.seen = succeeded(factsOf(volumes), "the snapshots of %d claims are taken; the cutover restores each of them whole", count)
	}
	return t, nil
}

// endMovements removes those of earlier attempts that are still on their way.
func endMovements(e *kube.Env, t *thought, all []*movement) *reconciler.Observation {
	for _, m := range all {
		if ofThisAttempt(e, m) || m.ended() {
			continue
		}
		remove(t, m.on, m.resource, m.Unstructured)
		o := working("MovementLeaving", m.at(), "waits until %s %s/%s of an earlier attempt is canceled on cluster %s", m.GetKind(), m.GetNamespace(), m.GetName(), m.on.Name)
		return &o
	}
	return nil
}

func (s *shot) name(e *kube.Env) string { return e.ObjectName("snapshot/" + key(s.v)) }

// find picks the claim's objects of this attempt.
func (s *shot) find(e *kube.Env, snapshots *unstructured.UnstructuredList, uploads []*movement) {
	name := s.name(e)
	for i := range snapshots.Items {
		if o := &snapshots.Items[i]; o.GetName() == name && o.GetNamespace() == s.v.Namespace {
			s.snapshot = o
		}
	}
	for _, m := range uploads {
		if m.GetName() == name {
			s.upload = m
		}
	}
}

// next is one claim's way into the repository:
//
//	nothing ──▶ VolumeSnapshot ──ready──▶ DataUpload ──completed──▶ recorded
//
// Velero deletes the VolumeSnapshot once it has taken it over.
func (s *shot) next(e *kube.Env, t *thought) *reconciler.Observation {
	if m := s.upload; m != nil {
		return s.moved(e, m)
	}
	at := object(spec.Source, "VolumeSnapshot", s.v.Namespace, s.name(e))
	if s.snapshot == nil {
		t.move(fmt.Sprintf("take a snapshot of claim %s on cluster %s", key(s.v), e.Source.Name), func(ctx context.Context) error {
			return createSnapshot(ctx, e, s.v, s.name(e))
		})
		return nil
	}
	if why, _, _ := unstructured.NestedString(s.snapshot.Object, "status", "error", "message"); why != "" {
		// The driver may succeed yet: the step's time limit decides.
		o := working("SnapshotFailing", at, "the snapshot of claim %s on cluster %s fails: %s", key(s.v), e.Source.Name, why)
		return &o
	}
	if ready, _, _ := unstructured.NestedBool(s.snapshot.Object, "status", "readyToUse"); !ready {
		o := working("SnapshotPending", at, "waits until the snapshot of claim %s on cluster %s is ready", key(s.v), e.Source.Name)
		return &o
	}
	t.move(fmt.Sprintf("move the snapshot of claim %s on cluster %s into the repository", key(s.v), e.Source.Name), func(ctx context.Context) error {
		return createUpload(ctx, e, s.v, s.name(e))
	})
	return nil
}

func (s *shot) moved(e *kube.Env, m *movement) *reconciler.Observation {
	switch m.phase() {
	case phaseCompleted:
		if s.v.Snapshot = m.status("snapshotID"); s.v.Snapshot == "" {
			o := m.failed(s.v)
			return &o
		}
		s.v.Bytes, s.v.ChangedBytes = m.number("progress", "totalBytes"), m.number("incrementalBytes")
		return nil
	case phaseFailed, phaseCanceled:
		o := m.failed(s.v)
		return &o
	}
	o := working("MovingSnapshot", m.at(), "Velero on cluster %s moves the snapshot of claim %s into the repository: %s", e.Source.Name, key(s.v), m.progress())
	return &o
}

func createSnapshot(ctx context.Context, e *kube.Env, v *spec.Volume, name string) error {
	head := objectMeta(e, v.Namespace, name, ComponentSnapshot)
	head.Annotations[annotationVolume] = key(v)
	return create(ctx, e.Source, snapshotResource, "VolumeSnapshot", &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": v.Namespace, "name": name, "labels": anyMap(head.Labels), "annotations": anyMap(head.Annotations)},
		"spec":     map[string]any{"volumeSnapshotClassName": v.SnapshotClass, "source": map[string]any{"persistentVolumeClaimName": v.Claim}},
	}})
}

func anyMap(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func createUpload(ctx context.Context, e *kube.Env, v *spec.Volume, name string) error {
	c, err := getClaim(ctx, e.Source, v.Namespace, v.Claim)
	if err != nil {
		return err
	}
	if c == nil || c.Spec.StorageClassName == nil {
		return fmt.Errorf("claim %s of cluster %s, whose snapshot is to be moved, is gone or has no storage class", key(v), e.Source.Name)
	}
	d := &velerov2.DataUpload{ObjectMeta: objectMeta(e, e.Source.VeleroNamespace, name, ComponentSnapshot)}
	d.Annotations[annotationVolume] = key(v)
	d.Spec = velerov2.DataUploadSpec{
		SnapshotType:    velerov2.SnapshotTypeCSI,
		CSISnapshot:     &velerov2.CSISnapshotSpec{VolumeSnapshot: name, StorageClass: *c.Spec.StorageClassName, SnapshotClass: v.SnapshotClass},
		SourceNamespace: v.Namespace, SourcePVC: v.Claim,
		BackupStorageLocation: velero.LocationName(e), OperationTimeout: metav1.Duration{Duration: operationTimeout},
	}
	return create(ctx, e.Source, uploadResource, "DataUpload", d)
}
