package mover

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// thinkPolicies gives the volumes and StatefulSets on the target their own
// policies: until a plan is closed everything is kept, come what may.
func thinkPolicies(ctx context.Context, e *kube.Env) (thought, error) {
	t := thought{}
	for i := range e.Run.Facts.Volumes {
		v := &e.Run.Facts.Volumes[i]
		if v.TargetPV == "" || !staged(v) && !moved(v) {
			continue
		}
		pv, err := getVolume(ctx, e.Target, v.TargetPV)
		if err != nil {
			return thought{}, err
		}
		if pv == nil || handle(pv) != v.TargetHandle {
			continue // gone with its claim, or another volume's name by now
		}
		ownPolicy(e, &t, v, pv)
	}
	for i := range e.Run.Facts.Workloads {
		if err := ownRetention(ctx, e, &t, &e.Run.Facts.Workloads[i]); err != nil {
			return thought{}, err
		}
	}
	t.seen = succeeded(nil, "volumes and StatefulSets on the target have their own policies")
	return t, nil
}

func ownPolicy(e *kube.Env, t *thought, v *spec.Volume, pv *corev1.PersistentVolume) {
	own := v.TargetPolicy
	if own == "" {
		own = (&transfer{v: v, pv: pv}).policyBefore()
	}
	if string(pv.Spec.PersistentVolumeReclaimPolicy) == own || pv.Status.Phase != corev1.VolumeBound {
		return // a volume without a claim keeps Retain: with Delete it would go at once
	}
	t.move(fmt.Sprintf("set volume %s on cluster %s back to %s", pv.Name, e.Target.Name, own), func(ctx context.Context) error {
		return patchVolume(ctx, e, e.Target, pv, change{
			annotations: map[string]any{kube.AnnotationPrevious: nil},
			spec:        map[string]any{"persistentVolumeReclaimPolicy": own},
		})
	})
}

// ownRetention restores the retention policy that the source's StatefulSet had
// before it was stopped; its copy on the target was made with Retain.
func ownRetention(ctx context.Context, e *kube.Env, t *thought, w *spec.Workload) error {
	if w.Kind != "StatefulSet" || w.ClaimRetention == nil {
		return nil
	}
	namespace := w.Namespace
	for _, n := range e.Plan().Namespaces {
		if n.Name == w.Namespace && n.TargetName != "" {
			namespace = n.TargetName
		}
	}
	set, err := e.Target.Kube.AppsV1().StatefulSets(namespace).Get(ctx, w.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read StatefulSet %s/%s of cluster %s: %w", namespace, w.Name, e.Target.Name, err)
	}
	if !kube.OfPlan(e, set) {
		return nil // it was there before and stays as it is (existing: Skip)
	}
	want := map[string]any{"whenScaled": w.ClaimRetention.WhenScaled, "whenDeleted": w.ClaimRetention.WhenDeleted}
	have := set.Spec.PersistentVolumeClaimRetentionPolicy
	if have != nil && same(have, w.ClaimRetention) {
		return nil
	}
	t.move(fmt.Sprintf("give StatefulSet %s/%s on cluster %s its own retention policy", namespace, w.Name, e.Target.Name), func(ctx context.Context) error {
		p, err := change{spec: map[string]any{"persistentVolumeClaimRetentionPolicy": want}}.patch(e, set)
		if err != nil {
			return err
		}
		_, err = e.Target.Kube.AppsV1().StatefulSets(namespace).Patch(ctx, w.Name, types.MergePatchType, p, metav1.PatchOptions{})
		return err
	})
	return nil
}

func same(p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, r *spec.ClaimRetention) bool {
	return string(p.WhenScaled) == r.WhenScaled && string(p.WhenDeleted) == r.WhenDeleted
}

// thinkCloseClaims deletes what is left of a closed plan in our namespaces: the
// staged claims on the target, and our Jobs on both clusters. What the
// application has is not ours any more and stays.
func thinkCloseClaims(ctx context.Context, e *kube.Env) (thought, error) {
	t := thought{}
	var wait *reconciler.Observation
	for _, side := range []struct {
		on        *kube.Cluster
		component string
	}{{e.Source, ComponentReader}, {e.Target, ComponentWriter}} {
		jobs, err := readJobs(ctx, e, side.on, side.component)
		if err != nil {
			return thought{}, err
		}
		for _, h := range jobs.jobs {
			if !h.leaving() || (h.job == nil && len(h.pods) > 0 && h.pods[0].DeletionTimestamp == nil) {
				h.removal(&t, e, side.on, "of a closed plan")
			} else {
				o := leavingJob(e, side.on, h)
				wait = &o
			}
		}
	}
	claims, err := stagingClaims(ctx, e)
	if err != nil {
		return thought{}, err
	}
	for i := range claims.Items {
		c := &claims.Items[i]
		if m, err := markOf(c); err != nil || m.kind == spec.MarkLive {
			return thought{seen: broken(true, "LiveClaim", claimAt(c), "claim %s/%s of cluster %s is marked %q: it is not deleted", c.Namespace, c.Name, e.Target.Name, c.Annotations[kube.AnnotationMark])}, nil
		}
		if c.DeletionTimestamp != nil {
			o := working("ClaimLeaving", claimAt(c), "waits until claim %s/%s of cluster %s is gone", c.Namespace, c.Name, e.Target.Name)
			wait = &o
			continue
		}
		t.move(fmt.Sprintf("delete claim %s/%s on cluster %s", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
			return deleteClaim(ctx, e.Target, c)
		})
	}
	t.seen = succeeded(nil, "no claim of the plan is left in namespace %s of cluster %s", e.Settings.Namespace, e.Target.Name)
	if wait != nil {
		t.seen = *wait
		t.watches = []watched{watchOf(e.Target, claimResource, e.Settings.Namespace, helpers(e, ComponentStaging).LabelSelector, claims.ResourceVersion)}
	}
	return t, nil
}
