package kube

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Keys of the ConfigMap by which a plan holds its name on a cluster.
const (
	shardKey  = "shard"
	ledgerKey = "ledger"
)

func planNameMap(e *Env) string { return "tranship-plan-" + Short(e.Run.Spec.Plan) }

// NameTaken says that a plan of another ledger has this plan's name on the
// cluster, "" when not: what is ours there is told by the name, so that one of the
// two would take the other's objects for its own.
func (c *Cluster) NameTaken(ctx context.Context, e *Env) (string, error) {
	_, taken, err := c.name(ctx, e)
	return taken, err
}

func (c *Cluster) name(ctx context.Context, e *Env) (held bool, taken string, err error) {
	have, err := c.Kube.CoreV1().ConfigMaps(e.Settings.Namespace).Get(ctx, planNameMap(e), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, "", nil
	}
	if err != nil {
		return false, "", c.wrap(err, "read who has the name of plan %s", e.Run.Spec.Plan)
	}
	if e.Settings.Shard == "" || have.Data[shardKey] == e.Settings.Shard {
		return true, "", nil
	}
	return true, fmt.Sprintf("cluster %s: another ledger (%s; ours is %s) acts on a plan %s there, in namespace %s too; if the plan came from that shard, give it back there (its folder or labels) in the state that it had, and close it with a later commit before it moves; otherwise give one of them another name, let one shard only have it by its paths and selector, or set another spec.namespace in the daemon's configuration. Only where that ledger is this one under an older address, delete ConfigMap %s/%s on both clusters",
		c.Name, have.Data[ledgerKey], e.Settings.Ledger, e.Run.Spec.Plan, e.Settings.Namespace, e.Settings.Namespace, have.Name), nil
}

// HoldName is asked before every effect but those of an undo or a rollback: what was
// done is taken back, whatever the ledger is called by now. Closing asks only: it
// takes the ConfigMap away with everything else of the plan.
func (c *Cluster) HoldName(ctx context.Context, e *Env) error {
	kind := e.Run.Spec.Kind
	if e.Settings.Shard == "" || e.Undo || kind == spec.RunRollback {
		return nil
	}
	held, taken, err := c.name(ctx, e)
	if err == nil && taken != "" {
		err = fmt.Errorf("PlanNameTaken: %s", taken)
	}
	if err != nil || held || kind == spec.RunClose {
		return err
	}
	_, err = c.Kube.CoreV1().ConfigMaps(e.Settings.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: planNameMap(e), Labels: map[string]string{LabelManagedBy: ManagedBy, LabelPlan: Short(e.Run.Spec.Plan)}, Annotations: map[string]string{AnnotationPlan: e.Run.Spec.Plan}},
		Data:       map[string]string{shardKey: e.Settings.Shard, ledgerKey: e.Settings.Ledger},
	}, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) { // the namespace comes with the first effect
		return nil
	}
	return c.wrap(err, "hold the name of plan %s", e.Run.Spec.Plan) // two at once: the next look tells who was first
}
