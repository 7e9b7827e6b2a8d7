package gitsource

import (
	"maps"
	"path"
	"slices"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// heldBack are the ends of logs that wait for their next piece.
func (l *Ledger) heldBack() map[string]heldTail {
	l.mu.Lock()
	defer l.mu.Unlock()
	return lay(map[string]heldTail{}, l.j.held())
}

// addLogs redacts the pieces of logs of a change. What ends like the beginning of a
// secret is held back until the next piece comes, or the run ends: cut in two by a
// commit it would not be found. held is what waits already.
func (l *Ledger) addLogs(e *entry, c reconciler.Change, held map[string]heldTail) {
	over := map[string]bool{} // directories of logs to which nothing will be added
	for _, r := range c.Runs {
		if r.Status.Ended != nil {
			over[logDir(spec.RunPath(r))] = true
		}
	}
	for _, piece := range c.Logs {
		if piece.Text == "" {
			continue
		}
		file := logPath(piece.Plan, piece.Run, piece.Name, l.startOf(piece, c.Runs))
		l.found[piece.Run] += e.addLog(l.redact, file, piece.Text, over[path.Dir(file)], held)
	}
	for _, r := range c.Runs {
		for _, file := range slices.Sorted(maps.Keys(held)) {
			if dir := logDir(spec.RunPath(r)); over[dir] && path.Dir(file) == dir {
				l.found[r.Metadata.Name] += e.addLog(l.redact, file, "", true, held)
			}
		}
	}
}

// addLog adds a piece to a log, and notes what of it comes later; last says that
// nothing comes. It says how many values it has taken out. Ends of a few bytes look
// like the beginning of some secret nearly always, so they are written, but kept
// in mind: what goes on from them is held back.
func (e *entry) addLog(r *Redactor, file, piece string, last bool, held map[string]heldTail) int {
	was := held[file]
	text := was.Text + piece
	from, to := len(text), len(text)
	if !last {
		if from = r.Begun(text); len(text)-from >= minHeld {
			to = max(from, was.Out)
		}
	}
	goesOn := from < len(text)
	out := r.After(text[:was.Out], text[was.Out:to])
	n := replaced(text[was.Out:to], out)
	if out != "" && to == len(text) && out[len(out)-1] != '\n' {
		out += "\n"
		text, to = text+"\n", to+1
	}
	now := heldTail{}
	if goesOn {
		now = heldTail{text[from:], max(0, to-from)}
	}
	if now != was {
		if e.Held == nil {
			e.Held = map[string]heldTail{}
		}
		e.Held[file] = now
		lay(held, map[string]heldTail{file: now})
	}
	if out == "" {
		return 0
	}
	e.Logs = append(e.Logs, logPiece{Path: file, Text: out})
	return n
}

// forget begins the counts anew: records that were loaded carry theirs.
func (l *Ledger) forget(known bool) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if known {
		clear(l.found)
	}
}

// noteRedacted puts into a run's record how much was taken out of it and its logs.
func (l *Ledger) noteRedacted(r *spec.Run, inRecord int) {
	var now spec.Redacted
	if r.Redacted != nil { // as it was loaded
		now = *r.Redacted
	}
	now.Record += inRecord
	now.Logs += l.found[r.Metadata.Name]
	if l.plain != nil {
		now.NotSearched = max(now.NotSearched, l.plain(r.Spec.Plan))
	}
	if r.Redacted = nil; now != (spec.Redacted{}) {
		r.Redacted = &now
	}
	if r.Status.Ended != nil {
		delete(l.found, r.Metadata.Name)
	}
}

// startOf finds out in which month a log's run started: from the change, from
// the journal, or else now.
func (l *Ledger) startOf(piece reconciler.Log, runs []*spec.Run) time.Time {
	for _, r := range runs {
		if r.Metadata.Name == piece.Run {
			return r.Status.Started.Time
		}
	}
	rec, err := l.records()
	if err == nil {
		if r, _, err := rec.findRun(piece.Plan, piece.Run); err == nil && r != nil {
			return r.Status.Started.Time
		}
	}
	return time.Now()
}
