package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/lab"
)

// retries of a phase that faults outside of the daemon have made fail; the
// last one is left in peace.
const retries = 2

// stage copies the volume ahead of time.
func (s *scenario) stage(ctx context.Context) error {
	begin := time.Now().UTC()
	for try := 0; ; try++ {
		stop := s.unleash(ctx, try < retries, "stage")
		request := fmt.Sprintf("stage: {requestedAt: %q}", begin.Add(time.Duration(try)*time.Second).Format(time.RFC3339))
		before := s.number(spec.RunStage)
		_, err := s.ask(ctx, spec.Staged, request)
		var st *lab.Story
		if err == nil {
			st, err = s.wait(ctx, "the end of a stage run", func(st *lab.Story) bool {
				return st.Status.Recorded.Numbers[spec.RunStage] > before && st.Status.Recorded.OpenRun == ""
			})
		}
		stop()
		if err != nil {
			return err
		}
		s.check(ctx)
		if st.Status.LastStage != nil && st.Status.LastStage.Result == spec.RunSucceeded {
			return nil
		}
		if err := s.failed("stage run", st, try); err != nil {
			return err
		}
	}
}

// failed says whether a phase may be tried again: only when something else
// than the daemon was killed in it.
func (s *scenario) failed(what string, st *lab.Story, try int) error {
	if foreign, _ := s.trouble.get(); !foreign {
		s.book.violation("the %s failed although only the daemon was killed: %s; %s", what, st.Status.LastFailure, tell(st, nil))
	}
	if try >= retries {
		return fmt.Errorf("the %s fails again and again: %s", what, tell(st, nil))
	}
	s.book.say("%s: the %s failed and is tried again: %s", s.plan, what, st.Status.LastFailure)
	return nil
}

// number is the newest run of a kind when the last phase ended.
func (s *scenario) number(kind spec.RunKind) int {
	if s.last == nil {
		return 0
	}
	return s.last.Status.Recorded.Numbers[kind]
}

// cutOver moves the application to the target.
func (s *scenario) cutOver(ctx context.Context) error {
	for try := 0; ; try++ {
		stop := s.unleash(ctx, try < retries, "migrate")
		leg := s.client.nextLeg()
		st, err := s.flip(ctx, spec.Migrated, spec.RunMigrate, discards)
		stop()
		if err != nil {
			return err
		}
		if st.Status.Recorded.State == spec.Migrated {
			s.arrived(leg)
			s.check(ctx)
			return nil
		}
		s.discard()
		s.check(ctx)
		s.attempt++
		if err := s.failed("cutover", st, try); err != nil {
			return err
		}
	}
}

// discard notes that what was written on the target is given up, unless the volume
// itself goes back.
func (s *scenario) discard() {
	if !s.way.facts.Moves {
		s.client.discard()
	}
}

// arrived notes that the target is live, which it must have become once.
func (s *scenario) arrived(leg int) {
	if n := s.client.switches(leg, s.live); n > 1 {
		s.book.violation("%s: acknowledgements changed sides %d times in one cutover: both sides ran", s.plan, n)
	}
	s.live = target
}

// flip asks for a state and waits until it is served: there, or failed.
func (s *scenario) flip(ctx context.Context, to spec.State, kind spec.RunKind, writes string) (*lab.Story, error) {
	before := s.number(kind)
	commit, err := s.ask(ctx, to, writes)
	if err != nil {
		return nil, err
	}
	s.asked = append(s.asked, approval{kind, commit, false})
	return s.wait(ctx, "the end of the "+string(kind)+" run", func(st *lab.Story) bool {
		r := st.Status.Recorded
		return r.SeenState == to && r.OpenRun == "" && r.Flip == nil && r.Numbers[kind] > before && (r.State == to || st.Run != nil && st.Run.Spec.Kind == kind)
	})
}

