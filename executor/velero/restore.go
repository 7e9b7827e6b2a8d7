package velero

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func lookRestore(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	r, err := read[velerov1.Restore](ctx, e.Target, restoreResource, e.ObjectName("restore"))
	if err != nil {
		return reconciler.Observation{}, err
	}
	if r == nil {
		return beforeRestore(ctx, e)
	}
	if !ofAttempt(e, r) {
		return taken(e.Target, "Restore", r), nil
	}
	o := reconciler.Observation{Object: fmt.Sprintf("target Restore %s/%s", r.Namespace, r.Name)}
	v, done := phases[string(r.Status.Phase)]
	switch {
	case !done:
		return restoreRunning(ctx, e, r)
	case v.seen == reconciler.Succeeded:
		return restoreDone(ctx, e, r, o)
	}
	o = restoreFailed(ctx, e, r, v)
	// What it made all the same must be found by the undo.
	o.Facts = &spec.Facts{Restore: r.Name}
	return o, nil
}

// restoreFailed says why a Restore did not complete.
func restoreFailed(ctx context.Context, e *kube.Env, r *velerov1.Restore, v verdict) reconciler.Observation {
	o := reconciler.Observation{Seen: reconciler.Broken, Reason: "VeleroRestore" + v.reason, Object: fmt.Sprintf("target Restore %s/%s", r.Namespace, r.Name)}
	o.Message = fmt.Sprintf("Restore %s/%s on cluster %s ended %s", r.Namespace, r.Name, e.Target.Name, r.Status.Phase)
	why := append([]string{}, r.Status.ValidationErrors...)
	if r.Status.FailureReason != "" {
		why = append(why, r.Status.FailureReason)
	}
	if r.Status.Phase == velerov1.RestorePhasePartiallyFailed {
		errs, log := diagnose(ctx, e, e.Target, velerov1.DownloadTargetKindRestoreResults, velerov1.DownloadTargetKindRestoreLog, r.Name)
		why, o.Log = append(why, errs...), log
	}
	if len(why) > 0 {
		o.Message += ": " + short(why)
	}
	return o
}

func restoreRunning(ctx context.Context, e *kube.Env, r *velerov1.Restore) (reconciler.Observation, error) {
	done := ""
	if p := r.Status.Progress; p != nil && p.TotalItems > 0 {
		done = fmt.Sprintf(", %d of %d objects", p.ItemsRestored, p.TotalItems)
	}
	o := reconciler.Observation{Seen: reconciler.Working, Reason: "RestoreRunning", Object: fmt.Sprintf("target Restore %s/%s", r.Namespace, r.Name)}
	o.Message = fmt.Sprintf("Velero on cluster %s restores the objects: %s%s", e.Target.Name, phaseName(string(r.Status.Phase)), done)
	stuck(&o, e.Target, r.CreationTimestamp.Time)
	var err error
	o.Wake, err = wakeOn(ctx, e.Target, restoreResource, r)
	return o, err
}

// patience is how long Velero may take for the objects of an application, without
// volumes, before its wait says what a person can do.
const patience = 10 * time.Minute

// stuck adds that to what a wait says. Velero cannot be told to stop, and restarting
// it is left to people: others use it, too.
func stuck(o *reconciler.Observation, c *kube.Cluster, since time.Time) {
	if c.Now().Sub(since) < patience {
		return
	}
	o.Reason = "VeleroStuck"
	o.Message += fmt.Sprintf("; it is at it since %s: see `kubectl -n %s logs deployment/velero`, and where nothing moves there any more, and nobody else's backup or restore runs, `kubectl -n %s rollout restart deployment/velero`",
		since.UTC().Format(time.RFC3339), c.VeleroNamespace, c.VeleroNamespace)
}

