package workload

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// onTarget pairs every recorded workload, moved to its target namespace, with
// what the target has. Places are where to watch.
func onTarget(ctx context.Context, e *kube.Env) ([]pair, []place, error) {
	var (
		moved   []spec.Workload
		mapping = e.Mapping()
	)
	for _, w := range e.Run.Facts.Workloads {
		if w.PartOf != "" {
			continue // what made it on the source makes others on the target
		}
		if k := kindNamed(w.Kind); k != nil && k.scales() {
			continue // the target gets it when its workloads run
		} else if k == nil {
			return nil, nil, fmt.Errorf("cannot start %s: this version does not know its kind; use the version that wrote the record", kube.Describe(w.Object))
		}
		w.Side, w.Namespace, w.UID = spec.Target, mapping[w.Namespace], ""
		if e.Undo {
			w = ranThere(e, w)
		}
		moved = append(moved, w)
	}
	items, places, err := listed(ctx, e.Target, e.Namespaces(spec.Target), "", func(k *kind) bool { return k.scales() || !recordedKind(e, k) })
	if err != nil {
		return nil, nil, err
	}
	var found []pair
	started := map[string]bool{}
	for _, p := range pairs(moved, items) {
		if p.recorded == nil {
			if p.item.partOf() == "" || !started[string(metav1.GetControllerOf(p.item).UID)] {
				continue // not part of the run
			}
			p.recorded = &spec.Workload{Object: p.item.object(spec.Target), PartOf: p.item.partOf()}
		}
		if p.item.exists() {
			p.recorded.UID = string(p.item.GetUID())
			started[p.recorded.UID] = !alien(e, p.item)
		}
		found = append(found, p)
	}
	return found, places, nil
}

// ranThere is w as it ran on the target when a copy back stopped it, or w.
func ranThere(e *kube.Env, w spec.Workload) spec.Workload {
	if i := slices.IndexFunc(e.Run.Facts.OnTarget, sameName(w)); i >= 0 {
		return e.Run.Facts.OnTarget[i]
	}
	return w
}

func sameName(w spec.Workload) func(o spec.Workload) bool {
	return func(o spec.Workload) bool {
		return o.Kind == w.Kind && o.Namespace == w.Namespace && o.Name == w.Name
	}
}

// runningThere are the facts about what runs on the target and will be started
// again if the step is taken back, nil when there is nothing new. What was found
// running first counts: a stop may take two goes.
func runningThere(e *kube.Env, list []pair) *spec.Facts {
	ran := slices.Clone(e.Run.Facts.OnTarget)
	for _, p := range list {
		if e.Undo || e.Step.Undo == "" || p.recorded.PartOf != "" || !p.item.exists() || !p.item.runs() || slices.ContainsFunc(ran, sameName(*p.recorded)) {
			continue
		}
		w := *p.recorded
		p.item.kind.brake.read(p.item, &w)
		ran = append(ran, w)
	}
	if len(ran) == len(e.Run.Facts.OnTarget) {
		return nil
	}
	return &spec.Facts{OnTarget: ran}
}

// alien says whether an object of the target stays as it is: the plan skips
// what was there before, and this was. Why is for people.
func alien(e *kube.Env, i item) bool {
	if e.Plan().ExistingOrDefault() != spec.ExistingSkip || ours(e, i) {
		return false
	}
	return !slices.ContainsFunc(e.Run.Facts.Created, func(o spec.Object) bool { return o.UID == string(i.GetUID()) })
}

// mayLack says that the target need not have a workload: it ran nothing, or it
// was a Job that ended before the last list and was taken away with it.
func mayLack(p pair) bool {
	k := p.item.kind
	return k.brake.stops(p.recorded) || k.over != nil
}

