package reconciler

import "time"

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
