package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Until a plan is closed, labels and annotations are how its objects are found
// and put back. Closed for ever, nobody asks for them again: what stays with
// people loses them, each object in one patch, so that whatever a killed daemon
// left out is found by what it still carries.

var (
	volumeResource = corev1.SchemeGroupVersion.WithResource("persistentvolumes")
	// revisions copy the annotations of what they are revisions of.
	revisionResource = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "controllerrevisions"}
)

var runSuffix = regexp.MustCompile(`^(stage|migrate|rollback|close)-[0-9]+$`)

// ChangedByPlan says that a run of this plan was the last of all plans' that
// changed the object.
func ChangedByPlan(e *Env, o metav1.Object) bool {
	rest, ok := strings.CutPrefix(o.GetAnnotations()[AnnotationRun], Short(e.Run.Spec.Plan)+"-")
	return ok && runSuffix.MatchString(rest)
}

// releasable: the plan's own, and not in the hands of another plan, which has
// its former values in the same annotations.
func releasable(e *Env, o metav1.Object) bool {
	if o.GetAnnotations()[AnnotationRun] != "" {
		return ChangedByPlan(e, o)
	}
	return OfPlan(e, o) || o.GetLabels()[LabelPlan] == Short(e.Run.Spec.Plan)
}

// marks are the labels and annotations of an object that go when its plan is
// closed. Of a volume that was moved stays for ever where it went, and by which plan
// (ADR 9). What another plan has put there stays that plan's: it loses only what
// this one wrote when it stopped it.
func marks(e *Env, o metav1.Object) (labels, annotations []string) {
	if !releasable(e, o) {
		return nil, nil
	}
	for k, v := range o.GetLabels() {
		ofVelero := k == LabelRestore && v == e.Run.Facts.Restore || k == labelBackup && v == e.Run.Facts.Backup
		if strings.HasPrefix(k, ownPrefix) || ofVelero && v != "" {
			labels = append(labels, k)
		}
	}
	if others(e, o) {
		labels = nil
	}
	for k := range o.GetAnnotations() {
		if strings.HasPrefix(k, ownPrefix) && !stays(e, o, k) {
			annotations = append(annotations, k)
		}
	}
	return labels, annotations
}

// others says that another plan has put the object there.
func others(e *Env, o metav1.Object) bool {
	name, short := o.GetAnnotations()[AnnotationPlan], o.GetLabels()[LabelPlan]
	return name != "" && name != e.Run.Spec.Plan || short != "" && short != Short(e.Run.Spec.Plan)
}

// stays says which of the marks outlives the plan.
func stays(e *Env, o metav1.Object, annotation string) bool {
	switch annotation {
	case AnnotationRun, AnnotationPrevious, AnnotationEpoch:
		return false
	case AnnotationMoved:
		return true
	case AnnotationPlan:
		return others(e, o) || o.GetAnnotations()[AnnotationMoved] != ""
	}
	return others(e, o) && annotation != annotationStopped
}

// annotationStopped is when a stop was asked for; executor/workload writes it.
const annotationStopped = ownPrefix + "stopped-at"

// labelBackup is Velero's mark on what came out of a Backup.
const labelBackup = "velero.io/backup-name"

// marked lists what still carries marks on a side: in the plan's namespaces,
// those themselves, the volumes, and what the run recorded outside of namespaces.
func marked(ctx context.Context, e *Env, side spec.Side) ([]Item, error) {
	c, names := e.On(side), e.Namespaces(side)
	items, err := c.ListAll(ctx, names, "")
	if err != nil {
		return nil, err
	}
	revisions, err := c.ListThese(ctx, []schema.GroupVersionResource{revisionResource}, names, "")
	if err != nil {
		return nil, err
	}
	volumes, err := c.list(ctx, volumeResource, "", "")
	if err != nil {
		return nil, err
	}
	items = slices.Concat(items, revisions, volumes)
	for _, o := range outside(e, side) {
		i, err := c.Find(ctx, o)
		if err != nil {
			return nil, err
		}
		if i != nil && (o.UID == "" || o.UID == string(i.GetUID())) {
			items = append(items, *i)
		}
	}
	return slices.DeleteFunc(items, func(i Item) bool {
		labels, annotations := marks(e, i)
		return len(labels)+len(annotations) == 0 || i.GetDeletionTimestamp() != nil
	}), nil
}

