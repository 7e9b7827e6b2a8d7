package reconciler

import (
	"context"
	"time"
)

// The longest pauses between two polls that fail: of an idle daemon, and while
// runs are going on, which a commit may want to cancel.
const (
	maxReadPause  = 15 * time.Minute
	busyReadPause = time.Minute
)

// patience counts polls, so that a server which fails is asked more and more
// rarely: after the first, second, fourth and so on interval.
type patience struct {
	failed int // reads in a row
	ticks  int // intervals since the newest of them
}

// tick says whether a poll is due after one more interval.
func (p *patience) tick(interval time.Duration, busy bool) bool {
	p.ticks++
	limit := maxReadPause
	if busy {
		limit = busyReadPause
	}
	wait := 1 << min(max(p.failed-1, 0), 20)
	return p.ticks >= min(wait, int(limit/max(interval, 1)))
}

// read notes how a read ended, whoever asked for it.
func (p *patience) read(err error) {
	p.ticks = 0
	if p.failed++; err == nil {
		p.failed = 0
	}
}

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
	l.patience.read(err)
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
