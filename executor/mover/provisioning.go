package mover

import (
	"context"

	"github.com/tranship/tranship/executor/kube"
	workloads "github.com/tranship/tranship/executor/workload"
	corev1 "k8s.io/api/core/v1"
)

// look reads the claim, its volume and, as long as it has none, what its driver says.
func (w *writing) look(ctx context.Context, e *kube.Env) (err error) {
	if w.claim, err = getClaim(ctx, e.Target, e.Settings.Namespace, w.v.StagingClaim); err != nil || w.claim == nil {
		return err
	}
	if w.claim.Status.Phase == corev1.ClaimPending { // only the driver knows what it can give, such as a raw device
		w.refusal = workloads.LastWarning(ctx, e.Target, w.claim.Namespace, w.claim.UID)
	}
	w.pv, err = getVolume(ctx, e.Target, w.claim.Spec.VolumeName)
	return err
}

// stuck explains a writer that does not come up.
func (g *writeGroup) stuck(p *corev1.Pod) string {
	text := stuck(p)
	for _, w := range g.writes {
		if w.refusal != "" {
			text += "; claim " + w.claim.Namespace + "/" + w.claim.Name + ": " + w.refusal
		}
	}
	return text
}
