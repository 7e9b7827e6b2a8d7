package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// barePods are the pods without a controller, as the stop and what comes after it
// meet them: kept by an earlier step, deleted by the stop, made anew by the restart.
type barePods struct {
	kept     []kube.KeptPod
	verdicts []verdict
	places   []place
	stopped  time.Time          // the first of them; zero: none
	covered  map[types.UID]bool // those that run and that the plan covers
}

// stopBare judges the covered pods without a controller. Only one that is kept, and
// on record as that, is deleted; one that nobody knows ends the step.
func stopBare(ctx context.Context, e *kube.Env) (*barePods, error) {
	running, places, err := runningBare(ctx, e)
	if err != nil {
		return nil, err
	}
	b := &barePods{places: places, covered: map[types.UID]bool{}}
	for _, i := range running {
		b.covered[i.GetUID()] = true
	}
	if e.KeepsPods() {
		if b.kept, err = e.KeptPods(ctx); err != nil {
			return nil, err
		}
	}
	byName, known := map[string]*kube.KeptPod{}, map[string]bool{}
	for n := range b.kept {
		k := &b.kept[n]
		if err := k.Unread(); err != nil {
			b.verdicts = append(b.verdicts, verdict{reconciler.Broken, reconciler.ReasonKeptObjectGone, err.Error(), k.Object(), true})
			continue
		}
		o := k.Object()
		byName[o.Namespace+"/"+o.Name] = k
		if recordedPod(e, o) && k.Vanished(e) {
			b.verdicts = append(b.verdicts, verdict{reconciler.Broken, "WorkloadGone", kube.Describe(o) + " was deleted or evicted after the application was listed, as a node that is drained does; make it again, then migrate again", o, true})
			continue
		}
		if k.Same() && recordedPod(e, o) {
			known[o.UID] = true
			b.verdicts = append(b.verdicts, b.stopVerdict(k))
		}
		// What an earlier run has stopped is not when this one did.
		if at := k.StoppedAt(); !at.IsZero() && !at.Before(e.Run.Status.Started.Time) && (b.stopped.IsZero() || at.Before(b.stopped)) {
			b.stopped = at
		}
	}
	for _, i := range running {
		if !known[string(i.GetUID())] {
			b.verdicts = append(b.verdicts, strangeBare(i, byName[i.GetNamespace()+"/"+i.GetName()]))
		}
	}
	return b, nil
}

// runningBare lists those of the source that have not ended and do not end.
func runningBare(ctx context.Context, e *kube.Env) (running []kube.Item, places []place, err error) {
	sel, err := e.Selector()
	if err != nil {
		return nil, nil, err
	}
	for _, ns := range e.Namespaces(spec.Source) {
		l, err := e.Source.Dynamic.Resource(podsResource).Namespace(ns).List(ctx, metav1.ListOptions{LabelSelector: sel})
		if err != nil {
			return nil, nil, e.Source.Errorf(err, "list pods in namespace %s", ns)
		}
		if len(l.Items) > 0 {
			places = append(places, place{podsResource, ns, l.GetResourceVersion()})
		}
		for n := range l.Items {
			i := kube.Item{GVR: podsResource, Unstructured: &l.Items[n]}
			if kube.Bare(i) && !kube.Ours(i) && !kube.Finished(i) && i.GetDeletionTimestamp() == nil {
				running = append(running, i)
			}
		}
	}
	return running, places, nil
}

func recordedPod(e *kube.Env, o spec.Object) bool {
	for _, c := range e.Run.Facts.Custom {
		if c.UID == o.UID {
			return true
		}
	}
	return false
}

// stopVerdict is about a kept pod that is there. What ended by itself before the
// stop, or is being deleted by a hook, is not the stop's.
func (b *barePods) stopVerdict(k *kube.KeptPod) verdict {
	o := k.Object()
	switch {
	case k.Leaving():
		return endingBare(k)
	case k.StoppedAt().IsZero() && kube.Finished(*k.Now):
		return verdict{seen: reconciler.Succeeded}
	case !b.covered[k.Now.GetUID()] && !kube.Finished(*k.Now):
		return verdict{reconciler.Broken, "WorkloadGone", kube.Describe(o) + " lost the plan's labels after the application was listed; migrate again once nothing is being deployed", o, true}
	}
	return verdict{reconciler.Absent, "", kube.Describe(o) + " has no controller and runs", o, false}
}

func endingBare(k *kube.KeptPod) verdict {
	o := k.Object()
	p, err := kube.Pod(*k.Now)
	if err != nil {
		return verdict{reconciler.Working, "PodTerminating", err.Error(), o, false}
	}
	reason, message := describeLeft(left{pod: *p, owner: "the plan"}, time.Now())
	return verdict{reconciler.Working, reason, message, o, false}
}

