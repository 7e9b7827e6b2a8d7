package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// lookHealth judges the workloads first, and once these run everything else:
// most of it follows from pods.
func lookHealth(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	list, places, err := onTarget(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	var verdicts []verdict
	for _, p := range list {
		v := healthVerdict(e, p)
		if v.seen == reconciler.Working && len(verdicts) < named {
			v.explain(ctx, e.Target, p.item)
		}
		verdicts = append(verdicts, v)
	}
	o := fold(forward, verdicts)
	if o.Seen != reconciler.Succeeded {
		if o.Seen == reconciler.Working {
			o.Wake = wake(ctx, e, e.Target, places)
		}
		return o, nil
	}
	r, err := judgeRestored(ctx, e, list)
	if err != nil {
		return reconciler.Observation{}, err
	}
	below, err := operandsThere(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	r.verdicts = append(r.verdicts, below...)
	if o = fold(forward, r.verdicts); o.Seen != reconciler.Succeeded {
		o.Wake, o.Poll = wake(ctx, e, e.Target, append(places, r.places...)), time.Second // conditions are not watched
		return o, nil
	}
	o.Message = fmt.Sprintf("%d workloads of the target and %d other objects are healthy", len(list), len(r.verdicts))
	o.Facts = &spec.Facts{Times: withTime(e, reconciler.TimeHealthy, time.Now()), Counts: kube.WithTarget(e.Run.Facts.Counts, r.found)}
	return o, nil
}

// healthVerdict never ends the step by itself: an application that crashes
// may still find its database a minute later. The step's deadline does.
func healthVerdict(e *kube.Env, p pair) verdict {
	w, i := p.recorded, p.item
	switch {
	case !i.exists() && mayLack(p), w.PartOf != "", i.exists() && alien(e, i):
		return verdict{seen: reconciler.Succeeded}
	case !i.exists():
		return verdict{reconciler.Broken, "WorkloadMissing", kube.Describe(w.Object) + " is gone; find out who deleted it on the target", w.Object, true}
	case i.held() && i.ran(w):
		return verdict{reconciler.Broken, "ScaledDown", fmt.Sprintf("%s was started and then %s by somebody else; pause what manages it, then migrate again", kube.Describe(w.Object), i.kind.brake.done), w.Object, true}
	case i.kind.brake == byNodeSelector && w.Replicas > 0 && i.observed() && i.wantedPods() == 0:
		return verdict{reconciler.Working, "NoNode", fmt.Sprintf("%s: no node of the target fits its node selector, affinity and tolerations; on the source it ran on %d", kube.Describe(w.Object), w.Replicas), w.Object, false}
	}
	if missing := i.kind.unhealthy(i); missing != "" {
		return verdict{reconciler.Working, "NotReady", kube.Describe(w.Object) + ": " + missing, w.Object, false}
	}
	return verdict{seen: reconciler.Succeeded}
}
