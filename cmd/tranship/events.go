package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// happened is one thing that people remember of a plan.
type happened struct {
	Time    time.Time `json:"time"`
	Run     string    `json:"run"`
	What    string    `json:"what"` // one sentence
	Details []string  `json:"details,omitempty"`

	stage *spec.Run // a stage run that succeeded without a warning
}

// words that a run is told with: what is approved, and what is done.
var words = map[spec.RunKind]struct{ asked, done string }{
	spec.RunStage:    {"the stage run", "stage run"},
	spec.RunMigrate:  {"the cutover", "cutover"},
	spec.RunRollback: {"the rollback", "rollback"},
	spec.RunClose:    {"the end of the plan", "closing run"},
}

// eventsOf tells who asked for a run, and how it went.
func eventsOf(run *spec.Run) []happened {
	var out []happened
	kind := words[run.Spec.Kind]
	if a := run.Spec.ApprovedBy; a != nil && run.Spec.Kind != spec.RunStage {
		e := happened{Time: a.Time.Time, Run: run.Metadata.Name, What: fmt.Sprintf("%s approved %s: %q", a.Committer, kind.asked, a.Subject)}
		by := ""
		if a.Author != a.Committer {
			by = ", written by " + a.Author
		}
		e.Details = []string{fmt.Sprintf("commit %.12s%s; digest of the plan and all that it refers to: %.19s", a.Commit, by, run.Spec.Digest)}
		for _, s := range a.Signers {
			e.Details = append(e.Details, "signed "+saySigner(s))
		}
		out = append(out, e)
	}
	e := happened{Time: run.Status.Started.Time, Run: run.Metadata.Name}
	e.What = strings.ReplaceAll(fmt.Sprintf("%s %s %s", kind.done, run.Metadata.Name, sayEnd(run)), "\n", " ")
	e.Details = append(e.Details, saySlot(run)...)
	e.Details = append(e.Details, sayCutover(run)...)
	e.Details = append(e.Details, limited(run.Status.Warnings, "warning: ")...)
	if run.Spec.Kind == spec.RunStage && run.Status.Phase == spec.RunSucceeded && len(run.Status.Warnings) == 0 {
		e.stage = run
	}
	return append(out, e)
}

// sayEnd is the end of the sentence about a run: how it went, and why not well.
func sayEnd(run *spec.Run) string {
	st := run.Status
	if st.Ended == nil {
		done, now := 0, "it has not begun"
		for _, s := range run.Steps {
			if s.State == spec.StepDone {
				done++
			} else if s.State != spec.StepPending {
				now = "step " + s.Name + " is " + string(s.State)
			}
		}
		return fmt.Sprintf("is under way: %d of %d steps are done, %s", done, len(run.Steps), now)
	}
	took := st.Ended.Sub(st.Started.Time).Round(100 * time.Millisecond)
	undone := ""
	if run.Spec.Kind == spec.RunMigrate {
		undone = ", and all that it had done was undone"
	}
	switch st.Phase {
	case spec.RunSucceeded:
		if run.Spec.Kind == spec.RunStage {
			return fmt.Sprintf("succeeded in %s%s", took, sayCopied(run))
		}
		return fmt.Sprintf("succeeded in %s", took)
	case spec.RunFailed:
		return fmt.Sprintf("failed after %s%s: %s: %s", took, undone, st.Reason, st.Message)
	case spec.RunCanceled:
		return fmt.Sprintf("was canceled after %s%s: %s", took, undone, st.Message)
	}
	return fmt.Sprintf("failed after %s and could not be undone without a person: %s: %s", took, st.Reason, st.Message)
}

func sayCopied(run *spec.Run) string {
	if len(run.Facts.Volumes) == 0 {
		return ""
	}
	return fmt.Sprintf(": %s had changed in %s", size(changed(run)), plural(len(run.Facts.Volumes), "volume"))
}

func changed(run *spec.Run) (n int64) {
	for _, v := range run.Facts.Volumes {
		n += v.ChangedBytes
	}
	return n
}

func saySlot(run *spec.Run) []string {
	if run.Spec.Slot == nil {
		return nil
	}
	return []string{"scheduled for " + run.Spec.Slot.UTC().Format("2006-01-02 15:04 UTC")}
}

