package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

func lookStartSource(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	items, places, err := toUndo(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	list, err := toRestart(ctx, e, items)
	if err != nil {
		return reconciler.Observation{}, err
	}
	turn, verdicts, err := scalersLast(e, list)
	if err != nil {
		return reconciler.Observation{}, err
	}
	for n, p := range turn {
		if verdicts[n].seen == reconciler.Working {
			verdicts[n].explain(ctx, e.Source, p.item)
		}
	}
	bare, err := startBare(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	o := fold(backward, append(bare.verdicts, verdicts...)) // in front: their reasons are warnings
	if o.Seen == reconciler.Working {
		o.Wake = wake(ctx, e, e.Source, places)
		if len(bare.kept) > 0 {
			o.Poll = time.Second
		}
	}
	if o.Seen == reconciler.Succeeded && o.Message == "" {
		o.Message = "nothing of the source is stopped any more"
		if len(list) > 0 {
			o.Message = fmt.Sprintf("%d workloads of the source run as before the stop", len(list))
		}
	}
	return o, nil
}

// toRestart pairs what was recorded with what the source has. An annotation
// of ours on an object that is in no record counts as a record: journal and
// ledger may be lost. A recorded object that the plan's selector no longer
// finds is read by name: whoever changed its labels did not start it.
func toRestart(ctx context.Context, e *kube.Env, items []item) ([]pair, error) {
	var list []pair
	for _, p := range pairs(e.Run.Facts.Workloads, items) {
		if p.recorded != nil && !p.item.exists() && p.item.kind != nil {
			i, err := get(ctx, e.Source, p.item.kind, p.recorded.Namespace, p.recorded.Name)
			if err != nil {
				return nil, err
			}
			p.item = i
		}
		if p.recorded == nil {
			w, err := fromAnnotation(e, p.item)
			if err != nil {
				return nil, err
			}
			if w == nil {
				continue // never ours
			}
			p.recorded, p.lost = w, true
		}
		list = append(list, p)
	}
	return list, nil
}

// fromAnnotation is the record that a stopped object carries itself.
func fromAnnotation(e *kube.Env, i item) (*spec.Workload, error) {
	if !ours(e, i) {
		return nil, nil
	}
	p, err := readPrevious(i)
	if err != nil {
		return nil, err
	}
	w := &spec.Workload{Object: i.object(spec.Source), Paused: i.paused(), PartOf: i.partOf()}
	if !i.kind.brake.recall(p, w) {
		i.kind.brake.read(i, w) // only its health is still to be proven, or only its retention is ours
	}
	return w, nil
}

// sourceVerdict judges one workload of the source on its way back.
func sourceVerdict(e *kube.Env, p pair) (verdict, error) {
	w, i := p.recorded, p.item
	working := func(reason, message string) verdict {
		return verdict{reconciler.Working, reason, kube.Describe(w.Object) + ": " + message, w.Object, false}
	}
	if !i.exists() && i.kind != nil && i.kind.over != nil {
		return verdict{seen: reconciler.Succeeded}, nil // it had ended, and was cleaned up
	}
	if !i.exists() || string(i.GetUID()) != w.UID {
		// Nobody could ever mend this, and the undo must not wait for ever:
		// what somebody deleted or made anew is theirs.
		return verdict{reconciler.Succeeded, "WorkloadGone", kube.Describe(w.Object) + " was deleted or made anew by somebody after it was stopped and is left as it is", w.Object, false}, nil
	}
	old, err := readOurs(e, i)
	if err != nil {
		return verdict{}, err
	}
	if _, ok := retentionToPutBack(e, w, i, old); ok {
		return verdict{seen: reconciler.Absent, object: w.Object}, nil
	}
	if i.stoppedBy(old) || i.held() && i.ran(w) {
		return verdict{seen: reconciler.Absent, object: w.Object}, nil
	}
	if _, noted := recall[int32](old, keyPods); noted {
		switch missing := unready(i); {
		case !proven(i, old):
			return working("WaitsForHealth", cmp.Or(missing, "its pods do not exist again yet")), nil
		case p.lost || missing == "":
			return verdict{seen: reconciler.Absent, object: w.Object}, nil // Ensure removes the note
		}
		return asUnhealthy(w), nil
	}
	if !i.is(w) {
		return verdict{reconciler.Succeeded, "ScaledByOthers", fmt.Sprintf("%s was changed from %s to %s by somebody else meanwhile and is left so", kube.Describe(w.Object), i.said(w), i.said(i.setting())), w.Object, false}, nil
	}
	if manager, _ := i.scaler(); manager != "" && manager != FieldManager {
		return verdict{seen: reconciler.Succeeded}, nil // never touched by us: nothing to prove
	}
	if missing := unready(i); missing != "" {
		hasPods := i.observed() && i.allPods() > 0
		if troubled(e, w, podlessBefore) || hasPods && troubled(e, w, unhealthyBefore) {
			return asUnhealthy(w), nil
		}
		return working("WaitsForHealth", missing), nil
	}
	return verdict{seen: reconciler.Succeeded}, nil
}

// asUnhealthy is the end for what was not healthy before the stop either:
// waiting for its health could last for ever.
func asUnhealthy(w *spec.Workload) verdict {
	return verdict{reconciler.Succeeded, "UnhealthyAsBefore", kube.Describe(w.Object) + " runs again and is not healthy, as it was not before the stop", w.Object, false}
}

func ensureStartSource(ctx context.Context, e *kube.Env) error {
	items, _, err := toUndo(ctx, e)
	if err != nil {
		return err
	}
	list, err := toRestart(ctx, e, items)
	if err != nil {
		return err
	}
	turn, _, err := scalersLast(e, list)
	if err != nil {
		return err
	}
	bare, err := startBare(ctx, e)
	if err != nil {
		return err
	}
	return errors.Join(bare.start(ctx, e), each(turn, func(p pair) error {
		if !p.item.exists() || string(p.item.GetUID()) != p.recorded.UID {
			return nil
		}
		return change(ctx, e, e.Source, p.item, func(i item) (*edit, error) { return restartEdit(e, p, i) })
	}))
}

// restartEdit puts back what was there and takes the annotations off in one
// patch. Only where no record could tell later what there is to prove, a note
// of what ran before the stop stays until that is proven.
func restartEdit(e *kube.Env, p pair, i item) (*edit, error) {
	w := p.recorded
	old, err := readOurs(e, i)
	if err != nil {
		return nil, err
	}
	var keys []string
	ed := &edit{spec: map[string]any{}}
	b, back := i.kind.brake, *w
	stopped := b.recall(old, &back)
	ready, noted := recall[int32](old, keyReady)
	known := troubled(e, w, unhealthyBefore) || troubled(e, w, podlessBefore)
	scale := i.held() && i.ran(&back)
	switch {
	case scale && noted && (p.lost || ready < shouldRun(&back, b, old) && !known):
		keys = []string{b.key}
	case scale, stopped, proven(i, old) && (p.lost || unready(i) == ""):
		keys = []string{b.key, keyReady, keyPods}
	}
	if r, ok := retentionToPutBack(e, w, i, old); ok {
		ed.spec["persistentVolumeClaimRetentionPolicy"] = r
		keys = append(keys, keyClaimRetention)
	}
	if len(old) > 0 && len(keys) > 0 {
		if ed.annotations, err = forget(i, keys...); err != nil {
			return nil, err
		}
		ed.annotations[AnnotationStoppedAt] = nil
	}
	if scale {
		ed.release(i, &back)
	}
	if len(ed.spec) == 0 && len(ed.annotations) == 0 {
		return nil, nil
	}
	return ed, nil
}

// shouldRun is how many pods there should have been before the stop.
func shouldRun(w *spec.Workload, b *brake, old previous) int32 {
	if b == byReplicas {
		return w.Replicas
	}
	pods, _ := recall[int32](old, keyPods)
	return pods
}

// proven says whether a workload runs as its note says that it did before the
// stop: ready, or at least with as many pods.
func proven(i item, old previous) bool {
	pods, noted := recall[int32](old, keyPods)
	ready, _ := recall[int32](old, keyReady)
	if !noted || !i.observed() {
		return false
	}
	if ready >= i.wantedPods() {
		return unready(i) == ""
	}
	return i.allPods() >= pods
}

// retentionToPutBack is the claim retention that the stop itself has changed:
// a run without the retain step has nobody else to put it back.
func retentionToPutBack(e *kube.Env, w *spec.Workload, i item, old previous) (spec.ClaimRetention, bool) {
	if slices.ContainsFunc(e.Run.Steps, func(s spec.Step) bool { return s.Verb == "workload.retain" }) {
		return spec.ClaimRetention{}, false
	}
	r, ok := recall[spec.ClaimRetention](old, keyClaimRetention)
	if !ok && w.ClaimRetention != nil && !i.retentionIs(*w.ClaimRetention) {
		r, ok = *w.ClaimRetention, true
	}
	return r, ok
}
