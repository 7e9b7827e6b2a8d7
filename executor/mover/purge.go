package mover

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// annotationPurged of the plan's Secret says that nothing of its volume data is left in the
// store. The Secret is what a purge is made with, and goes with the next step.
const annotationPurged = "tranship.dev/purged"

// kept are the snapshots that an upload leaves in the repository beside its own: the one before,
// until the target is proven to hold the new one, and what the target holds now.
func kept(v *spec.Volume) []string {
	if v.Snapshot == "" {
		return nil
	}
	keep := []string{v.Snapshot}
	if v.Held != "" && v.Held != v.Snapshot {
		keep = append(keep, v.Held)
	}
	if b := v.Back; b != nil {
		keep = append(keep, b.Kept...)
		if b.Snapshot != "" {
			keep = append(keep, b.Snapshot)
		}
	}
	return keep
}

// care tells what a reader did for the repository beside its work.
func care(res engine.Result) []string {
	switch {
	case res.MaintenanceError != "":
		return []string{"the repository was not maintained, the next stage run tries again: " + res.MaintenanceError}
	case res.Maintained != "":
		return []string{"the repository got its " + res.Maintained + " maintenance"}
	}
	return nil
}

// thinkPurge deletes the plan's volume data in the store, by a Job on the target: the source may be
// gone when a plan is closed.
func thinkPurge(ctx context.Context, e *kube.Env) (thought, error) {
	secret, err := e.Target.Kube.CoreV1().Secrets(e.Settings.Namespace).Get(ctx, SecretName(e), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return thought{seen: succeeded(nil, "cluster %s has no credentials of the plan: nothing was ever copied, or it is purged", e.Target.Name)}, nil
	}
	if err != nil {
		return thought{}, fmt.Errorf("cannot read Secret %s/%s of cluster %s: %w", e.Settings.Namespace, SecretName(e), e.Target.Name, err)
	}
	jobs, err := readJobs(ctx, e, e.Target, ComponentPurger)
	if err != nil {
		return thought{}, err
	}
	t := thought{}
	watch := []watched{watchOf(e.Target, podResource, e.Settings.Namespace, helpers(e, ComponentPurger).LabelSelector, jobs.version)}
	var mine, last *helperJob
	for _, h := range jobs.jobs {
		switch {
		case h.leaving():
			last = h
		case h.current && secret.Annotations[annotationPurged] == "":
			mine = h
		default:
			h.removal(&t, e, e.Target, "which is not needed any more")
		}
	}
	switch {
	case secret.Annotations[annotationPurged] != "" && last != nil: // a closed plan leaves nothing, its last pod neither
		t.seen, t.watches = leavingJob(e, e.Target, last), watch
	case secret.Annotations[annotationPurged] != "":
		t.seen = succeeded(nil, "nothing of the plan's volume data is left under %s in bucket %s", request(e, engine.OpPurge).Repository.Prefix, e.Run.Spec.Closure.Repository.Spec.Bucket)
	case mine == nil:
		s := purger(e)
		t.move(fmt.Sprintf("start Job %s/%s on cluster %s, which deletes the plan's volume data", e.Settings.Namespace, s.name, e.Target.Name), func(ctx context.Context) error {
			return s.start(ctx, e, e.Target)
		})
	case mine.active():
		t.seen = working("Purging", object(spec.Target, "Job", e.Settings.Namespace, mine.name), "Job %s/%s on cluster %s deletes the plan's volume data in the store", e.Settings.Namespace, mine.name, e.Target.Name)
		t.watches = watch
	default:
		return purged(ctx, e, t, mine, secret)
	}
	return t, nil
}

// purged deals with a Job that has ended.
func purged(ctx context.Context, e *kube.Env, t thought, h *helperJob, secret *corev1.Secret) (thought, error) {
	res, err := h.report(ctx, e.Target)
	if err != nil {
		return thought{}, err
	}
	if res.Error != "" {
		return failure(spec.Target, e.Target, h, e.Settings.Namespace, res), nil
	}
	t.move(fmt.Sprintf("note on Secret %s/%s of cluster %s that the data is purged", secret.Namespace, secret.Name, e.Target.Name), func(ctx context.Context) error {
		p, err := change{annotations: map[string]any{annotationPurged: e.RunLabel()}}.patch(e, secret)
		if err != nil {
			return err
		}
		_, err = e.Target.Kube.CoreV1().Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, p, metav1.PatchOptions{})
		return err
	})
	return t, nil
}

func purger(e *kube.Env) jobSpec {
	s := jobSpec{component: ComponentPurger, name: e.ObjectName("purge-data"), volumes: map[string]string{}}
	s.assignment.Request = request(e, engine.OpPurge)
	return s
}
