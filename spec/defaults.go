package spec

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func orDefault(d *metav1.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return d.Duration
}

// TimeoutOrDefault is the limit of the whole cutover before the stop; 4h.
func (c *Cutover) TimeoutOrDefault() time.Duration { return orDefault(c.Timeout, 4*time.Hour) }

// CopyTimeoutOrDefault is CAM's restic_timeout (F-177); 1h.
func (c *Cutover) CopyTimeoutOrDefault() time.Duration { return orDefault(c.CopyTimeout, time.Hour) }

// HealthTimeoutOrDefault is how long the target may take to become ready; 10m.
func (c *Cutover) HealthTimeoutOrDefault() time.Duration {
	return orDefault(c.HealthTimeout, 10*time.Minute)
}

// GitOutageOrDefault is how long the live record may stay unpushed; 3m.
func (c *Cutover) GitOutageOrDefault() time.Duration { return orDefault(c.GitOutage, 3*time.Minute) }

// QuiesceOrDefault is true unless the plan says otherwise (F-146).
func (c *Cutover) QuiesceOrDefault() bool { return c.Quiesce == nil || *c.Quiesce }

// AttemptOrDefault is 1 unless the plan says otherwise.
func (c *Cutover) AttemptOrDefault() int {
	if c.Attempt == 0 {
		return 1
	}
	return c.Attempt
}

// KeepVolumesOrDefault is true unless the plan says otherwise.
func (r *Rollback) KeepVolumesOrDefault() bool { return r.KeepVolumes == nil || *r.KeepVolumes }

// ExistingOrDefault is Fail unless the plan says otherwise.
func (p *PlanSpec) ExistingOrDefault() ExistingPolicy {
	if p.Existing == "" {
		return ExistingFail
	}
	return p.Existing
}

// RunsIn says whether the hook takes part in a kind of run: cutovers by
// default, stage runs when Runs says so.
func (h PlanHook) RunsIn(kind RunKind) bool {
	want := map[RunKind]string{RunMigrate: "Cutover", RunStage: "Stage"}[kind]
	if want == "" {
		return false
	}
	if len(h.Runs) == 0 {
		return want == "Cutover"
	}
	for _, r := range h.Runs {
		if r == want {
			return true
		}
	}
	return false
}

// StartingDeadlineOrDefault is how late a stage slot may still start; 1h.
func (s *Stage) StartingDeadlineOrDefault() time.Duration {
	return orDefault(s.StartingDeadline, time.Hour)
}

// DefaultNamespace is the daemon's own namespace on both clusters.
const DefaultNamespace = "tranship-system"
