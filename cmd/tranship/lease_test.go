package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// What is done has ended before another daemon may take over, and a renewal or
// two may fail.
func TestLeaseTimes(t *testing.T) {
	d := leaseDefault
	if d.renew+d.end >= d.duration {
		t.Errorf("what is done may go on for %s after the last renewal, and another daemon begins after %s", d.renew+d.end, d.duration)
	}
	if 3*d.retry >= d.renew {
		t.Errorf("two renewals that fail, %s apart, end a daemon that has %s", d.retry, d.renew)
	}
}

// TestADaemonThatWaitsIsReady: a rollout of two daemons goes on when the one that waits is
// ready, and what only the other can do is refused.
func TestADaemonThatWaitsIsReady(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	end, err := standBy(address)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	for request, want := range map[string]int{"GET /healthz": 200, "GET /readyz": 200, "POST /readyz": 503, "GET /metrics": 503, "POST /hook/abc": 503, "POST /reconcile": 503} {
		method, path, _ := strings.Cut(request, " ")
		r, err := http.NewRequest(method, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want || !strings.Contains(string(said), "waits for the Lease") {
			t.Errorf("%s: %s %s", request, res.Status, said)
		}
	}
	if _, err := standBy(address); err == nil {
		t.Error("an address that is taken is no error")
	}
	end()
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the daemon that acts finds its address taken: %v", err)
	}
	again.Close()
}

// A daemon that could not act with the Lease says so at once, and is never ready: a
// rollout would replace the one that acts by another that cannot.
func TestWhoCannotActDoesNotStandBy(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	good := file("good.yaml", "apiVersion: tranship.dev/v1alpha1\nkind: DaemonConfig\nmetadata: {name: x}\nspec:\n  source: {url: 'https://git.example.com/plans.git'}\n  mover: {image: x}\n")
	broken, short := file("broken.yaml", "kind: x\n"), file("token", "short")
	for _, c := range []struct {
		f    runFlags
		says string
	}{
		{runFlags{common: configFlags{config: broken, secretsDir: dir}}, "the configuration has"},
		{runFlags{common: configFlags{config: good}}, "give --secrets-dir"},
		{runFlags{common: configFlags{config: good, secretsDir: dir}, tokenFile: short}, "shorter than 16 characters"},
		{runFlags{common: configFlags{config: good, secretsDir: dir}}, "cannot reach the cluster of the Lease"},
	} {
		c.f.lease, c.f.leaseAt = "a/b", filepath.Join(dir, "none")
		if err := c.f.serve(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v, want %s", err, c.says)
		}
	}
}

// leased is a Lease on an API server that can stop answering renewals.
type leased struct {
	resourcelock.LeaseLock
	renewals func() error // what becomes of each after the first
	given    atomic.Bool  // back
}

func newLeased(renewals func() error) *leased {
	l := &leased{renewals: renewals}
	client := fake.NewClientset()
	client.PrependReactor("update", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
		lease := a.(clienttesting.UpdateAction).GetObject().(*coordinationv1.Lease)
		if h := lease.Spec.HolderIdentity; h == nil || *h == "" {
			l.given.Store(true)
			return false, nil, nil
		}
		if err := l.renewals(); err != nil {
			return true, nil, err
		}
		return false, nil, nil
	})
	l.LeaseLock = resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: "ours", Name: "one"}, Client: client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: "me"}}
	return l
}

// under runs do with a short time to renew; no test asks for how long anything takes.
func (l *leased) under(ctx context.Context, end time.Duration, do func(context.Context) error) chan error {
	h := &holding{do: do, log: slog.New(slog.DiscardHandler), name: "ours/one",
		times: leaseTimes{duration: 10 * time.Minute, renew: 200 * time.Millisecond, end: end, retry: 20 * time.Millisecond}}
	done := make(chan error, 1)
	go func() { done <- h.run(ctx, &l.LeaseLock) }()
	return done
}

func outcome(t *testing.T, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(5 * time.Minute):
		t.Fatal("it holds on to the Lease")
		return nil
	}
}

// The next daemon may begin as soon as the Lease is given back, so that comes
// after the last act of this one, also where the Lease was lost.
func TestLeaseIsGivenBackWhenAllHasEnded(t *testing.T) {
	fine, refuse := func() error { return nil }, func() error { return errors.New("the API server is away") }
	for name, c := range map[string]struct {
		renewals func() error
		told     bool
		says     string
	}{
		"told to end":    {fine, true, ""},
		"renewals fail":  {refuse, false, "acts on nothing any more"},
		"ends by itself": {fine, false, "enough"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLeased(c.renewals)
			ctx, tell := context.WithCancel(t.Context())
			defer tell()
			early := false
			err := outcome(t, l.under(ctx, 5*time.Minute, func(acting context.Context) error {
				if c.told {
					tell()
				}
				if c.says == "enough" {
					return errors.New("enough")
				}
				<-acting.Done()
				early = l.given.Load()
				return nil
			}))
			if early || !l.given.Load() {
				t.Errorf("given back before the end: %t; afterwards: %t", early, l.given.Load())
			}
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says %v", err)
			}
		})
	}
}

// An API server that never answers a renewal, and something that does not end:
// the daemon ends all the same, and leaves the Lease to run out.
func TestLeaseIsNotGivenBackBeforeTheEnd(t *testing.T) {
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	for name, renewals := range map[string]func() error{
		"refused":      func() error { return errors.New("the API server is away") },
		"not answered": func() error { <-never; return errors.New("the API server is away") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLeased(renewals)
			told := make(chan struct{})
			err := outcome(t, l.under(t.Context(), 200*time.Millisecond, func(acting context.Context) error {
				<-acting.Done()
				close(told)
				<-never
				return nil
			}))
			<-told // or the test ends by its deadline
			if err == nil || !strings.Contains(err.Error(), "acts on nothing any more") || l.given.Load() {
				t.Errorf("it says %v; given back: %t", err, l.given.Load())
			}
		})
	}
}

// A daemon that ends while another one leads takes nothing with it.
func TestLeaseOfAnother(t *testing.T) {
	l := newLeased(func() error { return nil })
	other, now := "other", metav1.NowMicro()
	seconds := int32(3600)
	_, err := l.Client.Leases("ours").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "ours", Name: "one"},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &other, LeaseDurationSeconds: &seconds, RenewTime: &now, AcquireTime: &now}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, tell := context.WithCancel(t.Context())
	done := l.under(ctx, 5*time.Minute, func(context.Context) error { t.Error("it acts without the Lease"); return nil })
	tell()
	if err := outcome(t, done); err != nil || l.given.Load() {
		t.Errorf("%v; given back: %t", err, l.given.Load())
	}
}
