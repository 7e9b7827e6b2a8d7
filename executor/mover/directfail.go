package mover

import (
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
)

// failure finds a Job that ended with an error. Of two that tell of the same
// broken connection the one that knows more is chosen.
func (d *directView) failure() (h *helperJob, on *kube.Cluster, r engine.Result) {
	if d.up.failed != nil {
		h, on, r = d.up.failed, d.e.Source, d.up.failure
	}
	for _, j := range d.down.jobs.jobs {
		res := d.down.results[j]
		if res.Error != "" && (h == nil || r.Reason == engine.ReasonDirectBroken || r.Reason == engine.ReasonCancelled) {
			h, on, r = j, d.e.Target, res
		}
	}
	return h, on, r
}

// atOnce are reasons for which a direct transfer is not tried again in a run,
// and later those for which a second attempt is worth it.
var (
	atOnce = map[engine.Reason]bool{
		engine.ReasonDirectUnreachable: true, engine.ReasonDirectUntrusted: true, engine.ReasonNoSpace: true, engine.ReasonDirectTooLarge: true,
	}
	later = map[engine.Reason]bool{
		engine.ReasonDirectBroken: true, engine.ReasonContentElsewhere: true, engine.ReasonCancelled: true,
		"HelperDied": true, "HelperLost": true,
	}
)

// fail ends both sides, and then gives the volumes that are not done to the
// repository, or tries again.
func (d *directView) fail(h *helperJob, on *kube.Cluster, r engine.Result) thought {
	t := thought{}
	for _, l := range []struct {
		on   *kube.Cluster
		jobs *jobList
	}{{d.e.Source, d.up.jobs}, {d.e.Target, d.down.jobs}} {
		for _, j := range l.jobs.jobs {
			if !j.active() {
				continue
			}
			if !j.leaving() {
				j.removal(&t, d.e, l.on, "whose other end has failed")
			}
			t.seen = working("Ending", object(l.on.Side, "Job", d.e.Settings.Namespace, j.name), "waits until Job %s/%s has ended on cluster %s", d.e.Settings.Namespace, j.name, l.on.Name)
		}
	}
	if t.seen.Message != "" {
		return t
	}
	if !atOnce[r.Reason] && (!later[r.Reason] || d.e.Step.Attempt < 2) {
		o := failure(on.Side, on, h, d.e.Settings.Namespace, r).seen
		return d.finish(&o, "")
	}
	why := fmt.Sprintf("%s: on cluster %s: %s", r.Reason, on.Name, r.Error)
	for _, g := range d.groups {
		for _, w := range g.writes {
			if _, ok := d.arrived(g, w); sentDirectly(w.v) && !ok {
				w.v.Transfer, w.v.TransferReason = transferRepository, why
			}
		}
	}
	return d.finish(nil, why)
}
