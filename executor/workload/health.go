package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

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
	switch o.Seen {
	case reconciler.Working:
		o.Wake = wake(ctx, e, e.Target, places)
	case reconciler.Succeeded:
		o.Message = fmt.Sprintf("%d workloads of the target are healthy", len(list))
		o.Facts = &spec.Facts{Times: withTime(e, reconciler.TimeHealthy, time.Now())}
	}
	return o, nil
}

// healthVerdict never ends the step by itself: an application that crashes
// may still find its database a minute later. The step's deadline does.
func healthVerdict(e *kube.Env, p pair) verdict {
	w, i := p.recorded, p.item
	switch {
	case !i.exists() && w.Replicas == 0, i.exists() && alien(e, i):
		return verdict{seen: reconciler.Succeeded}
	case !i.exists():
		return verdict{reconciler.Broken, "WorkloadMissing", kube.Describe(w.Object) + " is gone; find out who deleted it on the target", w.Object, true}
	case i.replicas() == 0 && w.Replicas > 0:
		return verdict{reconciler.Broken, "ScaledDown", fmt.Sprintf("%s was started and then scaled to zero by somebody else; pause what manages it, then migrate again", kube.Describe(w.Object)), w.Object, true}
	}
	if missing := i.kind.unhealthy(i); missing != "" {
		return verdict{reconciler.Working, "NotReady", kube.Describe(w.Object) + ": " + missing, w.Object, false}
	}
	return verdict{seen: reconciler.Succeeded}
}