// outside are the plan's namespaces, and what the run made beside them.
func outside(e *Env, side spec.Side) []spec.Object {
	var all []spec.Object
	for _, name := range e.Namespaces(side) {
		all = append(all, spec.Object{Side: side, APIVersion: "v1", Kind: "Namespace", Resource: namespaceResource.Resource, Name: name})
	}
	if side == spec.Target {
		for _, o := range e.Run.Facts.Created {
			if o.Namespace == "" && o.Resource != "" && o.UID != "" {
				all = append(all, o)
			}
		}
	}
	return all
}

func lookRelease(ctx context.Context, e *Env) (reconciler.Observation, error) {
	for _, side := range []spec.Side{spec.Source, spec.Target} {
		items, err := marked(ctx, e, side)
		if err != nil {
			return reconciler.Observation{}, err
		}
		if len(items) > 0 {
			return reconciler.Observation{Object: Describe(items[0].Record(side)),
				Message: fmt.Sprintf("%d objects on cluster %s still carry labels or annotations of the plan: %s", len(items), e.On(side).Name, namesOf(items, maxNamed))}, nil
		}
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Message: "no object of the application carries anything of the plan any more"}, nil
}

func ensureRelease(ctx context.Context, e *Env) error {
	var errs []error
	for _, side := range []spec.Side{spec.Source, spec.Target} {
		items, err := marked(ctx, e, side)
		if err != nil {
			return err
		}
		errs = append(errs, e.On(side).release(ctx, e, ownersFirst(items)))
	}
	return errors.Join(errs...)
}

// ownersFirst keeps what no other of the items owns: controllers copy their
// annotations to what they make, and would do so once more.
func ownersFirst(items []Item) []Item {
	uids := map[types.UID]bool{}
	for _, i := range items {
		uids[i.GetUID()] = true
	}
	return slices.DeleteFunc(slices.Clone(items), func(i Item) bool {
		return slices.ContainsFunc(i.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return uids[o.UID] })
	})
}

// release takes the marks off objects, and goes on where one of them cannot be
// changed. What changed since it was listed is left to the next look.
func (c *Cluster) release(ctx context.Context, e *Env, items []Item) error {
	var (
		g    errgroup.Group
		mu   sync.Mutex
		errs []error
	)
	g.SetLimit(parallel)
	for _, i := range items {
		g.Go(func() error {
			err := c.releaseOne(ctx, e, i)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			return nil
		})
	}
	_ = g.Wait() // it has no error of its own
	return errors.Join(errs...)
}

func (c *Cluster) releaseOne(ctx context.Context, e *Env, i Item) error {
	if epoch, err := strconv.ParseInt(i.GetAnnotations()[AnnotationEpoch], 10, 64); err == nil && epoch > e.Settings.Epoch {
		return fmt.Errorf("%s was changed by a daemon with epoch %d, this one has %d: %w", Describe(i.Record(c.Side)), epoch, e.Settings.Epoch, reconciler.ErrSuperseded)
	}
	raw, err := json.Marshal(map[string]any{"metadata": without(e, i)})
	if err != nil {
		return fmt.Errorf("cannot encode the patch of %s: %w", Describe(i.Record(c.Side)), err)
	}
	_, err = c.Dynamic.Resource(i.GVR).Namespace(i.GetNamespace()).Patch(ctx, i.GetName(), types.MergePatchType, raw, metav1.PatchOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return c.wrap(err, "take the plan's labels and annotations off %s", Describe(i.Record(c.Side)))
}

// without is the patch of an object's metadata that takes its marks off, and
// holds only for the version that was read.
func without(e *Env, i Item) map[string]any {
	labels, annotations := marks(e, i)
	patch := map[string]any{"uid": string(i.GetUID()), "resourceVersion": i.GetResourceVersion()}
	for field, keys := range map[string][]string{"labels": labels, "annotations": annotations} {
		off := map[string]any{}
		for _, k := range keys {
			off[k] = nil
		}
		if len(off) > 0 { // null would take everybody's
			patch[field] = off
		}
	}
	return patch
}
