package gitsource

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tranship/tranship/spec"
)

// Adopt accepts the ledger as it is on the server, after somebody edited,
// rewrote or deleted it. It records that in a commit without changes, which
// every daemon of this ledger then respects. It needs no epoch, so the command
// line can call it beside a running daemon. What a daemon has not pushed yet gives
// way to it, but for what runs have done (yield).
func (l *Ledger) Adopt(ctx context.Context) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	free, err := l.take(ctx)
	if err != nil {
		return fmt.Errorf("cannot adopt the ledger in time: %w", err)
	}
	defer free()
	return l.persist(ctx, func() (bool, error) {
		err := l.adopt(ctx)
		return err == nil, err
	})
}

func (l *Ledger) adopt(ctx context.Context) error {
	tip, err := l.remote.tip(ctx)
	if err != nil {
		return err
	}
	var root plumbing.Hash
	var seen spec.DaemonStatus
	if !tip.IsZero() {
		if _, err := bring(ctx, l.remote, l.store, plumbing.ZeroHash, tip); err != nil {
			return err
		}
		if err := l.knownFormat(tip); err != nil {
			return err
		}
		if root, err = rootTree(l.store, tip); err != nil {
			return err
		}
		if seen, err = l.daemonAt(tip); err != nil {
			return err
		}
	}
	b, tree := &builder{s: l.store}, root
	if tip.IsZero() {
		if tree, err = b.put(root, map[string][]byte{formatFile: formatText(), readmeFile: []byte(readmeText)}); err != nil {
			return err
		}
	}
	own := []string{fmt.Sprintf("%s: %d", epochTrailer, seen.Epoch), fmt.Sprintf("%s: %s", adoptTrailer, tip)}
	if by := oneLine(l.person, maxTrailer); by != "" {
		own = append(own, personTrailer+": "+by)
	}
	message := commitMessage([]entry{{Subject: "Adopt the ledger as it is"}}, own)
	c, err := l.seal(b, tip, tree, message)
	if err != nil {
		return err
	}
	if err := l.remote.upload(ctx, c.parent, c.hash, c.objects); err != nil {
		if now, lost := l.remote.tip(ctx); lost != nil || now != c.hash {
			return err
		}
	}
	if err := l.store.add(c.objects); err != nil {
		return err
	}
	if err := l.store.keep(c.hash); err != nil {
		return err
	}
	return l.accept(c.hash, news{adopt: c.hash.String()})
}