// strangeBare names a pod that runs and is not what was kept, and who made it.
func strangeBare(i kube.Item, k *kube.KeptPod) verdict {
	o := i.Record(spec.Source)
	broken := func(reason, format string, args ...any) verdict {
		return verdict{reconciler.Broken, reason, kube.Describe(o) + fmt.Sprintf(format, args...), o, true}
	}
	switch {
	case k == nil:
		return broken("NewWorkload", " has no controller, and appeared after the application was listed, or the Secret that keeps it is gone; migrate again once nothing is being deployed")
	case k.StoppedAt().IsZero():
		return broken("WorkloadReplaced", " was deleted and made anew after the application was listed; migrate again once nothing is being deployed")
	}
	who := "somebody"
	for _, m := range i.GetManagedFields() {
		if m.Subresource == "" && m.Manager != "" {
			who = fmt.Sprintf("%q", m.Manager)
			if m.Time != nil {
				who += " at " + m.Time.UTC().Format(time.RFC3339)
			}
			break
		}
	}
	if keeper := kube.Keeper(i); keeper != "" {
		who += fmt.Sprintf(" (it is kept by %s)", keeper)
	}
	return broken("ScaledBackUp", " was deleted by the stop and made anew by %s; pause what makes it, then migrate again", who)
}

// during are the verdicts of the stop itself: whether the pods have gone is for the
// next step to wait for. Nothing is deleted before what scales others is paused.
func (b *barePods) during(paused bool) (now []verdict) {
	for _, v := range b.verdicts {
		if v.seen == reconciler.Broken || v.seen == reconciler.Absent && paused {
			now = append(now, v)
		}
	}
	return now
}

// gone counts those that the stop has deleted.
func (b *barePods) gone() (n int) {
	for _, k := range b.kept {
		if !k.StoppedAt().IsZero() {
			n++
		}
	}
	return n
}

// stop deletes those that are to be deleted.
func (b *barePods) stop(ctx context.Context, e *kube.Env) error {
	var pods []*kube.KeptPod
	for n := range b.kept {
		k := &b.kept[n]
		if k.Unread() == nil && k.Same() && recordedPod(e, k.Object()) && b.stopVerdict(k).seen == reconciler.Absent {
			pods = append(pods, k)
		}
	}
	return each(pods, func(k *kube.KeptPod) error { return e.StopPod(ctx, k) })
}

// startBare judges the pods that the stop has deleted, on their way back. They come
// beside the workloads, which they may need, and are waited for no longer than a
// custom resource is: what is broken there must not keep the undo from its end.
func startBare(ctx context.Context, e *kube.Env) (*barePods, error) {
	all, err := e.KeptPods(ctx)
	if err != nil {
		return nil, err
	}
	b := &barePods{}
	for n := range all {
		k := &all[n]
		if k.StoppedAt().IsZero() {
			continue
		}
		b.kept = append(b.kept, *k)
		b.verdicts = append(b.verdicts, startBareVerdict(e, k))
	}
	lost, err := e.LostPods(ctx, all)
	if err != nil {
		return nil, err
	}
	for _, o := range lost {
		b.verdicts = append(b.verdicts, verdict{reconciler.Succeeded, reconciler.ReasonKeptObjectGone,
			kube.Describe(o) + " is not there, and the Secret that kept what it was is gone; make it again by hand, if no hook has removed it", o, false})
	}
	return b, nil
}

func startBareVerdict(e *kube.Env, k *kube.KeptPod) verdict {
	o := k.Object()
	say := func(seen reconciler.Seen, reason, format string, args ...any) verdict {
		return verdict{seen, reason, kube.Describe(o) + fmt.Sprintf(format, args...), o, false}
	}
	keeps := fmt.Sprintf("; %s on cluster %s keeps what it was", k.Keeper(), e.Source.Name)
	if err := k.Unread(); err != nil {
		return say(reconciler.Succeeded, reconciler.ReasonNotPutBack, " cannot be made again of what it keeps: %v", err)
	}
	tried, waited := e.Waited(k)
	if settled, ours := k.Settled(); settled {
		lacks := k.Lacks()
		switch {
		case !ours:
			return say(reconciler.Succeeded, reconciler.ReasonMadeAgain, " was made again by somebody after the stop had deleted it, and is left as it is%s", keeps)
		case lacks == "":
			return say(reconciler.Absent, "", " is back, and what kept it is to be removed")
		case k.Now == nil:
			return say(reconciler.Succeeded, reconciler.ReasonPodNotReady, " was put back, and deleted by somebody since%s", keeps)
		case waited:
			return say(reconciler.Succeeded, reconciler.ReasonPodNotReady, " was put back and %s, as it was before the stop", lacks)
		}
		return say(reconciler.Working, "WaitsForHealth", " %s", lacks)
	}
	switch {
	case waited && (k.Leaving() || tried && k.Now == nil):
		return say(reconciler.Succeeded, reconciler.ReasonNotPutBack, " cannot be put back%s", keeps)
	case k.Leaving():
		return endingBare(k)
	}
	return say(reconciler.Absent, "", " is to be put back")
}

// start puts back, or forgets, those of which that is to be done.
func (b *barePods) start(ctx context.Context, e *kube.Env) error {
	return each(b.kept, func(k kube.KeptPod) error {
		if startBareVerdict(e, &k).seen != reconciler.Absent {
			return nil
		}
		if settled, _ := k.Settled(); settled {
			return e.Forget(ctx, &k)
		}
		return e.PutPodBack(ctx, &k)
	})
}