// callBack flips a cutover and flips it back at a step drawn from the seed.
func (s *scenario) callBack(ctx context.Context) error {
	steps := slices.DeleteFunc(s.book.of("migrate"), func(step string) bool { return !s.way.has(step) })
	at := steps[s.rnd.IntN(len(steps))]
	stop := s.unleash(ctx, true, "undo")
	leg := s.client.nextLeg()
	commit, err := s.ask(ctx, spec.Migrated, "")
	if err != nil {
		stop()
		return err
	}
	s.asked = append(s.asked, approval{spec.RunMigrate, commit, true})
	reached, cancel := context.WithTimeout(ctx, time.Minute)
	s.watch.until(reached, s.plan, func(step string) bool { return step == at })
	cancel()
	s.book.say("%s is called back at %s", s.plan, at)
	_, err = s.ask(ctx, spec.Staged, "")
	var st *lab.Story
	if err == nil {
		st, err = s.wait(ctx, "the end of what was called back", func(st *lab.Story) bool {
			reason, _ := st.Condition("Ready")
			return st.Status.Recorded.SeenState == spec.Staged && st.Status.Recorded.OpenRun == "" && (reason == "Staged" || reason == "StagedAfterCutover")
		})
	}
	stop()
	if err != nil {
		return err
	}
	if st.Status.Recorded.State == spec.Migrated { // too late
		s.arrived(leg)
		s.check(ctx)
		return nil
	}
	s.discard()
	s.check(ctx)
	return nil
}

// rollBack takes the finished cutover back; it must succeed whatever happens.
func (s *scenario) rollBack(ctx context.Context) error {
	stop := s.unleash(ctx, true, "undo")
	leg := s.client.nextLeg()
	st, err := s.flip(ctx, spec.RolledBack, spec.RunRollback, discards)
	stop()
	if err != nil {
		return err
	}
	if st.Status.Recorded.State != spec.RolledBack {
		return fmt.Errorf("the rollback ended without the source: %s", tell(st, nil))
	}
	if n := s.client.switches(leg, target); n > 1 {
		s.book.violation("%s: acknowledgements changed sides %d times in one rollback: both sides ran", s.plan, n)
	}
	s.live = source
	s.discard()
	s.check(ctx)
	return nil
}

// copyBack takes the finished cutover back with everything that was written on
// the target. One that fails must leave the application there as it was, and may be
// tried again, or be followed by a rollback that discards.
func (s *scenario) copyBack(ctx context.Context) error {
	for try := 0; ; try++ {
		stop := s.unleash(ctx, try < retries, "undo", "back")
		leg := s.client.nextLeg()
		st, err := s.flip(ctx, spec.RolledBack, spec.RunRollback, copiesBack)
		stop()
		if err != nil {
			return err
		}
		done := st.Status.Recorded.State == spec.RolledBack
		if n := s.client.switches(leg, target); n > 1 || n > 0 && !done {
			s.book.violation("%s: acknowledgements changed sides %d times in one copy back: both sides ran", s.plan, n)
		}
		if done {
			s.live, s.marked = source, true
			s.check(ctx)
			return nil
		}
		s.check(ctx)
		s.attempt++
		if err := s.failed("copy back", st, try); err != nil {
			return err
		}
		if s.rnd.IntN(2) == 0 {
			return s.rollBack(ctx)
		}
	}
}

// close ends the plan, after which nothing of it may be left.
func (s *scenario) close(ctx context.Context) error {
	for try := 0; ; try++ {
		stop := s.unleash(ctx, try < retries, "close")
		st, err := s.flip(ctx, spec.Closed, spec.RunClose, discards)
		stop()
		if err != nil {
			return err
		}
		if st.Status.Recorded.State == spec.Closed {
			s.marked = false
			s.check(ctx)
			s.nothingLeft(ctx)
			return nil
		}
		s.attempt++
		if err := s.failed("close run", st, try); err != nil {
			return err
		}
	}
}