// beforeRestore: what an earlier attempt of this run has made must go first,
// or Velero would take it for somebody else's.
func beforeRestore(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	if e.Step.Attempt <= 1 {
		return reconciler.Observation{}, nil
	}
	m, err := made(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if m.running != nil {
		return restoreRunning(ctx, e, m.running)
	}
	return m.observation(ctx, e), nil
}

// restoreDone reads what Velero says it created, and then the objects
// themselves: their UIDs are what the undo goes by.
func restoreDone(ctx context.Context, e *kube.Env, r *velerov1.Restore, o reconciler.Observation) (reconciler.Observation, error) {
	var warnings []string
	if r.Status.Warnings > 0 {
		raw, err := download(ctx, e, e.Target, velerov1.DownloadTargetKindRestoreResults, r.Name)
		if err != nil {
			return o, err
		}
		res, err := parseResults(raw)
		if err != nil {
			return o, err
		}
		warnings = res.lines("warnings")
	}
	o.Facts = &spec.Facts{Restore: r.Name}
	if c := blocking(e, conflicts(warnings)); len(c) > 0 {
		o.Seen, o.Reason = reconciler.Broken, "ExistingObject"
		o.Message = fmt.Sprintf("%d objects are not on cluster %s as they are on the source: %s; remove those in the way", len(c), e.Target.Name, short(c))
		return o, nil
	}
	raw, err := download(ctx, e, e.Target, velerov1.DownloadTargetKindRestoreResourceList, r.Name)
	if err != nil {
		return o, err
	}
	said, err := createdOf(raw)
	if err != nil {
		return o, err
	}
	o.Facts.Created, err = identify(ctx, e, r.Name, said)
	if err != nil {
		return o, err
	}
	o.Seen = reconciler.Succeeded
	o.Message = fmt.Sprintf("Restore %s/%s created %d objects", r.Namespace, r.Name, len(o.Facts.Created))
	if len(warnings) > 0 {
		o.Message += "; Velero warns: " + short(warnings)
	}
	return o, nil
}

// identify reads the objects that Velero says it created and that carry its
// label. What is no longer there, or does not carry it, is not ours.
func identify(ctx context.Context, e *kube.Env, restore string, said []restored) ([]spec.Object, error) {
	labelled, err := e.Target.ListAll(ctx, e.Namespaces(spec.Target), kube.LabelRestore+"="+restore)
	if err != nil {
		return nil, err
	}
	byName := map[restored]spec.Object{}
	for _, i := range labelled {
		byName[restored{"", i.GetKind(), i.GetNamespace(), i.GetName()}] = i.Record(spec.Target)
	}
	created := []spec.Object{}
	for _, s := range said {
		o, ok := byName[restored{"", s.kind, s.namespace, s.name}]
		if s.namespace == "" {
			if o, ok, err = clusterScoped(ctx, e, restore, s); err != nil {
				return nil, err
			}
		}
		if ok {
			created = append(created, o)
		}
	}
	return created, nil
}

func clusterScoped(ctx context.Context, e *kube.Env, restore string, s restored) (spec.Object, bool, error) {
	gv, err := schema.ParseGroupVersion(s.apiVersion)
	if err != nil {
		return spec.Object{}, false, e.Target.Errorf(err, "understand %s %s", s.kind, s.name)
	}
	m, err := e.Target.Mapper.RESTMapping(gv.WithKind(s.kind).GroupKind(), gv.Version)
	if meta.IsNoMatchError(err) {
		return spec.Object{}, false, nil
	}
	if err != nil {
		return spec.Object{}, false, e.Target.Errorf(err, "find out about %s", s.kind)
	}
	u, err := e.Target.Dynamic.Resource(m.Resource).Get(ctx, s.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return spec.Object{}, false, nil
	}
	if err != nil {
		return spec.Object{}, false, e.Target.Errorf(err, "read %s %s", s.kind, s.name)
	}
	return kube.Item{GVR: m.Resource, Unstructured: u}.Record(spec.Target), u.GetLabels()[kube.LabelRestore] == restore, nil
}

func ensureRestore(ctx context.Context, e *kube.Env) error {
	if e.Step.Attempt > 1 {
		m, err := made(ctx, e)
		if err != nil {
			return err
		}
		if m.running != nil || len(m.objects) > 0 {
			return m.delete(ctx, e)
		}
	}
	items, err := kube.Covered(ctx, e)
	if err != nil {
		return err
	}
	items, err = kube.WithoutForeign(ctx, e, restorable(e, items))
	if err != nil {
		return err
	}
	filters, err := filterPolicy(e.Namespaces(spec.Source), items)
	if err != nil {
		return err
	}
	changes, err := modifierRules(e, items)
	if err != nil {
		return err
	}
	if err := copyBackup(ctx, e, e.Run.Facts.Backup); err != nil {
		return err
	}
	r := wantedRestore(e)
	if err := putOnce(ctx, e, e.Target, r.Spec.ResourcePolicy.Name, "filters", filters); err != nil {
		return err
	}
	if err := putOnce(ctx, e, e.Target, r.Spec.ResourceModifier.Name, "modifiers", changes); err != nil {
		return err
	}
	err = create(ctx, e.Target, restoreResource, "Restore", r)
	if apierrors.IsAlreadyExists(err) {
		return nil // the next Look says whether it is ours
	}
	return e.Target.Errorf(err, "create Restore %s/%s", e.Target.VeleroNamespace, r.Name)
}

func wantedRestore(e *kube.Env) *velerov1.Restore {
	no := false
	r := &velerov1.Restore{ObjectMeta: objectMeta(e, e.Target, e.ObjectName("restore"))}
	mapping := map[string]string{}
	for _, n := range e.Plan().Namespaces {
		if n.Target() != n.Name {
			mapping[n.Name] = n.Target()
		}
	}
	r.Spec = velerov1.RestoreSpec{
		BackupName:         e.Run.Facts.Backup,
		IncludedNamespaces: e.Namespaces(spec.Source),
		NamespaceMapping:   mapping,
		ExcludedResources: []string{
			"persistentvolumes", "persistentvolumeclaims", "pods", "customresourcedefinitions.apiextensions.k8s.io",
			"validatingwebhookconfigurations.admissionregistration.k8s.io", "mutatingwebhookconfigurations.admissionregistration.k8s.io",
			"apiservices.apiregistration.k8s.io", "storageclasses.storage.k8s.io",
		},
		RestorePVs:             &no,
		ExistingResourcePolicy: velerov1.PolicyTypeNone, // what is there is updated by us or by nobody
		ResourcePolicy:         configMapRef(e.ObjectName("filters")),
		ResourceModifier:       configMapRef(e.ObjectName("modifiers")),
	}
	return r
}

// restoreNames are the names of the run's restores, known and found.
func restoreNames(e *kube.Env, found []velerov1.Restore) []string {
	names := map[string]bool{}
	if e.Run.Facts.Restore != "" {
		names[e.Run.Facts.Restore] = true
	}
	for _, r := range found {
		names[r.Name] = true
	}
	var sorted []string
	for n := range names {
		sorted = append(sorted, n)
	}
	slices.Sort(sorted)
	return sorted
}
