package reconciler

import "context"

// startRead polls the branch in the background: a slow Git host must not hold
// up a run that has stopped an application. A read that is wanted while one
// is under way follows it.
func (l *Loop) startRead(ctx context.Context) {
	if l.reading {
		l.readAgain = true
		return
	}
	l.reading, l.readAgain = true, false
	answers := l.asked
	l.asked = nil
	since := l.rec.Daemon.Accepted
	l.runs.Add(1)
	go func() {
		defer l.runs.Done()
		want, err := l.source.Read(ctx, since)
		l.send(message{read: &readResult{want, err, answers}})
	}()
}

// handleRead accepts what was read, answers those who asked, and decides.
func (l *Loop) handleRead(ctx context.Context, r *readResult) {
	l.reading = false
	err := r.err
	if err == nil {
		err = l.accept(ctx, r.want)
	}
	l.mu.Lock()
	l.readErr = err
	if err == nil {
		l.lastRead = l.clock.Now()
	}
	l.mu.Unlock()
	for _, q := range r.asked {
		if err != nil {
			q.answer <- Gate{Reason: "TipUnreadable", Say: "the branch cannot be read, the application keeps running: " + err.Error()}
			continue
		}
		q.answer <- JudgeGate(l.clock.Now(), q.run, l.want, l.rec.Plans[q.run.Spec.Plan], l.held())
	}
	if err != nil && ctx.Err() == nil && err.Error() != l.said { // once a sentence, not once a poll
		l.log.Error("the manifests cannot be read", "error", err)
	}
	if l.said = ""; err != nil {
		l.said = err.Error()
	}
	if l.readAgain {
		l.startRead(ctx)
	}
	l.agenda.poll()
	for plan := range l.drivers { // what their runs have come to may change the answer
		l.agenda.ask(plan)
	}
}
