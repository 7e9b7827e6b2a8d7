package workload

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (i item) retentionIs(r spec.ClaimRetention) bool {
	now := i.retention()
	return now != nil && *now == r
}

func (i item) reclaimPolicy() string {
	s, _ := i.Object["spec"].(map[string]any)
	policy, _ := s["persistentVolumeReclaimPolicy"].(string)
	return policy
}

// held is everything that retain protects.
type held struct {
	claims  []corev1.PersistentVolumeClaim // covered, bound or not
	volumes []item                         // of the bound ones
	sets    []item                         // covered workloads
	places  []place
}

func findHeld(ctx context.Context, e *kube.Env) (*held, error) {
	h := &held{}
	var err error
	if h.sets, h.places, err = covered(ctx, e); err != nil {
		return nil, err
	}
	if h.claims, err = coveredClaims(ctx, e); err != nil {
		return nil, err
	}
	found := make([]item, len(h.claims))
	numbers := make([]int, len(h.claims))
	for n := range numbers {
		numbers[n] = n
	}
	err = each(numbers, func(n int) error {
		c := h.claims[n]
		if c.Spec.VolumeName == "" {
			return nil
		}
		pv, err := get(ctx, e.Source, volumeKind, "", c.Spec.VolumeName)
		if err == nil && pv.exists() && claimedBy(pv, &c) {
			found[n] = pv
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, pv := range found {
		if pv.exists() {
			h.volumes = append(h.volumes, pv)
		}
	}
	return h, nil
}

// claimedBy guards against a claim that names a volume which belongs to another one.
func claimedBy(pv item, c *corev1.PersistentVolumeClaim) bool {
	s, _ := pv.Object["spec"].(map[string]any)
	ref, _ := s["claimRef"].(map[string]any)
	return ref["namespace"] == c.Namespace && ref["name"] == c.Name && (ref["uid"] == nil || ref["uid"] == string(c.UID))
}

// coveredClaims returns the source claims of the plan: those that were
// discovered, or else all that the plan's selector finds.
func coveredClaims(ctx context.Context, e *kube.Env) ([]corev1.PersistentVolumeClaim, error) {
	known := map[string]bool{}
	for _, v := range e.Run.Facts.Volumes {
		if v.Action != "skip" {
			known[v.Namespace+"/"+v.Claim] = true
		}
	}
	o := metav1.ListOptions{}
	if len(e.Run.Facts.Volumes) == 0 {
		var err error
		if o.LabelSelector, err = e.Selector(); err != nil {
			return nil, err
		}
	}
	var claims []corev1.PersistentVolumeClaim
	for _, ns := range e.Namespaces(spec.Source) {
		list, err := e.Source.Kube.CoreV1().PersistentVolumeClaims(ns).List(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("cannot list claims in namespace %s of cluster %s: %w", ns, e.Source.Name, err)
		}
		for _, c := range list.Items {
			if len(e.Run.Facts.Volumes) == 0 && !skipped(e, &c) && !ephemeral(&c) || known[ns+"/"+c.Name] {
				claims = append(claims, c)
			}
		}
	}
	return claims, nil
}

// skipped says whether the plan leaves a claim alone.
func skipped(e *kube.Env, c *corev1.PersistentVolumeClaim) bool {
	for _, o := range e.Plan().Volumes.Overrides {
		if o.Namespace == c.Namespace && o.Claim == c.Name && o.Action != "" {
			return o.Action == "skip"
		}
	}
	return e.Plan().Volumes.Defaults.Action == "skip"
}

// ephemeral says whether a claim was made for one pod and goes with it. A
// StatefulSet's claim may belong to a pod too (whenScaled: Delete), but is
// named <template>-<pod>, not <pod>-<volume>.
func ephemeral(c *corev1.PersistentVolumeClaim) bool {
	o := metav1.GetControllerOf(c)
	return o != nil && o.Kind == "Pod" && strings.HasPrefix(c.Name, o.Name+"-") && !strings.HasSuffix(c.Name, "-"+o.Name)
}

func lookRetain(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	h, err := findHeld(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if e.Step.State == spec.StepPending {
		facts, err := retainFacts(e, h)
		return reconciler.Observation{Facts: facts}, err
	}
	var verdicts []verdict
	for _, pv := range h.volumes {
		verdicts = append(verdicts, volumeVerdict(e, pv))
	}
	for _, i := range h.sets {
		verdicts = append(verdicts, retentionVerdict(e, i))
	}
	for n := range h.claims {
		verdicts = append(verdicts, claimVerdict(&h.claims[n]))
	}
	o := fold(forward, verdicts)
	switch o.Seen {
	case reconciler.Working:
		o.Wake = wake(ctx, e, e.Source, h.places)
		o.Poll = poll / 5 // owner references of claims are not watched
	case reconciler.Succeeded:
		o.Message = fmt.Sprintf("%d volumes of the source are set to Retain", len(h.volumes))
	}
	return o, nil
}

func volumeVerdict(e *kube.Env, pv item) verdict {
	if pv.reclaimPolicy() == retain {
		return verdict{seen: reconciler.Succeeded}
	}
	if other := foreign(e, pv); other != "" {
		return heldByOther(pv.object(spec.Source), other)
	}
	return verdict{seen: reconciler.Absent, object: pv.object(spec.Source)}
}

func retentionVerdict(e *kube.Env, i item) verdict {
	object := i.object(spec.Source)
	switch {
	case i.retains() && i.observed():
		return verdict{seen: reconciler.Succeeded}
	case i.retains():
		return verdict{reconciler.Working, "WaitsForController", kube.Describe(object) + " is not known to its controller in its newest form yet", object, false}
	}
	if other := foreign(e, i); other != "" {
		return heldByOther(object, other)
	}
	return verdict{seen: reconciler.Absent, object: object}
}

// claimVerdict makes sure that no claim is on its way out already: one that
// belongs to a pod would be deleted with that pod.
func claimVerdict(c *corev1.PersistentVolumeClaim) verdict {
	object := spec.Object{Side: spec.Source, APIVersion: "v1", Kind: "PersistentVolumeClaim", Resource: "persistentvolumeclaims", Namespace: c.Namespace, Name: c.Name, UID: string(c.UID)}
	if c.DeletionTimestamp != nil {
		return verdict{reconciler.Broken, "ClaimTerminating", kube.Describe(object) + " is being deleted and would vanish when the application stops; save its data before you migrate", object, true}
	}
	for _, o := range c.OwnerReferences {
		if o.Kind == "Pod" && !ephemeral(c) {
			return verdict{reconciler.Working, "ClaimOwnedByPod", fmt.Sprintf("%s still belongs to pod %s and would be deleted with it; waiting for the StatefulSet controller to let go", kube.Describe(object), o.Name), object, false}
		}
	}
	return verdict{seen: reconciler.Succeeded}
}

// retainFacts is what retain records before it acts.
func retainFacts(e *kube.Env, h *held) (*spec.Facts, error) {
	list, err := intents(e, h.sets)
	if err != nil {
		return nil, err
	}
	facts := &spec.Facts{Workloads: list, Volumes: slices.Clone(e.Run.Facts.Volumes)}
	for _, pv := range h.volumes {
		policy, err := formerPolicy(e, pv)
		if err != nil {
			return nil, err
		}
		for n, v := range facts.Volumes {
			if ref := claimOf(h.claims, v); ref != nil && ref.Spec.VolumeName == pv.GetName() {
				facts.Volumes[n].SourcePV = pv.GetName()
				facts.Volumes[n].SourcePolicy = policy
			}
		}
	}
	return facts, nil
}

func claimOf(claims []corev1.PersistentVolumeClaim, v spec.Volume) *corev1.PersistentVolumeClaim {
	for n := range claims {
		if claims[n].Namespace == v.Namespace && claims[n].Name == v.Claim {
			return &claims[n]
		}
	}
	return nil
}

// formerPolicy is the reclaim policy before any run of this plan.
func formerPolicy(e *kube.Env, pv item) (string, error) {
	p, err := readPrevious(pv)
	if err != nil {
		return "", err
	}
	if policy, ok := recall[string](p, keyReclaimPolicy); ok && ours(e, pv) && pv.reclaimPolicy() == retain {
		return policy, nil
	}
	return pv.reclaimPolicy(), nil
}

func ensureRetain(ctx context.Context, e *kube.Env) error {
	h, err := findHeld(ctx, e)
	if err != nil {
		return err
	}
	return each(append(h.volumes, h.sets...), func(i item) error {
		return change(ctx, e, e.Source, i, func(i item) (*edit, error) {
			if i.kind != volumeKind {
				return retentionEdit(e, i)
			}
			return policyEdit(e, i)
		})
	})
}

func policyEdit(e *kube.Env, pv item) (*edit, error) {
	if pv.reclaimPolicy() == retain || foreign(e, pv) != "" {
		return nil, nil
	}
	annotations, err := remember(e, pv, map[string]any{keyReclaimPolicy: pv.reclaimPolicy()})
	return &edit{spec: map[string]any{"persistentVolumeReclaimPolicy": retain}, annotations: annotations}, err
}

// retentionEdit sets a StatefulSet to Retain/Retain.
func retentionEdit(e *kube.Env, i item) (*edit, error) {
	if i.retains() || foreign(e, i) != "" {
		return nil, nil
	}
	annotations, err := remember(e, i, map[string]any{keyClaimRetention: *i.retention()})
	return &edit{
		spec:        map[string]any{"persistentVolumeClaimRetentionPolicy": spec.ClaimRetention{WhenScaled: retain, WhenDeleted: retain}},
		annotations: annotations,
	}, err
}