func startVerdict(e *kube.Env, p pair) (verdict, error) {
	w, i := p.recorded, p.item
	switch {
	case !i.exists() && mayLack(p), w.PartOf != "":
		return verdict{seen: reconciler.Succeeded}, nil
	case !i.exists():
		return verdict{reconciler.Broken, reconciler.ReasonWorkloadMissing, kube.Describe(w.Object) + " does not exist, so that it cannot be started; see what the restore says about it", w.Object, true}, nil
	case alien(e, i):
		return verdict{reconciler.Succeeded, "SkippedExisting", kube.Describe(w.Object) + " was there before and is left as it is (existing: Skip)", w.Object, false}, nil
	case resumes(w, i):
		return verdict{seen: reconciler.Absent, object: w.Object}, nil
	case pauseAgain(w, i) && !mayPause(w, i):
		return verdict{reconciler.Working, "WaitsForController", kube.Describe(w.Object) + " is not rolled out yet, so that it cannot be paused again", w.Object, false}, nil
	case i.held() && i.ran(w), pauseAgain(w, i):
		return verdict{seen: reconciler.Absent, object: w.Object}, nil
	}
	return verdict{seen: reconciler.Succeeded}, nil
}

// startOrder: a copy back that failed starts on the target what can be started,
// whatever is missing there by now, for nothing runs on the source.
func startOrder(e *kube.Env) []reconciler.Seen {
	if e.Undo {
		return backward
	}
	return forward
}

func lookStart(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	if e.Step.State == spec.StepPending {
		facts, err := counted(ctx, e)
		return reconciler.Observation{Facts: facts}, err
	}
	list, _, err := onTarget(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	var (
		verdicts []verdict
		items    []item
	)
	for _, p := range list {
		v, err := startVerdict(e, p)
		if err != nil {
			return reconciler.Observation{}, err
		}
		verdicts = append(verdicts, v)
		if p.item.exists() {
			items = append(items, p.item)
		}
	}
	o := fold(startOrder(e), verdicts)
	if e.Undo && o.Seen == reconciler.Broken { // only what is missing is left, and nobody can start that
		o.Seen, o.Final = reconciler.Succeeded, false
	}
	if o.Seen == reconciler.Succeeded {
		o.Facts = &spec.Facts{Times: withTime(e, reconciler.TimeStart, earliest(items, AnnotationStartedAt))}
		if o.Message == "" {
			o.Message = fmt.Sprintf("%d workloads of the target are started", len(list))
		}
	}
	return o, nil
}

func ensureStart(ctx context.Context, e *kube.Env) error {
	list, _, err := onTarget(ctx, e)
	if err != nil {
		return err
	}
	now := time.Now()
	return each(list, func(p pair) error {
		if !p.item.exists() {
			return nil // Look says so
		}
		if err := carrySchedule(ctx, e, p); err != nil {
			return err
		}
		return change(ctx, e, e.Target, p.item, func(i item) (*edit, error) { return startEdit(e, p.recorded, i, now) })
	})
}

// carrySchedule tells a CronJob of the target when the source's has run last,
// before it is released: made while the source still ran, it would take every
// slot since then for missed, and run again what the source has run.
func carrySchedule(ctx context.Context, e *kube.Env, p pair) error {
	at := p.recorded.LastScheduled
	have, _, _ := unstructured.NestedString(p.item.Object, "status", "lastScheduleTime")
	if at == "" || have >= at || !p.item.held() || alien(e, p.item) {
		return nil
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.item.GetUID()}, "status": map[string]any{"lastScheduleTime": at}})
	if err != nil {
		return err
	}
	object := kube.Describe(p.recorded.Object)
	client := e.Target.Dynamic.Resource(p.item.kind.gvr).Namespace(p.item.GetNamespace())
	_, err = client.Patch(ctx, p.item.GetName(), types.MergePatchType, body, metav1.PatchOptions{FieldManager: FieldManager}, "status")
	return e.Target.Errorf(err, "tell %s when it has run last", object)
}

// pauseAgain says that a workload was paused and is not: it must make what owns
// its pods before that, and would not make it while it is paused.
func pauseAgain(w *spec.Workload, i item) bool {
	return w.Paused && !i.paused() && !(i.kind.frozen && i.held() && i.ran(w))
}

