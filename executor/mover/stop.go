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

// thinkStopUpload ends readers and holders on the source, finished or not. It
// is an undo, hence about the plan and not about one attempt: the source must
// not start beside a holder that pins its volume to another node.
func thinkStopUpload(ctx context.Context, e *kube.Env) (thought, error) {
	t := thought{}
	left, err := removeJobs(ctx, e, &t, e.Source, ComponentReader)
	if err != nil {
		return t, err
	}
	sending, err := removeJobs(ctx, e, &t, e.Source, ComponentSender)
	if err != nil {
		return t, err
	}
	left = cmp.Or(left, sending)
	if err := removeIdentities(ctx, e, &t, e.Source); err != nil {
		return t, err
	}
	holders, err := e.Source.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, helpers(e, ComponentHolder))
	if err != nil {
		return t, fmt.Errorf("cannot list our holders on cluster %s: %w", e.Source.Name, err)
	}
	for i := range holders.Items {
		p := &holders.Items[i]
		left = object(spec.Source, "Pod", p.Namespace, p.Name)
		if p.DeletionTimestamp == nil {
			t.move(fmt.Sprintf("remove the holder %s/%s on cluster %s", p.Namespace, p.Name, e.Source.Name), func(ctx context.Context) error {
				return deletePod(ctx, e.Source, p)
			})
		}
	}
	return t.gone(left, watchOf(e.Source, podResource, metav1.NamespaceAll, helpers(e, ComponentHolder).LabelSelector, holders.ResourceVersion)), nil
}

// thinkStopRestore ends writers on the target. What they had begun to write
// keeps its mark, so the next copy compares it by content.
func thinkStopRestore(ctx context.Context, e *kube.Env) (thought, error) {
	t := thought{}
	left, err := removeJobs(ctx, e, &t, e.Target, ComponentWriter)
	if err == nil {
		err = removeIdentities(ctx, e, &t, e.Target)
	}
	return t.gone(left), err
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
