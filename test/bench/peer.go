package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/tranship/tranship/executor/kube"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// The peer: a person's script that does the same Velero work. It knows what to
// wait for, copies the Backup object instead of waiting for Velero's own
// synchronisation, and keeps a record in Git.

const (
	peerSuffix  = "-peer" // of the peer's namespaces, branch and clone
	peerPushes  = 4
	peerTries   = 3
	veleroLimit = 3 * time.Minute
)

var (
	backups   = velerov1.SchemeGroupVersion.WithResource("backups")
	restores  = velerov1.SchemeGroupVersion.WithResource("restores")
	locations = velerov1.SchemeGroupVersion.WithResource("backupstoragelocations")
)

// preparePeer makes the peer's branch, so that its pushes are updates.
func (n *noop) preparePeer(ctx context.Context) error {
	if err := n.lab.initClone(ctx, "peer"); err != nil {
		return err
	}
	if err := n.lab.write("peer/README.md", "A record by hand.\n"); err != nil {
		return err
	}
	_, err := n.lab.push(ctx, "peer", n.lab.name+peerSuffix, "Begin the record")
	return err
}

// peer measures the same work by hand, in the order of the product: the
// frozen run, the objects, the stop, live, Migrated.
func (n *noop) peer(ctx context.Context, p string) error {
	location, err := n.location(ctx, p)
	if err != nil {
		return err
	}
	began := time.Now()
	part := func(name string, do func() error) func() error {
		return func() error {
			start := time.Now()
			err := do()
			n.byHand.add(name, time.Since(start))
			return err
		}
	}
	push := func(i int) func() error {
		return part(fmt.Sprintf("push %d", i+1), func() error { return n.peerPush(ctx, p, i) })
	}
	for _, do := range []func() error{
		push(0),
		part("backup", func() error { return n.peerBackup(ctx, p, location) }),
		part("copy and restore", func() error { return n.peerRestore(ctx, p) }),
		push(1), push(2), push(3),
	} {
		if err := do(); err != nil {
			return fmt.Errorf("the work by hand failed: %w", err)
		}
	}
	n.peers = append(n.peers, time.Since(began).Seconds())
	return nil
}

// peerPush commits the files of the product's commit of the same place.
func (n *noop) peerPush(ctx context.Context, p string, i int) error {
	for name, text := range n.pushes[min(i, len(n.pushes)-1)] {
		if err := n.lab.write(filepath.Join("peer", p, fmt.Sprint(i), name), text); err != nil {
			return err
		}
	}
	_, err := n.lab.push(ctx, "peer", n.lab.name+peerSuffix, fmt.Sprintf("Record %d of %d of %s", i+1, peerPushes, p))
	return err
}

// location is the plan's, which the stage run made on both clusters.
func (n *noop) location(ctx context.Context, p string) (string, error) {
	l, err := n.lab.bed.Source.velero(locations).List(ctx, metav1.ListOptions{LabelSelector: planLabel(p)})
	if err != nil {
		return "", fmt.Errorf("cannot list the locations of plan %s: %w", p, err)
	}
	if len(l.Items) != 1 {
		return "", fmt.Errorf("plan %s has %d locations after its stage run, 1 is expected", p, len(l.Items))
	}
	return l.Items[0].GetName(), nil
}

func peerMeta(p string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: veleroNamespace, Name: p + peerSuffix, Labels: map[string]string{kube.LabelPlan: kube.Short(p)}}
}

func (n *noop) peerBackup(ctx context.Context, p, location string) error {
	no := false
	b := &velerov1.Backup{TypeMeta: typeMeta("Backup"), ObjectMeta: peerMeta(p), Spec: velerov1.BackupSpec{
		IncludedNamespaces:               []string{p},
		ExcludedNamespaceScopedResources: []string{"persistentvolumeclaims", "pods", "events", "events.events.k8s.io"},
		ExcludedClusterScopedResources:   []string{"persistentvolumes"},
		StorageLocation:                  location, SnapshotVolumes: &no, DefaultVolumesToFsBackup: &no,
		TTL: metav1.Duration{Duration: 720 * time.Hour},
	}}
	return n.lab.bed.Source.completed(ctx, backups, b, veleroLimit)
}

