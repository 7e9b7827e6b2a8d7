package reconciler

import (
	"context"
	"time"
)

// surveyed is what was asked of the clusters about a plan, and when to ask
// again what has another answer by time alone; zero is never.
type surveyed struct {
	digest string
	again  time.Time
}

func (s surveyed) due(digest string, now time.Time) bool {
	return s.digest != digest || (!s.again.IsZero() && !now.Before(s.again))
}

// pendingAgain is how long a claim that waits for its volume is let be. Some
// wait for ever, for a pod that never comes.
const pendingAgain = time.Minute

// surveysAtOnce is how many plans the clusters are asked about at a time,
// beside the runs that are about to start.
const surveysAtOnce = 20

// survey asks the clusters about the plans that wait for it.
func (l *Loop) survey(ctx context.Context) {
	for l.surveying < surveysAtOnce && len(l.toSurvey) > 0 {
		plan := l.toSurvey[0]
		l.toSurvey = l.toSurvey[1:]
		st, c := l.rec.Plans[plan], l.want.Closures[plan]
		if st == nil || c == nil {
			continue
		}
		if in := l.input(plan); in.untrusted() { // it was changed while it waited
			delete(l.surveys, plan)
			continue
		}
		l.surveying++
		l.runs.Add(1)
		go func() {
			defer l.runs.Done()
			s, err := l.executor.Survey(ctx, c, st.Volumes)
			l.send(message{plan: plan, survey: &s, err: err})
		}()
	}
}
