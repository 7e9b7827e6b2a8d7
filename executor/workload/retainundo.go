package workload

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// putBack is one object with the old value that it gets again.
type putBack struct {
	item   item
	policy string               // of a volume
	claims *spec.ClaimRetention // of a StatefulSet
}

// toPutBack finds what retain has changed: by annotation, wherever that is,
// and by the record where somebody took the annotation off.
func toPutBack(ctx context.Context, e *kube.Env) ([]putBack, error) {
	list, err := volumesToPutBack(ctx, e)
	if err != nil {
		return nil, err
	}
	items, _, err := toUndo(ctx, e)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs(e.Run.Facts.Workloads, items) {
		if !p.item.exists() {
			continue
		}
		old, err := readOurs(e, p.item)
		if err != nil {
			return nil, err
		}
		if r, ok := recall[spec.ClaimRetention](old, keyClaimRetention); ok {
			list = append(list, putBack{item: p.item, claims: &r})
			continue
		}
		w := p.recorded
		if w != nil && w.ClaimRetention != nil && w.UID == string(p.item.GetUID()) && !p.item.retentionIs(*w.ClaimRetention) && p.item.retains() {
			list = append(list, putBack{item: p.item, claims: w.ClaimRetention})
		}
	}
	return list, nil
}

func volumesToPutBack(ctx context.Context, e *kube.Env) ([]putBack, error) {
	volumes, err := e.Source.Dynamic.Resource(volumeKind.gvr).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list persistent volumes of cluster %s: %w", e.Source.Name, err)
	}
	former := map[string]spec.Volume{}
	for _, v := range e.Run.Facts.Volumes {
		if v.SourcePV != "" && v.SourcePolicy != "" {
			former[v.SourcePV] = v
		}
	}
	var list []putBack
	for n := range volumes.Items {
		pv := item{volumeKind, &volumes.Items[n]}
		old, err := readOurs(e, pv)
		if err != nil {
			return nil, err
		}
		if policy, ok := recall[string](old, keyReclaimPolicy); ok {
			list = append(list, putBack{item: pv, policy: policy})
			continue
		}
		v, ok := former[pv.GetName()]
		if ok && foreign(e, pv) == "" && claimedByRecord(pv, v) && pv.reclaimPolicy() == retain && v.SourcePolicy != retain {
			list = append(list, putBack{item: pv, policy: v.SourcePolicy})
		}
	}
	return list, nil
}

// claimedByRecord guards against another volume of the same name.
func claimedByRecord(pv item, v spec.Volume) bool {
	s, _ := pv.Object["spec"].(map[string]any)
	ref, _ := s["claimRef"].(map[string]any)
	return ref["namespace"] == v.Namespace && ref["name"] == v.Claim && (v.ClaimUID == "" || ref["uid"] == v.ClaimUID)
}

func lookRetainUndo(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	list, err := toPutBack(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	var verdicts []verdict
	for _, b := range list {
		object := b.item.object(spec.Source)
		if to := b.item.GetAnnotations()[kube.AnnotationMoved]; to != "" {
			verdicts = append(verdicts, verdict{reconciler.Broken, "StillMoved", fmt.Sprintf(
				"%s stays at Retain, because %s may use its storage: remove that volume, then the annotation %s, and set the policy %s", kube.Describe(object), to, kube.AnnotationMoved, b.policy), object, true})
			continue
		}
		stopped, err := stillStopped(e, b.item)
		if err != nil {
			return reconciler.Observation{}, err
		}
		if stopped {
			verdicts = append(verdicts, verdict{reconciler.Broken, "StillStopped", fmt.Sprintf(
				"%s is still stopped, so that its own policy would delete its claims; it stays at Retain until it runs again", kube.Describe(object)), object, true})
			continue
		}
		verdicts = append(verdicts, verdict{seen: reconciler.Absent, object: object})
	}
	o := fold(backward, verdicts)
	if o.Seen == reconciler.Succeeded {
		o.Message = "the volumes and StatefulSets of the source have their own policies again"
	}
	return o, nil
}

// stillStopped says whether our stop of i is not undone. Giving a stopped
// StatefulSet back `whenScaled: Delete` could delete the claims of pods that
// are still on their way out.
func stillStopped(e *kube.Env, i item) (bool, error) {
	old, err := readOurs(e, i)
	if err != nil {
		return false, err
	}
	return i.kind.brake != nil && i.stoppedBy(old) && i.held(), nil
}

func ensureRetainUndo(ctx context.Context, e *kube.Env) error {
	list, err := toPutBack(ctx, e)
	if err != nil {
		return err
	}
	return each(list, func(b putBack) error {
		return change(ctx, e, e.Source, b.item, func(i item) (*edit, error) { return b.edit(e, i) })
	})
}

// edit puts the old value back, unless somebody else has set another one
// meanwhile, and forgets it in the same patch. A volume that another cluster
// may use stays as it is.
func (b putBack) edit(e *kube.Env, i item) (*edit, error) {
	if stopped, err := stillStopped(e, i); err != nil || stopped || i.GetAnnotations()[kube.AnnotationMoved] != "" {
		return nil, err
	}
	ed := &edit{spec: map[string]any{}}
	key := keyClaimRetention
	if b.claims == nil {
		key = keyReclaimPolicy
		if i.reclaimPolicy() == retain {
			ed.spec["persistentVolumeReclaimPolicy"] = b.policy
		}
	} else if i.retains() {
		ed.spec["persistentVolumeClaimRetentionPolicy"] = *b.claims
	}
	if _, kept := i.GetAnnotations()[kube.AnnotationPrevious]; !kept || !ours(e, i) {
		return ed, nil
	}
	var err error
	ed.annotations, err = forget(i, key)
	return ed, err
}