// mayPause says that pausing i takes nothing from it any more.
func mayPause(w *spec.Workload, i item) bool {
	return i.observed() && (!i.kind.frozen || i.allPods() >= w.Replicas)
}

// resumes says that i is paused only because the restore holds it so.
func resumes(w *spec.Workload, i item) bool {
	return i.kind.frozen && i.paused() && (!w.Paused || i.held() && i.ran(w))
}

func startEdit(e *kube.Env, w *spec.Workload, i item, now time.Time) (*edit, error) {
	release, resume, pause := i.held() && i.ran(w), resumes(w, i), pauseAgain(w, i)
	if !release && !resume && !pause || pause && !mayPause(w, i) || w.PartOf != "" || alien(e, i) {
		return nil, nil
	}
	ed := &edit{spec: map[string]any{}}
	if release {
		b := i.kind.brake
		var err error
		if ed.annotations, err = remember(e, i, map[string]any{b.key: b.value(i.setting())}); err != nil {
			return nil, err
		}
		ed.annotations[AnnotationStartedAt] = now.UTC().Format(timeFormat)
		ed.release(i, w)
	}
	if resume {
		ed.spec["paused"] = nil
	}
	if pause {
		ed.spec["paused"] = true
	}
	return ed, nil
}

func lookStopTarget(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	list, places, err := onTarget(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	var (
		verdicts []verdict
		items    []item
	)
	for _, p := range list {
		if !p.item.exists() || p.recorded.PartOf == "" && alien(e, p.item) {
			continue // nothing of it can run, or it is not ours to stop
		}
		items = append(items, p.item)
		switch {
		case p.item.runs():
			verdicts = append(verdicts, verdict{seen: reconciler.Absent, object: p.recorded.Object})
		case !p.item.observed():
			verdicts = append(verdicts, notYetSeen(p.item, p.recorded.Object))
		}
	}
	o := fold(forward, verdicts)
	if o.Seen != reconciler.Succeeded {
		if o.Seen == reconciler.Working {
			o.Wake = wake(ctx, e, e.Target, places)
		}
		o.Facts = runningThere(e, list)
		return o, nil
	}
	o, err = lookGone(ctx, e, e.Target, e.Namespaces(spec.Target), claimsOfTarget(e), items, places)
	if err == nil && o.Seen == reconciler.Succeeded {
		o.Message = "no pod of the application is left on the target"
	}
	return o, err
}

func claimsOfTarget(e *kube.Env) claimSet {
	set := claimSet{}
	for _, v := range e.Run.Facts.Volumes {
		if v.Action != "skip" && v.TargetClaim != "" {
			set[v.TargetNamespace+"/"+v.TargetClaim] = true
		}
	}
	return set
}

func ensureStopTarget(ctx context.Context, e *kube.Env) error {
	list, _, err := onTarget(ctx, e)
	if err != nil {
		return err
	}
	return each(list, func(p pair) error {
		if !p.item.exists() {
			return nil
		}
		return change(ctx, e, e.Target, p.item, func(i item) (*edit, error) { return stopTargetEdit(e, p.recorded, i) })
	})
}

// stopTargetEdit holds i as it was restored.
func stopTargetEdit(e *kube.Env, w *spec.Workload, i item) (*edit, error) {
	if !i.runs() || w.PartOf == "" && alien(e, i) {
		return nil, nil
	}
	ed := &edit{}
	ed.hold(i)
	if i.kind.frozen {
		ed.spec["paused"] = nil // paused, its controller would not stop it
	}
	old, err := readOurs(e, i)
	if err != nil {
		return nil, err
	}
	if len(old) == 0 {
		return ed, nil
	}
	if ed.annotations, err = forget(i, i.kind.brake.key); err != nil {
		return nil, err
	}
	ed.annotations[AnnotationStartedAt] = nil
	return ed, nil
}
