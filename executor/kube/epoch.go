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
	_, err := c.Raise(ctx, s)
	return err
}

// Raise is Guard, and says whether the epoch stands on the cluster now: without our
// namespace it does not.
func (c *Cluster) Raise(ctx context.Context, s *Settings) (stands bool, err error) {
	if s.Shard == "" {
		return true, nil
	}
	asked := time.Now()
	stands, err = c.raise(unfenced(ctx), s)
	if f := fenceOf(ctx); f != nil && err == nil {
		f.note(c, asked)
	}
	return stands, err
}

func (c *Cluster) raise(ctx context.Context, s *Settings) (stands bool, err error) {
	maps := c.Kube.CoreV1().ConfigMaps(s.Namespace)
	name := "tranship-epoch-" + s.Shard
	have, err := maps.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{LabelManagedBy: ManagedBy}},
			Data:       map[string]string{epochKey: strconv.FormatInt(s.Epoch, 10)},
		}, metav1.CreateOptions{})
		if apierrors.IsNotFound(err) { // the namespace comes with the first effect
			return false, nil
		}
		return err == nil, c.wrap(err, "keep the epoch in ConfigMap %s/%s", s.Namespace, name)
	}
	if err != nil {
		return false, c.wrap(err, "read the epoch in ConfigMap %s/%s", s.Namespace, name)
	}
	epoch, err := strconv.ParseInt(have.Data[epochKey], 10, 64)
	if err != nil {
		return false, fmt.Errorf("ConfigMap %s/%s on cluster %s holds no epoch; another program has changed it: delete it when no other daemon uses this ledger", s.Namespace, name, c.Name)
	}
	if epoch > s.Epoch && s.RaiseAbove == nil {
		return false, fmt.Errorf("epoch %d in ConfigMap %s/%s on cluster %s is higher than ours, %d; where there is no other daemon, and the ledger was lost and begun anew, start with --take-over: %w",
			epoch, s.Namespace, name, c.Name, s.Epoch, reconciler.ErrSuperseded)
	}
	if epoch > s.Epoch {
		if s.Epoch, err = s.RaiseAbove(ctx, epoch); err != nil {
			return false, c.wrap(err, "raise our epoch above %d in ConfigMap %s/%s", epoch, s.Namespace, name)
		}
	}
	if epoch == s.Epoch {
		return true, nil
	}
	// The resourceVersion that came with the read makes this the swap.
	have.Data = map[string]string{epochKey: strconv.FormatInt(s.Epoch, 10)}
	_, err = maps.Update(ctx, have, metav1.UpdateOptions{})
	return err == nil, c.wrap(err, "raise the epoch in ConfigMap %s/%s", s.Namespace, name)
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