// yield makes the journal give way to a tip that a person has adopted. He could
// not see what is not pushed yet. So where the adopted tip has changed a file
// since base, its version counts. Records of runs are the exception: they say
// what has been done on clusters, and the adopted version stays in Git's history
// below them. A status that somebody changed while a run of its plan went on
// takes over from ours what the run has done, so that neither is lost. The
// caller holds mu and writes the journal.
func (l *Ledger) yield(base, tip plumbing.Hash) error {
	if len(l.j.entries) == 0 {
		return nil
	}
	before, err := rootTree(l.store, base)
	if err != nil { // gone from the cache: then all of the tip counts as changed
		before = plumbing.ZeroHash
	}
	now, err := rootTree(l.store, tip)
	if err != nil {
		return err
	}
	changed := map[string]plumbing.Hash{}
	if err := diffTrees(l.store, "", before, now, func(c change) error {
		changed[c.path] = c.new.Hash
		return nil
	}); err != nil {
		return err
	}
	done, err := l.unpushedRuns()
	if err != nil {
		return err
	}
	for file := range changed {
		if !strings.HasPrefix(file, "status/") {
			continue
		}
		if runs := done[file]; len(runs) > 0 {
			err = l.join(before, file, changed[file], runs)
		} else {
			l.dropUnpushed(file)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unpushedRuns are the runs that the journal tells of, by the status of their plan.
func (l *Ledger) unpushedRuns() (map[string][]*spec.Run, error) {
	done := map[string][]*spec.Run{}
	for _, e := range l.j.entries {
		for file, text := range e.Files {
			if !strings.HasPrefix(file, "runs/") {
				continue
			}
			run, err := spec.DecodeRun([]byte(text))
			if err != nil {
				return nil, wrongRecord(file, err)
			}
			of := statusPath(run.Spec.Plan)
			done[of] = append(done[of], run)
		}
	}
	return done, nil
}

// dropUnpushed forgets what the journal says of a file.
func (l *Ledger) dropUnpushed(file string) {
	for i := range l.j.entries {
		if _, ok := l.j.entries[i].Files[file]; ok {
			l.log.Warn("a record that was not in Git yet gives way to the adopted ledger", "file", file, "record", l.j.entries[i].Subject)
			l.j.entries[i].Files = maps.Clone(l.j.entries[i].Files) // readers may hold the old one
			delete(l.j.entries[i].Files, file)
		}
	}
}

// join puts the status of a plan whose runs went on into the journal, as somebody
// has changed it and with what the runs have done. Where it was deleted, or cannot
// be read, ours stays whole.
func (l *Ledger) join(before plumbing.Hash, file string, adopted plumbing.Hash, runs []*spec.Run) error {
	ours, err := l.newestStatus(before, file)
	if err != nil || ours == nil {
		return err
	}
	theirs := ours
	if !adopted.IsZero() {
		data, err := l.store.blob(adopted)
		if err != nil {
			return err
		}
		if st, err := spec.DecodeStatus(data); err == nil {
			theirs = withRuns(st, ours, runs)
		}
	}
	text, err := spec.EncodeStatus(theirs)
	if err != nil {
		return err
	}
	l.dropUnpushed(file)
	last := &l.j.entries[len(l.j.entries)-1]
	last.Files = maps.Clone(last.Files)
	if last.Files == nil {
		last.Files = map[string]string{}
	}
	last.Files[file] = string(text)
	l.log.Warn("runs went on that the adopted ledger does not know; its status was joined with what they did", "file", file, "run", runs[len(runs)-1].Metadata.Name)
	return nil
}

func (l *Ledger) newestStatus(before plumbing.Hash, file string) (*spec.PlanStatus, error) {
	for _, e := range slices.Backward(l.j.entries) {
		if text, ok := e.Files[file]; ok {
			return spec.DecodeStatus([]byte(text))
		}
	}
	data, err := readFile(l.store, before, file)
	if err != nil || data == nil {
		return nil, err
	}
	return spec.DecodeStatus(data)
}

// withRuns is a status that a person has changed, with what the runs have done
// since: approvals that are used up stay used up, numbers do not come again, and
// how it ended is what the run says.
func withRuns(theirs, ours *spec.PlanStatus, runs []*spec.Run) *spec.PlanStatus {
	st, r, have := *theirs, theirs.Recorded, &ours.Recorded
	r.Numbers = maps.Clone(r.Numbers)
	if r.Numbers == nil {
		r.Numbers = map[spec.RunKind]int{}
	}
	for kind, n := range have.Numbers {
		r.Numbers[kind] = max(r.Numbers[kind], n)
	}
	for _, c := range have.Approvals {
		if !slices.Contains(r.Approvals, c) {
			r.Approvals = append(slices.Clone(r.Approvals), c)
		}
	}
	if r.Flip != nil && slices.Contains(r.Approvals, r.Flip.Approval.Commit) {
		r.Flip = nil
	}
	tells := func(name string) bool {
		return slices.ContainsFunc(runs, func(run *spec.Run) bool { return run.Metadata.Name == name })
	}
	if tells(have.OpenRun) || tells(have.LastRun) {
		r.OpenRun, st.Covers = have.OpenRun, ours.Covers
	}
	if tells(have.LastRun) {
		r.LastRun, r.LastRunPath, r.LastDigest = have.LastRun, have.LastRunPath, have.LastDigest
		r.State, r.Cutover, r.CutoverPath, r.CutoverFailed, r.RollbackFailed = have.State, have.Cutover, have.CutoverPath, have.CutoverFailed, have.RollbackFailed
		r.LastBackPath, r.SourceWritten = have.LastBackPath, have.SourceWritten
		st.Volumes, st.Migrated, st.LastFailure, st.LastStage, st.Estimate = ours.Volumes, ours.Migrated, ours.LastFailure, ours.LastStage, ours.Estimate
	}
	st.Recorded = r
	return &st
}
