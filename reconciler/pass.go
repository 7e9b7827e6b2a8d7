package reconciler

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/tranship/tranship/spec"
)

const (
	// batch is how many messages are served, and how many plans asked about, in
	// one go. What they record goes to disk together; a run that waits for its
	// record never waits for more than that.
	batch = 512
	// lookAgain is how often a run that waits for a slot is judged anew: a window
	// may have closed, or its slot be too late.
	lookAgain = time.Minute
)

// pass asks the core about the plans whose answer may have changed, starts what
// has a slot, and sets the alarm for the next instant at which time alone may
// change an answer.
func (l *Loop) pass(ctx context.Context) {
	if l.want == nil {
		return
	}
	l.flush(ctx)
	now := l.clock.Now()
	due := l.agenda.due(now, batch)
	for _, plan := range due {
		l.decide(ctx, plan)
	}
	if len(due) < batch { // everybody who is due has been asked: nobody is passed by
		l.serve(ctx)
	}
	l.flush(ctx)
	l.wake = nil
	if next := l.agenda.next(now); !next.IsZero() {
		l.wake = l.clock.After(max(next.Sub(l.clock.Now()), 0))
	}
}

// decide asks the core about one plan and does what it says. A start is not
// recorded here: the run is, once it is frozen, together with the status.
func (l *Loop) decide(ctx context.Context, plan string) {
	d := l.drivers[plan]
	if d != nil && !d.driving || l.rec.Plans[plan] == nil {
		return // it is being prepared, or nothing is recorded of it
	}
	in := l.input(plan)
	dec := Decide(in)
	if o := dec.Start; o != nil {
		if o.Kind == spec.RunRollback {
			l.launch(ctx, o)
			return
		}
		l.queue.put(&in, dec.Status, o)
		l.moved = true
		l.agenda.wakeAt(plan, in.Now, in.Now.Add(lookAgain))
		return
	}
	l.queue.drop(plan)
	l.agenda.wakeAt(plan, in.Now, dec.Wake)
	l.keep(dec.Status)
	switch s := l.surveys[plan]; {
	case dec.Cancel != "" && d != nil:
		d.stop(dec.Cancel)
	case in.Closure == nil:
		delete(l.surveys, plan)
	case in.Open != nil:
	case dec.Untrusted: // its clusters are not asked
	case s.due(dec.Status.Digest, in.Now):
		l.surveys[plan] = surveyed{digest: dec.Status.Digest}
		l.toSurvey = append(l.toSurvey, plan)
		l.survey(ctx)
	case !s.again.IsZero():
		l.agenda.sooner(plan, in.Now, s.again)
	}
}

// serve gives free slots to the runs that wait for one, and tells the others
// where they stand.
func (l *Loop) serve(ctx context.Context) {
	limit := l.Slots()
	if !l.moved && limit == l.limit {
		return
	}
	l.moved, l.limit = false, limit
	busy := map[pair]int{}
	for _, d := range l.drivers {
		if !d.back {
			busy[d.pair]++
		}
	}
	start, places := l.queue.serve(limit, busy)
	for _, o := range start {
		l.launch(ctx, o)
	}
	for _, p := range places {
		if !l.queue.tell(p) {
			continue
		}
		st := copyStatus(l.rec.Plans[p.plan])
		st.NextStage = nil
		summarize(st, &PlanInput{Now: l.clock.Now()}, reconciling("WaitsForSlot", p.say(l.queue.waiting[p.plan].pair)))
		l.keep(st)
	}
}

// input is all that the decision about a plan depends on, as of now.
func (l *Loop) input(plan string) PlanInput {
	if l.ground == nil {
		l.ground = newOverlaps(l.want, l.rec)
	}
	in := inputOf(plan, l.want, l.rec, l.ground)
	in.Now, in.Hold = l.clock.Now(), l.held()
	return in
}

// inputOf gathers what Git and the ledger say of a plan.
func inputOf(plan string, want *Desired, rec *Recorded, ground *overlaps) PlanInput {
	st, c := rec.Plans[plan], want.Closures[plan]
	in := PlanInput{Plan: plan, Closure: c, Problems: want.Problems[plan], Status: st,
		Commit: want.Commit, Approval: &want.Approval, Conflict: ground.conflict(plan, want, rec), Trust: want.Trust, Open: rec.Open[st.Recorded.OpenRun]}
	if c == nil {
		if len(in.Problems) == 0 && !st.Recorded.Removed {
			in.Problems = spec.Hiding(want.Other, plan)
		}
		return in
	}
	for _, on := range c.Plan.Spec.DependsOn {
		d := Dependency{Plan: on, Status: rec.Plans[on], Stages: true}
		if c := want.Closures[on]; c != nil {
			d.Stages = c.Plan.Spec.Stage.Schedule != "" || c.Plan.Spec.Stage.RequestedAt != nil
		}
		if d.Status != nil {
			d.Open = rec.Open[d.Status.Recorded.OpenRun]
		}
		in.Depends = append(in.Depends, d)
	}
	return in
}

