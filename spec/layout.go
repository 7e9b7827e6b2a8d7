package spec

import "fmt"

// RunPath is where a run's record lies in the ledger:
// runs/<yyyy>/<mm>/<plan>/<kind>-<number>.yaml, by the month in which it
// started (UTC).
func RunPath(r *Run) string {
	return fmt.Sprintf("runs/%s/%s/%s-%d.yaml", r.Status.Started.UTC().Format("2006/01"), ShortName(r.Spec.Plan), r.Spec.Kind, r.Spec.Number)
}

// LogDir is where a run's logs lie in the ledger.
func LogDir(r *Run) string {
	return fmt.Sprintf("logs/%s/%s/%s-%d", r.Status.Started.UTC().Format("2006/01"), ShortName(r.Spec.Plan), r.Spec.Kind, r.Spec.Number)
}
