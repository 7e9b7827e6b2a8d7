package mover

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// thinkStopUpload ends what runs for us on the source, finished or not. It
// is an undo, hence about the plan and not about one attempt: the source must
// not start beside a holder that pins its volume to another node.
func thinkStopUpload(ctx context.Context, e *kube.Env) (thought, error) {
	return stopMovers(ctx, e, e.Source)
}

// thinkStopRestore does the same on the target. What writers had begun to write
// keeps its mark, so the next copy compares it by content.
func thinkStopRestore(ctx context.Context, e *kube.Env) (thought, error) {
	return stopMovers(ctx, e, e.Target)
}

// stopMovers ends the Jobs and holders of the plan on a cluster. Readers and
// writers are looked for on both: a rollback that copies back reads the target.
func stopMovers(ctx context.Context, e *kube.Env, on *kube.Cluster) (thought, error) {
	t, left := thought{}, ""
	for _, component := range []string{ComponentReader, ComponentSender, ComponentWriter} {
		still, err := removeJobs(ctx, e, &t, on, component)
		if err != nil {
			return t, err
		}
		left = cmp.Or(left, still)
	}
	if err := removeIdentities(ctx, e, &t, on); err != nil {
		return t, err
	}
	holders, err := on.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, helpers(e, ComponentHolder))
	if err != nil {
		return t, fmt.Errorf("cannot list our holders on cluster %s: %w", on.Name, err)
	}
	for i := range holders.Items {
		p := &holders.Items[i]
		left = object(on.Side, "Pod", p.Namespace, p.Name)
		if p.DeletionTimestamp == nil {
			t.move(fmt.Sprintf("remove the holder %s/%s on cluster %s", p.Namespace, p.Name, on.Name), func(ctx context.Context) error {
				return deletePod(ctx, on, p)
			})
		}
	}
	return t.gone(left, watchOf(on, podResource, metav1.NamespaceAll, helpers(e, ComponentHolder).LabelSelector, holders.ResourceVersion)), nil
}

// thinkCleanUp removes every helper of the plan from both clusters.
func thinkCleanUp(ctx context.Context, e *kube.Env) (thought, error) {
	t, err := thinkStopUpload(ctx, e)
	if err != nil {
		return t, err
	}
	r, err := thinkStopRestore(ctx, e)
	t.moves = append(t.moves, r.moves...)
	if t.seen.Object == "" {
		t.seen = r.seen
	}
	t.watches = append(t.watches, r.watches...)
	if err != nil || !slices.ContainsFunc(e.Run.Facts.Volumes, func(v spec.Volume) bool { return snapshotted(&v) }) {
		return t, err
	}
	return cleanUpSnapshots(ctx, e, t)
}

// gone is the answer when moves are made or nothing is left.
func (t thought) gone(left string, ws ...watched) thought {
	if left != "" || len(t.moves) > 0 {
		t.seen = working("Removing", left, "waiting until the helpers that copy volumes are gone")
		t.watches = append(t.watches, ws...)
		return t
	}
	t.seen = succeeded(nil, "no helper that copies volumes is left")
	return t
}

// removeJobs adds the moves that end every Job of a component; left names one
// that is still there.
func removeJobs(ctx context.Context, e *kube.Env, t *thought, on *kube.Cluster, component string) (left string, err error) {
	l, err := readJobs(ctx, e, on, component)
	if err != nil {
		return "", err
	}
	for _, h := range l.jobs {
		left = object(on.Side, "Job", e.Settings.Namespace, h.name)
		if !h.leaving() {
			h.removal(t, e, on, "which is no longer wanted")
		}
	}
	if left != "" {
		t.watches = append(t.watches, watchOf(on, corev1.SchemeGroupVersion.WithResource("pods"), e.Settings.Namespace, helpers(e, component).LabelSelector, l.version))
	}
	return left, nil
}