// askAll wants every plan to be asked about.
func (l *Loop) askAll() {
	for plan := range l.rec.Plans {
		l.agenda.ask(plan)
	}
}

// askChanged wants the plans asked about for which a new tip may have changed
// something; old is the tip before, and held why everything was held then.
func (l *Loop) askChanged(old *Desired, held *spec.Waiting) {
	l.waiters = map[string][]string{}
	for plan, c := range l.want.Closures {
		for _, on := range c.Plan.Spec.DependsOn {
			l.waiters[on] = append(l.waiters[on], plan)
		}
	}
	if old == nil || old.Trust != l.want.Trust || l.ground == nil || held != l.held() {
		l.ground = nil
		l.askAll()
		return
	}
	for plan, c := range l.want.Closures {
		if old.Closures[plan] != c { // a source hands on what has not changed
			l.askAround(plan)
		}
	}
	for plan := range old.Closures {
		if l.want.Closures[plan] == nil {
			l.askAround(plan)
		}
	}
	for _, problems := range []map[string][]spec.Problem{old.Problems, l.want.Problems} {
		for plan := range problems {
			l.agenda.ask(plan)
		}
	}
}

// askAround wants a plan asked about, and all that its documents or its record
// matter to: those that meet it, before or after the change, and those that
// wait for it.
func (l *Loop) askAround(plan string) {
	l.agenda.ask(plan)
	if l.ground != nil {
		before := l.ground.meets(plan)
		l.ground.set(plan, l.want, l.rec)
		for _, met := range []map[string]bool{before, l.ground.meets(plan)} {
			for other := range met {
				l.agenda.ask(other)
			}
		}
	}
	for _, other := range l.waiters[plan] {
		l.agenda.ask(other)
	}
}

// know takes over a status that is recorded. It is asked about once more at the
// next poll: an answer may hold for one look only.
func (l *Loop) know(plan string, st *spec.PlanStatus) {
	old := l.rec.Plans[plan]
	l.rec.Plans[plan] = st
	if old == nil || old.Covers != st.Covers || !reflect.DeepEqual(old.Recorded, st.Recorded) || !reflect.DeepEqual(old.Volumes, st.Volumes) {
		l.askAround(plan)
	} else {
		l.agenda.askLater(plan)
	}
}

// keep records a status when it says something new.
func (l *Loop) keep(st *spec.PlanStatus) {
	plan := st.Metadata.Name
	if same(l.rec.Plans[plan], st) {
		return
	}
	change := Change{Plans: []*spec.PlanStatus{st}, Message: fmt.Sprintf("status of %s: %s", plan, reasonOf(st)), Trailers: map[string]string{"Migration-Plan": plan}}
	l.write(plan, change, func(err error) {
		if err != nil {
			l.log.Error("a status could not be recorded", "plan", plan, "error", err)
			l.agenda.askLater(plan)
			return
		}
		l.know(plan, st)
		c := find(st, "Ready")
		l.Notifier.Notify(Event{Plan: plan, State: string(c.Status), Reason: c.Reason, Message: c.Message})
	})
}

// writing is a change that is about to be recorded, and what follows then.
type writing struct {
	change Change
	then   func(err error)
}

// write queues a change for the next flush. Until then nobody may look at the
// plan: it is neither recorded nor known.
func (l *Loop) write(plan string, c Change, then func(err error)) {
	l.writes = append(l.writes, writing{c, then})
	l.writing[plan] = true
}

// flush records what was gathered in one piece.
func (l *Loop) flush(ctx context.Context) {
	if len(l.writes) == 0 {
		return
	}
	writes, changes := l.writes, make([]Change, 0, len(l.writes))
	l.writes = nil
	clear(l.writing)
	for _, w := range writes {
		changes = append(changes, w.change)
	}
	err := l.put(ctx, changes...)
	for _, w := range writes {
		if err != nil && len(writes) > 1 && ctx.Err() == nil { // one that cannot be recorded must not keep the others from it
			w.then(l.put(ctx, w.change))
			continue
		}
		w.then(err)
	}
}

// handleAll serves the messages that are there, up to a batch, in their order,
// records what they say together, and decides.
func (l *Loop) handleAll(ctx context.Context, m message) {
	for more := batch; ; more-- {
		if plan := m.about(); plan == "" || l.writing[plan] {
			l.flush(ctx)
		}
		l.handle(ctx, m)
		if more == 0 {
			break
		}
		select {
		case m = <-l.messages:
			continue
		default:
		}
		break
	}
	l.flush(ctx)
	if l.stale {
		l.trustAgain(ctx)
	}
	l.pass(ctx)
}

// about is the plan that a message is about; "" is all of them.
func (m *message) about() string {
	switch {
	case m.saved != nil:
		return m.saved.run.Spec.Plan
	case m.run != nil:
		return m.run.Spec.Plan
	}
	return m.plan
}

// free gives back the slot of a plan's run, or of the one that did not start.
func (l *Loop) free(plan string) {
	delete(l.drivers, plan)
	l.moved = true
	l.agenda.askLater(plan)
}
