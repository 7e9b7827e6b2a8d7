package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Times of the Lease, those of Kubernetes' own controllers: another daemon
// takes over 15 s after the last word of the one before.
const (
	leaseDuration = 15 * time.Second
	leaseRenew    = 10 * time.Second
	leaseRetry    = 2 * time.Second
)

// underLease runs do while this process holds the Lease "namespace/name", and
// returns when it has lost it. The kubeconfig is a file; "" means the cluster
// that this process runs in. A Lease alone is no fence, since a process that was
// paused still believes in it: what keeps it from acting is the epoch in Git and
// on the clusters, which the next holder raises first.
func underLease(ctx context.Context, log *slog.Logger, name, kubeconfig string, do func(context.Context) error) error {
	namespace, name, ok := strings.Cut(name, "/")
	if !ok || namespace == "" || name == "" {
		return errors.New("--lease must be NAMESPACE/NAME")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot reach the cluster of the Lease: %w; run in a pod, or give --lease-kubeconfig", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot reach the cluster of the Lease: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot learn this machine's name, which the Lease carries: %w", err)
	}
	l := &holding{do: do, log: log, name: namespace + "/" + name, ended: make(chan error, 1)}
	return l.run(ctx, &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Client: client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: fmt.Sprintf("%s_%d_%d", host, os.Getpid(), time.Now().UnixNano())},
	})
}

// holding is one process's way to the Lease and back.
type holding struct {
	do    func(context.Context) error
	log   *slog.Logger
	name  string
	led   atomic.Bool
	ended chan error // of do
}

// run gives the Lease back only when do has ended: until then nobody else may act.
func (h *holding) run(ctx context.Context, lock resourcelock.Interface) error {
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		if !h.led.Load() {
			stop()
		}
	})()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: leaseDuration, RenewDeadline: leaseRenew, RetryPeriod: leaseRetry, ReleaseOnCancel: true, Name: h.name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { h.lead(ctx, leading); stop() },
			OnStoppedLeading: func() { h.log.Info("the Lease is not held", "lease", h.name) },
			OnNewLeader:      func(who string) { h.log.Info("the Lease is held", "lease", h.name, "holder", who) },
		},
	})
	if err != nil {
		return fmt.Errorf("cannot use the Lease %s: %w", h.name, err)
	}
	elector.Run(electing)
	if !h.led.Load() {
		return nil // told to end before it led
	}
	lost := ctx.Err() == nil
	select {
	case err = <-h.ended:
	case <-time.After(leaseDuration):
		err = errors.New("its runs did not end in time")
	}
	if lost && err == nil {
		err = fmt.Errorf("the Lease %s is lost: this daemon acts on nothing any more", h.name)
	}
	return err
}

func (h *holding) lead(ctx, leading context.Context) {
	h.led.Store(true)
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(leading, end)()
	h.ended <- h.do(ctx)
}
