package mover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// slots are the movers on a cluster, of all plans and of this one. Nil means
// that they are not limited: the copy after the stop waits for nobody, and
// neither do the movers that are started for it, for every second of that wait
// would be one of the application's. They count all the same.
type slots struct {
	e            *kube.Env
	on           *kube.Cluster
	listed       map[string]bool // names of Jobs
	running, own int
}

// afterStop are the steps while which nothing of the application runs.
var afterStop = []string{stepLastUpload, stepLastRestore, reconciler.StepLastUploadTarget, reconciler.StepWriteSource}

// readSlots counts the movers on a cluster, whatever daemon started them.
func readSlots(ctx context.Context, e *kube.Env, on *kube.Cluster) (*slots, error) {
	if slices.Contains(afterStop, e.Step.Name) {
		return nil, nil
	}
	l, err := listJobs(ctx, e, on, metav1.ListOptions{LabelSelector: LabelComponent + " in (" + ComponentReader + "," + ComponentSender + "," + ComponentWriter + ")"})
	if err != nil {
		return nil, err
	}
	s := &slots{e: e, on: on, listed: map[string]bool{}}
	for _, h := range l.jobs {
		s.listed[h.name] = true
		if !h.active() {
			continue
		}
		s.running++
		if h.job != nil && ours(e, h.job) || h.job == nil && ours(e, &h.pods[0]) {
			s.own++
		}
	}
	return s, nil
}

// take takes a slot for a Job, or says what it waits for. The first of the moves
// that start the Job books the slot.
func (s *slots) take(t *thought, job string) *reconciler.Observation {
	if s == nil {
		return nil
	}
	if o := booked.ask(s, job, false); o != nil {
		return o
	}
	s.running, s.own = s.running+1, s.own+1
	t.move(fmt.Sprintf("take one of the movers of cluster %s", s.on.Name), func(ctx context.Context) error {
		now, err := readSlots(ctx, s.e, s.on)
		if err == nil && booked.ask(now, job, true) != nil {
			err = errBusy
		}
		return err
	})
	return nil
}

// errBusy says that another run has taken the last slot since it was counted.
var errBusy = errors.New("as many movers run there as the daemon's configuration allows")

// bookings are slots that are taken and whose Jobs may not be there yet. Runs of
// this daemon that start at the same instant, as schedules make them, would
// otherwise all find the same slots free. Nothing is lost with them.
type bookings struct {
	mu  sync.Mutex
	all map[bookingKey]booking
}

type bookingKey struct {
	on  *kube.Cluster
	job string
}

type booking struct {
	plan  string
	until time.Time
}

// bookingTime is longer than it takes to mark a few claims and to create a Job.
const bookingTime = 20 * time.Second

var booked = bookings{all: map[bookingKey]booking{}}

// ask says what the Job has to wait for, nil for nothing, and books then.
func (b *bookings) ask(s *slots, job string, book bool) *reconciler.Observation {
	b.mu.Lock()
	defer b.mu.Unlock()
	running, own := s.running, s.own
	for k, x := range b.all {
		switch {
		case time.Now().After(x.until):
			delete(b.all, k)
		case k.on != s.on || k.job == job || s.listed[k.job]:
		case x.plan == s.e.Run.Spec.Plan:
			running, own = running+1, own+1
		default:
			running++
		}
	}
	l := s.e.Settings.Limits.OrDefault()
	full := func(field string, limit int) *reconciler.Observation {
		o := working("MoverLimit", "", "waits for one of the %d movers of cluster %s (limits.%s of the daemon's configuration): %d run there, %d of them for this plan", limit, s.on.Name, field, running, own)
		return &o
	}
	switch {
	case own >= l.MoversPerPlan:
		return full("moversPerPlan", l.MoversPerPlan)
	case running >= l.MoversPerCluster:
		return full("moversPerCluster", l.MoversPerCluster)
	}
	if book {
		b.all[bookingKey{s.on, job}] = booking{s.e.Run.Spec.Plan, time.Now().Add(bookingTime)}
	}
	return nil
}
