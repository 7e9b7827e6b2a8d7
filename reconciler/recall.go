package reconciler

import (
	"cmp"
	"context"
	"fmt"

	"github.com/tranship/tranship/spec"
)

// recall finds out what plans have hold of whose documents do not say it, in
// records of versions that did not keep it: from the record of the run that took
// hold. It is recorded then, so that each is asked for once.
func (l *Loop) recall(ctx context.Context) {
	for plan, st := range l.rec.Plans {
		r := &st.Recorded
		path := cmp.Or(r.CutoverPath, r.LastRunPath)
		if st.Covers != nil || path == "" || r.State == spec.Closed || r.Cutover == "" && l.want.Closures[plan] != nil {
			continue
		}
		run, err := l.ledger.Run(ctx, path)
		if err != nil {
			l.log.Error("nobody can say what a plan has hold of", "plan", plan, "record", path, "error", l.note(err))
			continue
		}
		st = copyStatus(st)
		st.Covers = coveredBy(&run.Spec.Closure)
		change := Change{Plans: []*spec.PlanStatus{st}, Message: fmt.Sprintf("note what %s has hold of", plan), Trailers: map[string]string{"Migration-Plan": plan}}
		if err := l.put(ctx, change); err != nil {
			l.log.Error("a status could not be recorded", "plan", plan, "error", err)
			return
		}
		l.know(plan, st)
	}
}
