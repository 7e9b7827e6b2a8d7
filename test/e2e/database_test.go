package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestAnOperatorsDatabaseThereAndBack: the hook stops it, the data goes, the
// target's operator makes the rest; a rollback gives the source back.
func TestAnOperatorsDatabaseThereAndBack(t *testing.T) {
	long(t)
	l := newLab(t)
	plan := l.openDatabase("", "", stopsTheDatabase, databaseHook)
	written := l.asWritten(&l.bed.Source)
	l.flip(spec.Migrated, plan)
	s := l.waitReason("Migrated", 5*time.Minute)
	l.logTimes(s.Run)
	l.databaseRuns(&l.bed.Target, written)
	if got := l.onTarget("-n", l.name, "exec", "orders-0", "--", "cat", "/data/journal"); !strings.HasPrefix(got, "source\n") || !strings.HasSuffix(got, "target\n") {
		t.Errorf("the journal on the target: %s", got)
	}
	if got := l.onSource("-n", l.name, "get", "pods", "-o", "name"); got != "" {
		t.Errorf("on the source runs %s", got)
	}

	l.flip(spec.RolledBack, plan+"rollback: {targetWrites: Discard}")
	s = l.waitReason("RolledBack", 5*time.Minute)
	l.databaseRuns(&l.bed.Source, written)
	l.noDatabaseOnTarget()
	l.noJobsOfHooks()
	l.flip(spec.Closed, plan+"rollback: {targetWrites: Discard}")
	l.waitReason("Closed", 3*time.Minute)
	l.nothingOfThePlanIsLeft()
	l.nothingLeaks()
}

// TestAnOperatorsDatabaseAfterAFailure: the cutover fails when the database runs on
// the target, and the daemon loses everything while the hook is undone.
func TestAnOperatorsDatabaseAfterAFailure(t *testing.T) {
	long(t)
	l := newLab(t)
	plan := l.openDatabase("", "", stopsTheDatabase, databaseHook+", {hook: fails, phase: PostRestore, namespace: NS, serviceAccountName: hooks}")
	written := l.asWritten(&l.bed.Source)
	l.flip(spec.Migrated, plan)
	l.killedInAnUndo()
	s := l.waitReason("CutoverNotDone", 5*time.Minute)
	if s.Run.Status.Phase != spec.RunFailed || !strings.Contains(s.Run.Status.Message, "post-restore-hooks") {
		t.Errorf("the cutover failed for another reason: %+v", s.Run.Status)
	}
	l.undoneBefore(s.Run, "hooks-with-undo", "stop")
	l.databaseRuns(&l.bed.Source, written)
	l.noDatabaseOnTarget()
	l.noJobsOfHooks()
}

// TestAnOperatorsDatabaseThatRunsOn: a hook that stops nothing, and an operator that
// comes back, are found before the last copy, by the name of the custom resource.
func TestAnOperatorsDatabaseThatRunsOn(t *testing.T) {
	long(t)
	for name, c := range map[string]struct{ more, stops string }{
		"a hook that stops nothing":   {"", stopsNothing},
		"an operator that comes back": {"comesBack: true", stopsTheDatabase},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			plan := l.openDatabase(c.more, "", c.stops, databaseHook)
			written := l.asWritten(&l.bed.Source)
			l.flip(spec.Migrated, plan)
			s := l.waitReason("CutoverNotDone", 5*time.Minute)
			t.Log(s.Run.Status.Message)
			if message := s.Run.Status.Message; !strings.Contains(message, "Database") || !strings.Contains(message, l.name+"/orders") {
				t.Errorf("the message does not name the custom resource: %s", message)
			}
			if last := stepOf(s.Run, "last-upload"); last.Started != nil {
				t.Errorf("the last copy had begun: %+v", last)
			}
			l.databaseRuns(&l.bed.Source, written)
			l.noJobsOfHooks()
		})
	}
}

// TestAnOperatorsDatabaseBringsItsDataBack: a rollback that copies back writes into
// the claims of the source while its operator is still stopped.
func TestAnOperatorsDatabaseBringsItsDataBack(t *testing.T) {
	long(t)
	l := newLab(t)
	plan := l.openDatabase("", "", stopsTheDatabase, databaseHook)
	written := l.asWritten(&l.bed.Source)
	l.flip(spec.Migrated, plan)
	l.waitReason("Migrated", 5*time.Minute)
	l.poll("a word of the target's in its journal", time.Second, func() (string, bool) {
		got := l.onTarget("-n", l.name, "exec", "orders-0", "--", "cat", "/data/journal")
		return got, strings.Contains(got, "target\n")
	})
	l.flip(spec.RolledBack, plan+"rollback: {targetWrites: CopyBack}")
	l.waitReason("RolledBack", 5*time.Minute)
	l.databaseRuns(&l.bed.Source, written)
	if got := l.onSource("-n", l.name, "exec", "orders-0", "--", "cat", "/data/journal"); !strings.Contains(got, "source\ntarget\n") || !strings.HasSuffix(got, "target\nsource\n") && !strings.HasSuffix(got, "source\nsource\n") {
		t.Errorf("the journal on the source: %s", got)
	}
	l.noDatabaseOnTarget()
	l.noJobsOfHooks()
}