// peerCopy shows the target the finished Backup, status and all.
func (n *noop) peerCopy(ctx context.Context, p string) error {
	b, err := n.lab.bed.Source.velero(backups).Get(ctx, p+peerSuffix, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read the finished Backup: %w", err)
	}
	return n.lab.bed.Target.showVelero(ctx, backups, b)
}

// showVelero makes an object of the other cluster's Velero known to this one,
// status and all, as it would learn of it from the bucket within a minute.
func (c *cluster) showVelero(ctx context.Context, gvr schema.GroupVersionResource, u *unstructured.Unstructured) error {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": u.Object["spec"], "status": u.Object["status"]}}
	o.SetGroupVersionKind(u.GroupVersionKind())
	o.SetNamespace(veleroNamespace)
	o.SetName(u.GetName())
	o.SetLabels(u.GetLabels())
	o.SetAnnotations(maps.Clone(u.GetAnnotations()))
	_, err := c.velero(gvr).Create(ctx, o, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cannot copy %s %s: %w", gvr.Resource, u.GetName(), err)
	}
	return nil
}

// peerRestore restores beside the product's namespace, which has the same
// objects. The target's Velero compares its Backups with the bucket once a
// minute and, having read the bucket just before the Backup was finished,
// deletes the copy: then, as the product does, everything is tried again.
func (n *noop) peerRestore(ctx context.Context, p string) error {
	var err error
	for try := range peerTries {
		if err = n.peerCopy(ctx, p); err != nil {
			return err
		}
		r := &velerov1.Restore{TypeMeta: typeMeta("Restore"), ObjectMeta: peerMeta(p), Spec: velerov1.RestoreSpec{
			BackupName: p + peerSuffix, NamespaceMapping: map[string]string{p: p + peerSuffix},
		}}
		r.Name += fmt.Sprintf("-%d", try+1)
		if err = n.lab.bed.Target.completed(ctx, restores, r, veleroLimit); !errors.Is(err, errRefused) {
			return err
		}
		fmt.Printf("  by hand, another try: %v\n", err)
	}
	return err
}

// errRefused says that Velero did not begin.
var errRefused = errors.New("it was refused")

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: velerov1.SchemeGroupVersion.String(), Kind: kind}
}

func (c *cluster) velero(gvr schema.GroupVersionResource) dynamic.ResourceInterface {
	return c.any.Resource(gvr).Namespace(veleroNamespace)
}

// completed creates an object of Velero's and watches it until it is Completed.
func (c *cluster) completed(ctx context.Context, gvr schema.GroupVersionResource, o metav1.Object, limit time.Duration) error {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return fmt.Errorf("cannot encode %s %s: %w", gvr.Resource, o.GetName(), err)
	}
	made, err := c.velero(gvr).Create(ctx, &unstructured.Unstructured{Object: raw}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot create %s %s on cluster %s: %w", gvr.Resource, o.GetName(), c.name, err)
	}
	w, err := c.velero(gvr).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", o.GetName()).String(), ResourceVersion: made.GetResourceVersion(),
	})
	if err != nil {
		return fmt.Errorf("cannot watch %s %s on cluster %s: %w", gvr.Resource, o.GetName(), c.name, err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		u, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("the watch of %s %s on cluster %s broke: %v", gvr.Resource, o.GetName(), c.name, event.Object)
		}
		switch phase, _, _ := unstructured.NestedString(u.Object, "status", "phase"); phase {
		case "Completed":
			return nil
		case "FailedValidation":
			return fmt.Errorf("%s %s on cluster %s: %w: %v", gvr.Resource, o.GetName(), c.name, errRefused, u.Object["status"])
		case "Failed", "PartiallyFailed":
			return fmt.Errorf("%s %s on cluster %s ended %s: %v", gvr.Resource, o.GetName(), c.name, phase, u.Object["status"])
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("the watch of %s %s on cluster %s ended before it was Completed", gvr.Resource, o.GetName(), c.name))
}
