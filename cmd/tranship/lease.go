package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseTimes say until when who may act. Another daemon takes over no earlier than
// duration after the newest renewal was sent; what this one does is over after
// renew + end, which must be less (a test holds it).
type leaseTimes struct {
	duration time.Duration
	renew    time.Duration // without a renewal for so long, what is done is told to end,
	end      time.Duration // and has so long for it: its requests are cut off
	retry    time.Duration // between two renewals
}

// leaseDefault has the duration that Kubernetes' own controllers have.
var leaseDefault = leaseTimes{duration: 15 * time.Second, renew: 9 * time.Second, end: 5 * time.Second, retry: 2 * time.Second}

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
	h := &holding{do: do, log: log, name: namespace + "/" + name, times: leaseDefault}
	return h.run(ctx, &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Client: client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: fmt.Sprintf("%s_%d_%d", host, os.Getpid(), time.Now().UnixNano())},
	})
}

// standBy answers the probes of a daemon that waits for its Lease, until the returned
// function is called: it is ready to relieve the other one, and a rollout goes on. All
// else is refused, since only the other one can do anything about it. An empty address
// means no server.
func standBy(address string) (end func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for probes: %w", err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 16, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const why = "this daemon waits for the Lease: another one acts"
		if r.Method == http.MethodGet && (r.URL.Path == "/healthz" || r.URL.Path == "/readyz") {
			fmt.Fprintln(w, why)
			return
		}
		http.Error(w, why, http.StatusServiceUnavailable)
	})}
	go func() { _ = s.Serve(l) }() // it ends by Close
	return func() { _ = s.Close() }, nil
}

// holding is one process's way to the Lease and back.
type holding struct {
	do    func(context.Context) error
	log   *slog.Logger
	name  string
	times leaseTimes
}

// run gives the Lease back only when do has ended: until then nobody else may act.
// The elector would give it up before it says that it is lost, so it is not asked to.
func (h *holding) run(ctx context.Context, lock resourcelock.Interface) error {
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	acting, end := context.WithCancel(ctx)
	defer end()
	told, late := time.AfterFunc(h.times.duration, end), time.NewTimer(h.times.duration)
	told.Stop() // both begin with the first renewal
	late.Stop()
	defer told.Stop()
	leading := make(chan context.Context, 1)
	elector, err := h.elector(timed{lock, func(sent time.Time) {
		told.Reset(time.Until(sent.Add(h.times.renew)))
		late.Reset(time.Until(sent.Add(h.times.renew + h.times.end)))
	}}, leading)
	if err != nil {
		return err
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		elector.Run(electing)
	}()
	select {
	case <-ctx.Done(): // told to end before it led
		stop()
		<-over
		h.giveBack(ctx, elector, lock)
		return nil
	case lead := <-leading:
		defer context.AfterFunc(lead, end)()
	}
	ended := make(chan error, 1)
	go func() { ended <- h.do(acting) }()
	select {
	case err = <-ended:
	case <-late.C:
		return fmt.Errorf("the Lease %s is lost: this daemon acts on nothing any more, though its runs did not end in time", h.name)
	}
	lost := ctx.Err() == nil
	stop()
	select {
	case <-over:
		h.giveBack(ctx, elector, lock)
	case <-late.C: // the API server keeps a renewal waiting
	}
	if lost && err == nil {
		err = fmt.Errorf("the Lease %s is lost: this daemon acts on nothing any more", h.name)
	}
	return err
}

func (h *holding) elector(lock resourcelock.Interface, leading chan<- context.Context) (*leaderelection.LeaderElector, error) {
	e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: h.times.duration, RenewDeadline: h.times.renew, RetryPeriod: h.times.retry, Name: h.name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { leading <- ctx },
			OnStoppedLeading: func() { h.log.Info("the Lease is not held", "lease", h.name) },
			OnNewLeader:      func(who string) { h.log.Info("the Lease is held", "lease", h.name, "holder", who) },
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use the Lease %s: %w", h.name, err)
	}
	return e, nil
}

// giveBack lets the next daemon begin at once; where it fails, the Lease runs out.
func (h *holding) giveBack(ctx context.Context, elector *leaderelection.LeaderElector, lock resourcelock.Interface) {
	if !elector.IsLeader() {
		return
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), h.times.end)
	defer stop()
	has, _, err := lock.Get(ctx)
	if err == nil && has.HolderIdentity == lock.Identity() {
		now := metav1.Now()
		err = lock.Update(ctx, resourcelock.LeaderElectionRecord{LeaderTransitions: has.LeaderTransitions, LeaseDurationSeconds: 1, AcquireTime: now, RenewTime: now})
	}
	if err != nil {
		h.log.Warn("the Lease could not be given back; it runs out by itself", "lease", h.name, "error", err)
	}
}

// timed is a lock that says when each renewal that went well was sent.
type timed struct {
	resourcelock.Interface
	renewed func(sent time.Time)
}

// Create implements resourcelock.Interface.
func (t timed) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	sent := time.Now()
	err := t.Interface.Create(ctx, r)
	if err == nil {
		t.renewed(sent)
	}
	return err
}

// Update implements resourcelock.Interface.
func (t timed) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	sent := time.Now()
	err := t.Interface.Update(ctx, r)
	if err == nil {
		t.renewed(sent)
	}
	return err
}
