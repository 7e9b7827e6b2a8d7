package kube

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/tranship/tranship/reconciler"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const epochKey = "epoch"

// Guard is asked before every effect: it compares the daemon's epoch with the
// one kept on the cluster, raising the latter by compare-and-swap. A higher
// one there means that another daemon has taken over: ErrSuperseded; or that the
// ledger has lost its number, which a daemon that may take over then raises, and
// s with it. A cluster without our namespace has seen no effect of anybody yet.
func (c *Cluster) Guard(ctx context.Context, s *Settings) error {
	if s.Shard == "" {
		return nil
	}
	asked := time.Now()
	err := c.guard(unfenced(ctx), s)
	if f := fenceOf(ctx); f != nil && err == nil {
		f.note(c, asked)
	}
	return err
}

func (c *Cluster) guard(ctx context.Context, s *Settings) error {
	maps := c.Kube.CoreV1().ConfigMaps(s.Namespace)
	name := "tranship-epoch-" + s.Shard
	have, err := maps.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{LabelManagedBy: ManagedBy}},
			Data:       map[string]string{epochKey: strconv.FormatInt(s.Epoch, 10)},
		}, metav1.CreateOptions{})
		if apierrors.IsNotFound(err) { // the namespace comes with the first effect
			return nil
		}
		return c.wrap(err, "keep the epoch in ConfigMap %s/%s", s.Namespace, name)
	}
	if err != nil {
		return c.wrap(err, "read the epoch in ConfigMap %s/%s", s.Namespace, name)
	}
	epoch, err := strconv.ParseInt(have.Data[epochKey], 10, 64)
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s on cluster %s holds no epoch; another program has changed it: delete it when no other daemon uses this ledger", s.Namespace, name, c.Name)
	}
	if epoch > s.Epoch && s.RaiseAbove == nil {
		return fmt.Errorf("epoch %d in ConfigMap %s/%s on cluster %s is higher than ours, %d; where there is no other daemon, and the ledger was lost and begun anew, start with --take-over: %w",
			epoch, s.Namespace, name, c.Name, s.Epoch, reconciler.ErrSuperseded)
	}
	if epoch > s.Epoch {
		if s.Epoch, err = s.RaiseAbove(ctx, epoch); err != nil {
			return c.wrap(err, "raise our epoch above %d in ConfigMap %s/%s", epoch, s.Namespace, name)
		}
	}
	if epoch == s.Epoch {
		return nil
	}
	// The resourceVersion that came with the read makes this the swap.
	have.Data = map[string]string{epochKey: strconv.FormatInt(s.Epoch, 10)}
	_, err = maps.Update(ctx, have, metav1.UpdateOptions{})
	return c.wrap(err, "raise the epoch in ConfigMap %s/%s", s.Namespace, name)
}

// wrap says on which cluster something could not be done; nil stays nil.
func (c *Cluster) wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cluster %s: cannot %s: %w", c.Name, fmt.Sprintf(format, args...), err)
}

// Errorf is wrap for the other packages of verbs: "cannot <what>" on this
// cluster, with the cause kept for errors.Is.
func (c *Cluster) Errorf(err error, format string, args ...any) error {
	return c.wrap(err, format, args...)
}
