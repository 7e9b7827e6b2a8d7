package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestAnOperatorThatIsNotPaused: a hook that does not keep the operator from
// starting again what was stopped is found before the last copy, and who did it is
// named. What the hook has done is taken back.
func TestAnOperatorThatIsNotPaused(t *testing.T) {
	long(t)
	l := newLab(t)
	plan := l.openDatabase(`orphans: true`, ofTheShop, stopsNothing, databaseHook)
	written := l.asWritten(&l.bed.Source)
	l.flip(spec.Migrated, plan)
	s := l.waitReason("CutoverNotDone", 5*time.Minute)
	t.Log(s.Run.Status.Message)
	if message := s.Run.Status.Message; !strings.Contains(message, l.name+"/orders") || !strings.Contains(message, "database-operator") {
		t.Errorf("the message does not say who started what again: %s", message)
	}
	if last := stepOf(s.Run, "last-upload"); last.Started != nil {
		t.Errorf("the last copy had begun: %+v", last)
	}
	l.undoneBefore(s.Run, "hooks-with-undo", "stop")
	l.databaseRuns(&l.bed.Source, strings.Replace(written, "ours", "by the hook", 1))
	l.noJobsOfHooks()
}

// TestAnUndoThatNeverSucceeds: a canceled cutover waits for the undo of its hook,
// says what is wrong and what a person can do, and goes on when that was done.
func TestAnUndoThatNeverSucceeds(t *testing.T) {
	l := newLab(t)
	plan := strings.ReplaceAll(`labelSelector: {matchLabels: {part: "yes"}}
hooks: [{hook: queue-down, undo: queue-up, phase: PreBackup, namespace: NS, serviceAccountName: hooks}]
`, "NS", l.name)
	l.apply(l.queueApp())
	l.rolledOut("deployment/web")
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, plan)
	files["hooks.yaml"] = l.hooks(map[string]string{"queue-down": `patch, apps/v1/deployments, queue, '{"spec":{"replicas":0}}', "0"`, "queue-up": "cannot"})
	l.commit("Plan the move", files)
	l.start()
	l.waitReason("Staged", time.Minute)
	l.flip(spec.Migrated, plan)
	l.created("jobs", "tranship.dev/step=hooks-with-undo")
	l.flip(spec.Staged, plan)
	s := l.wait("a try of the undo that fails", 2*time.Minute, func(s *story) bool {
		if s.Run == nil {
			return false
		}
		u := stepOf(s.Run, "hooks-with-undo").Undid
		return u != nil && strings.Contains(u.Message, "annotate job")
	})
	t.Log(stepOf(s.Run, "hooks-with-undo").Undid.Message)
	l.onSource("-n", l.name, "scale", "deployment/queue", "--replicas=1")
	l.poll("the end of the run", time.Second, func() (string, bool) {
		_, _ = l.kubectl(l.bed.Source.Kubeconfig, "-n", l.name, "annotate", "job", "-l", "tranship.dev/undoes", "tranship.dev/done-by-hand=ada, ticket 7", "--overwrite")
		next, err := l.status()
		if err == nil {
			s = next
		}
		return fmt.Sprint(err), err == nil && s.Status.Recorded.OpenRun == ""
	})
	if s.Run.Status.Phase != spec.RunCanceled || !slices.ContainsFunc(s.Run.Facts.Times, func(n spec.NamedTime) bool {
		return n.Name == "undone queue-down of spec.hooks[0], by hand: ada, ticket 7"
	}) {
		t.Errorf("%+v, %+v", s.Run.Status, s.Run.Facts.Times)
	}
	l.rolledOut("deployment/web")
	l.noJobsOfHooks()
}
