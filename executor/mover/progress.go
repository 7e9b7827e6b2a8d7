package mover

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// progressLine is what the engine logs of a volume every two seconds.
type progressLine struct {
	Time    time.Time `json:"time"`
	Message string    `json:"msg"`
	Op      string    `json:"op"`
	Volume  string    `json:"volume"`
	Files   int64     `json:"files"`
	Bytes   int64     `json:"bytes"`      // of the files that were dealt with, changed or not
	Moved   int64     `json:"movedBytes"` // that were read and written
	Still   int64     `json:"stillSeconds"`
	Syncing bool      `json:"syncing"`
}

// progress is how far the movers of this attempt are, as their logs say. The
// totals are those of the volume's newest known snapshot.
func (l *jobList) progress(volumes []spec.Volume) []reconciler.Progress {
	total := map[string]*spec.Volume{}
	for i := range volumes {
		total[key(&volumes[i])] = &volumes[i]
	}
	var out []reconciler.Progress
	for _, h := range l.jobs {
		if h.tail == nil || h.said != nil {
			continue
		}
		if p, ok := progressOf(h.tail.Lines()); ok {
			if v := total[p.Volume]; v != nil {
				p.TotalFiles, p.TotalBytes = v.Files, v.Bytes
			}
			out = append(out, p)
		}
	}
	return out
}

// progressOf reads the newest progress line, and the rate from the oldest one
// of the same volume that is still there.
func progressOf(lines [][]byte) (reconciler.Progress, bool) {
	var first, last progressLine
	for _, raw := range lines {
		var line progressLine
		if json.Unmarshal(raw, &line) != nil || line.Message != "progress" {
			continue
		}
		if line.Volume != last.Volume || line.Op != last.Op {
			first = line
		}
		last = line
	}
	if last.Message == "" {
		return reconciler.Progress{}, false
	}
	p := reconciler.Progress{Volume: last.Volume, Operation: last.Op, Files: last.Files, Bytes: last.Bytes, MovedBytes: last.Moved, At: last.Time}
	if took := last.Time.Sub(first.Time).Seconds(); took > 0 {
		p.BytesPerSecond = float64(last.Bytes-first.Bytes) / took
	}
	p.Still, p.Syncing = time.Duration(last.Still)*time.Second, last.Syncing
	return p, true
}

// worthSaying is how long a copy stands still before people are told.
const worthSaying = 30 * time.Second

// sayProgress adds to a sentence how far a copy is, and tells a copy that stands
// still from a slow one.
func sayProgress(o reconciler.Observation, ps []reconciler.Progress) reconciler.Observation {
	o.Progress = ps
	for _, p := range ps {
		o.Message += fmt.Sprintf("; %s %d files, %d bytes", p.Volume, p.Files, p.Bytes)
		if p.Still >= worthSaying {
			o = sayStill(o, p)
		} else if left, ok := p.Remaining(); ok {
			o.Message += fmt.Sprintf(", about %s left", left.Round(time.Second))
		}
	}
	return o
}

// sayStill says for how long nothing has moved, and what ends that.
func sayStill(o reconciler.Observation, p reconciler.Progress) reconciler.Observation {
	limit := engine.StallLimit
	if p.Syncing {
		limit = engine.SyncLimit
		o.Message += fmt.Sprintf(", and its volume has been syncing for %s, which does not show how far it is", p.Still)
	} else {
		o.Reason = string(engine.ReasonStalled)
		o.Message += fmt.Sprintf(", and nothing has moved for %s", p.Still)
	}
	if p.Still < limit {
		o.Message += fmt.Sprintf("; after %s it is ended and tried again", limit)
	} else {
		o.Reason = string(engine.ReasonStalled)
		o.Message += "; it should have ended and hangs in a call to the node's kernel, so that only cutover.copyTimeout ends it: look at the volume and at the node"
	}
	return o
}