// sayCutover tells what a cutover or a rollback meant for the application.
func sayCutover(run *spec.Run) (say []string) {
	c, st := &run.Spec.Closure, run.Status
	times := map[string]time.Time{}
	for _, t := range run.Facts.Times {
		times[t.Name] = t.Time.Time
	}
	clock := func(t time.Time) string { return t.UTC().Format("15:04:05") }
	stopped, healthy := times[reconciler.TimeStop], times[reconciler.TimeHealthy]
	done := st.Phase == spec.RunSucceeded
	switch run.Spec.Kind {
	case spec.RunRollback:
		say = append(say, "it undoes "+run.Spec.Undoes)
		if done {
			say = append(say, fmt.Sprintf("the application is back on cluster %s", c.Source.Metadata.Name))
		}
		return say
	case spec.RunMigrate:
	default:
		return nil
	}
	say = append(say, fmt.Sprintf("from cluster %s to cluster %s", c.Source.Metadata.Name, c.Target.Metadata.Name))
	switch {
	case done && st.StopSeconds > 0 && !stopped.IsZero():
		line := fmt.Sprintf("the application was stopped for %.1f s, from %s to %s, of which it took %.1f s itself", st.StopSeconds, clock(stopped), clock(healthy), st.OwnSeconds)
		if e := run.Facts.Estimate; e != nil && e.ErrorSeconds != nil {
			line += fmt.Sprintf(" (%.1f s were expected)", e.StopSeconds)
		}
		say = append(say, line)
	case done && st.StopSeconds > 0:
		say = append(say, fmt.Sprintf("the application was stopped for %.1f s", st.StopSeconds))
	case stopped.IsZero():
		say = append(say, "the application was not stopped")
	default:
		say = append(say, fmt.Sprintf("the application was stopped at %s%s", clock(stopped), sayBack(run, clock)))
	}
	if done {
		say = append(say, sayMoved(run)...)
	}
	return say
}

// sayBack tells when the source was started again.
func sayBack(run *spec.Run, clock func(time.Time) string) string {
	for _, s := range run.Steps {
		if s.Name == "stop" && s.State == spec.StepUndone && s.Undid != nil && s.Undid.Ended != nil {
			return " and ran on the source again at " + clock(s.Undid.Ended.Time)
		}
	}
	return ""
}

func sayMoved(run *spec.Run) (say []string) {
	f := &run.Facts
	if len(f.Counts) > 0 {
		say = append(say, "objects: "+sayCounts(f.Counts))
	}
	if n := len(f.Volumes); n > 0 {
		var all int64
		for _, v := range f.Volumes {
			all += v.Bytes
		}
		say = append(say, fmt.Sprintf("%s with %s; %s of it were copied after the stop or shortly before", plural(n, "volume"), size(all), size(changed(run))))
	}
	var ways []string
	for _, x := range f.Traffic {
		ways = append(ways, fmt.Sprintf("%s %s/%s: %s, before %s", x.Kind, x.Namespace, x.Name, orDash(x.NewAddress), orDash(x.OldAddress)))
	}
	return append(say, limited(ways, "users reach it by ")...)
}

// limited is at most shown lines of a list.
func limited(list []string, title string) (say []string) {
	for i, x := range list {
		if i == shown {
			return append(say, fmt.Sprintf("and %d more, see the run's record", len(list)-shown))
		}
		say = append(say, title+strings.ReplaceAll(x, "\n", " "))
	}
	return say
}

// folded makes one event of a row of stage runs that went well: nobody reads a
// hundred of them.
func folded(all []happened) (out []happened) {
	for i := 0; i < len(all); {
		n, sum := i, int64(0)
		for n < len(all) && all[n].stage != nil {
			sum += changed(all[n].stage)
			n++
		}
		if n-i < 4 {
			out = append(out, all[i])
			i++
			continue
		}
		last := all[n-1]
		out = append(out, happened{Time: all[i].Time, Run: all[i].Run,
			What:    fmt.Sprintf("%s to %s: %d stage runs succeeded", all[i].Run, last.Run, n-i),
			Details: []string{fmt.Sprintf("the last began at %s; %s had changed in all", last.Time.UTC().Format("2006-01-02 15:04:05 UTC"), size(sum))}})
		i = n
	}
	return out
}
