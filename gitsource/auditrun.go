package gitsource

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
	"path"
	"slices"
	"strings"

	"github.com/tranship/tranship/spec"
)

// recordChange is one record of a run that a commit writes.
type recordChange struct {
	path string
	old  *spec.Run // nil: it is new
	run  *spec.Run
	data []byte
}

// records looks at the records of runs that a commit changes, in the order in
// which the runs started: one may end and the next begin in the same commit.
func (v *visit) records() error {
	var all []recordChange
	for _, ch := range v.changes {
		if !strings.HasPrefix(ch.path, "runs/") {
			continue
		}
		if v.past(ch) {
			continue
		}
		if ch.new.Hash.IsZero() {
			v.find(ch.path, "as it was: records stay for ever", "the record was deleted")
			delete(v.runs, ch.path)
			continue
		}
		_, now, err := v.blobs(ch)
		if err != nil {
			return err
		}
		run, err := spec.DecodeRun(now)
		if err != nil {
			v.find(ch.path, "readable", "%s", oneLine(err.Error(), 300))
			continue
		}
		r := recordChange{path: ch.path, run: run, data: now}
		if was := v.runs[ch.path]; was != nil {
			r.old = was.run
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(x, y recordChange) int {
		if n := x.run.Status.Started.Compare(y.run.Status.Started.Time); n != 0 {
			return n
		}
		return x.run.Spec.Number - y.run.Spec.Number
	})
	for _, r := range all {
		if err := v.record(r); err != nil {
			return err
		}
	}
	return nil
}

func (v *visit) record(r recordChange) error {
	run, file := r.run, r.path
	if want := spec.RunPath(run); want != file {
		v.find(file, want, "the record of %s lies at a path that is not its own", oneLine(run.Metadata.Name, 100))
	}
	if !slices.Contains(v.said["Migration-Run"], oneLine(run.Metadata.Name, maxTrailer)) && len(v.said[epochTrailer]) > 0 {
		v.find(file, "with the trailer Migration-Run: "+oneLine(run.Metadata.Name, 100), "the commit changes the record of a run that it does not name")
	}
	plan := v.plans[run.Spec.Plan]
	if plan == nil {
		plan = &planTrail{numbers: map[spec.RunKind]int{}}
		v.plans[run.Spec.Plan] = plan
	}
	was := v.runs[file]
	switch {
	case was == nil:
		v.begun(r, plan)
	case was.ended:
		v.find(file, "as it was when the run ended", "the record was changed after its run had ended")
	default:
		v.frozen(r)
	}
	over := run.Status.Ended != nil
	if over && (was == nil || !was.ended) {
		logs, err := logsAt(v.s, v.tree, logDir(file))
		if err != nil {
			return err
		}
		v.ends = append(v.ends, ended{path: file, record: r.data, logs: logs})
	}
	if was != nil && was.ended && !over {
		over = true // it ended once; whoever changed it does not open it again
	}
	if over {
		plan.last, plan.path = digestOf(r.data), file
	}
	switch name := run.Metadata.Name; {
	case !over:
		plan.open = name
	case plan.open == name:
		plan.open = ""
	}
	v.runs[file] = &runTrail{run: run, ended: over}
	return nil
}

// begun checks the first version of a record.
func (v *visit) begun(r recordChange, plan *planTrail) {
	run := r.run
	if last := plan.numbers[run.Spec.Kind]; run.Spec.Number != last+1 {
		v.find(r.path, fmt.Sprintf("%d: runs of plan %s are numbered without a gap", last+1, run.Spec.Plan), "the number of this %s run is %d", run.Spec.Kind, run.Spec.Number)
	}
	plan.numbers[run.Spec.Kind] = max(run.Spec.Number, plan.numbers[run.Spec.Kind])
	if run.Spec.Previous != plan.last {
		want := "empty: no run of this plan has ended before"
		if plan.last != "" {
			want = fmt.Sprintf("%s, the digest of %s", plan.last, plan.path)
		}
		v.find(r.path, want, "the chain is broken: spec.previous is %q", run.Spec.Previous)
	}
	if run.Spec.Epoch > v.epoch {
		v.find(r.path, fmt.Sprintf("%d or less, as in the commit", v.epoch), "the run says that it began in epoch %d", run.Spec.Epoch)
	}
	v.approved(r.path, run.Spec.Commit)
	if a := run.Spec.ApprovedBy; a != nil && a.Commit != run.Spec.Commit {
		v.approved(r.path, a.Commit)
	}
}

// frozen checks that what a run was started with has not changed.
func (v *visit) frozen(r recordChange) {
	old, now := *r.old, *r.run
	same := func(a, b *spec.Run) bool {
		x, err1 := spec.EncodeRun(a)
		y, err2 := spec.EncodeRun(b)
		return err1 == nil && err2 == nil && bytes.Equal(x, y)
	}
	if !same(&spec.Run{Metadata: old.Metadata, Spec: old.Spec, Steps: frozenSteps(old.Steps), Status: spec.RunStatus{Started: old.Status.Started}},
		&spec.Run{Metadata: now.Metadata, Spec: now.Spec, Steps: frozenSteps(now.Steps), Status: spec.RunStatus{Started: now.Status.Started}}) {
		v.find(r.path, "as the run was frozen: its start, spec and list of steps never change", "what the run was started with was changed")
	}
}

func frozenSteps(steps []spec.Step) []spec.Step {
	out := make([]spec.Step, len(steps))
	for i, s := range steps {
		out[i] = spec.Step{Name: s.Name, Verb: s.Verb, Undo: s.Undo}
	}
	return out
}

// status compares what is said of a plan with the records of its runs.
func (v *visit) status(ch change) error {
	if ch.new.Hash.IsZero() {
		v.find(ch.path, "as it was: the status of a plan stays", "the status was deleted")
		return nil
	}
	_, now, err := v.blobs(ch)
	if err != nil {
		return err
	}
	st, err := spec.DecodeStatus(now)
	if err != nil {
		v.find(ch.path, "readable", "%s", oneLine(err.Error(), 300))
		return nil
	}
	if want := statusPath(st.Metadata.Name); want != ch.path {
		v.find(ch.path, want, "the status of plan %s lies at a path that is not its own", oneLine(st.Metadata.Name, 100))
	}
	rec := st.Recorded
	plan := v.plans[st.Metadata.Name]
	if plan == nil {
		plan = &planTrail{}
	}
	for kind, n := range rec.Numbers {
		if n != plan.numbers[kind] {
			v.find(ch.path, fmt.Sprintf("%d, the newest record's", plan.numbers[kind]), "recorded.numbers.%s is %d", kind, n)
		}
	}
	if rec.LastRunPath != "" {
		if err := v.lastRun(ch.path, &rec); err != nil {
			return err
		}
	}
	v.names(ch.path, &rec, plan, st.Metadata.Name)
	return nil
}

func (v *visit) lastRun(file string, rec *spec.Recorded) error {
	data, err := readFile(v.s, v.tree, path.Clean(rec.LastRunPath))
	if err != nil {
		return err
	}
	if data == nil {
		v.find(file, "the path of a record", "recorded.lastRunPath is %s, where nothing is", oneLine(rec.LastRunPath, 200))
	} else if want := digestOf(data); rec.LastDigest != want {
		v.find(file, want+", as the record is", "recorded.lastDigest is %q", oneLine(rec.LastDigest, 100))
	}
	return nil
}

// names checks the runs that a status names.
func (v *visit) names(file string, rec *spec.Recorded, plan *planTrail, name string) {
	if rec.OpenRun != plan.open {
		v.find(file, fmt.Sprintf("%q, as the records say", plan.open), "recorded.openRun is %q", oneLine(rec.OpenRun, 100))
	}
	if rec.CutoverPath == "" {
		return
	}
	if t := v.runs[rec.CutoverPath]; t == nil || t.run.Spec.Kind != spec.RunMigrate || t.run.Status.Phase != spec.RunSucceeded || t.run.Spec.Plan != name {
		v.find(file, "the record of a cutover of this plan that succeeded", "recorded.cutoverPath is %s", oneLine(rec.CutoverPath, 200))
	}
}

// extends says whether a log file is another one with more text behind it, also
// where either has been cut in the middle: the line that says so carries the
// state of the hash over everything.
func extends(old, now []byte) bool {
	cut, isCut := parseCut(now)
	if !isCut {
		return bytes.HasPrefix(now, old)
	}
	if !cut.sound(now) {
		return false
	}
	before, wasCut := parseCut(old)
	if !wasCut {
		before = cutLog{sum: newSum(old), tail: old}
		if !bytes.HasPrefix(old, bytes.TrimSuffix(cut.head, []byte("\n"))) && !bytes.HasPrefix(cut.head, old) {
			return false
		}
	} else if !bytes.Equal(before.head, cut.head) {
		return false
	}
	more := int64(len(cut.tail)) + cut.bytes - before.bytes - int64(len(before.tail))
	if !wasCut {
		more += int64(len(cut.head))
	}
	// A head that did not end in a new line was given one; it is not of the text.
	for _, n := range []int64{more, more - 1} {
		if n < 0 {
			continue
		}
		if n > int64(len(cut.tail)) { // the middle is gone: only the hash of the whole knows
			return cut.bytes >= before.bytes
		}
		if before.goesOn(cut.tail[int64(len(cut.tail))-n:], cut) {
			return true
		}
	}
	return false
}

// sound says whether the line that tells of the cut fits what is left of the log.
func (l *cutLog) sound(file []byte) bool {
	state, err := l.sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil || len(state) < 8 {
		return false
	}
	// crypto/sha256 ends its state with the number of bytes that it has read.
	over := int64(len(l.head)+len(l.tail)) + l.bytes - int64(binary.BigEndian.Uint64(state[len(state)-8:]))
	return (over == 0 || over == 1) && bytes.Equal(l.encode(), file)
}

// goesOn says whether the text added to a log gives the hash of the longer one,
// and whether what both show of the old one is the same.
func (l *cutLog) goesOn(added []byte, to cutLog) bool {
	sum := copySum(l.sum)
	sum.Write(added)
	shown := to.tail[:len(to.tail)-len(added)]
	return bytes.Equal(sum.Sum(nil), to.sum.Sum(nil)) && bytes.HasSuffix(l.tail, shown)
}

func newSum(text []byte) hash.Hash {
	h := sha256.New()
	h.Write(text)
	return h
}

func copySum(h hash.Hash) hash.Hash {
	out := sha256.New()
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err == nil { // crypto/sha256 never fails here
		err = out.(encoding.BinaryUnmarshaler).UnmarshalBinary(state)
	}
	if err != nil {
		return h
	}
	return out
}
