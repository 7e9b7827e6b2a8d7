package gitsource

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/tranship/tranship/spec"
)

// examine looks at one commit and what it changes.
func (a *auditor) examine(h plumbing.Hash) error {
	c, raw, err := a.read(h)
	if err != nil {
		return err
	}
	a.now = c.Committer.When
	if n := len(c.ParentHashes); n > 1 {
		a.find("", "one: the ledger is a straight line of daemons' commits", "the commit has %d parents", n)
	}
	a.signature(raw)
	said := trailersOf(c.Message)
	a.author(c, said)
	v := &visit{auditor: a, tree: c.TreeHash, said: said}
	if why := a.gaps[h]; why != "" {
		a.find("", "kept as it was: the first commit of a year names it", "%s", why)
	}
	from := c.ParentHashes
	if last, ok := a.years[h]; ok {
		from, v.first = []plumbing.Hash{last}, true
	}
	if len(from) > 0 {
		p, _, err := a.read(from[0])
		if err != nil {
			return err
		}
		v.before = p.TreeHash
	}
	if err := diffTrees(a.s, "", v.before, v.tree, func(ch change) error {
		v.changes = append(v.changes, ch)
		return nil
	}); err != nil {
		return err
	}
	if len(said[adoptTrailer]) > 0 {
		a.adoption(c, said, len(v.changes) > 0 && !v.before.IsZero())
	}
	a.approved("", said["Source-Commit"]...)
	if err := v.files(); err != nil {
		return err
	}
	a.meet(h.String(), a.truth.String())
	return nil
}

// meet strikes off what somebody has kept and the ledger holds.
func (a *auditor) meet(commit, sum string) {
	a.kept = slices.DeleteFunc(a.kept, func(k string) bool { return k == sum || strings.HasPrefix(commit, k) })
}

// trailersOf reads the last paragraph of a message.
func trailersOf(message string) map[string][]string {
	message = strings.TrimRight(message, "\n")
	said := map[string][]string{}
	for _, line := range strings.Split(message[strings.LastIndex(message, "\n\n")+1:], "\n") {
		if key, value, ok := strings.Cut(line, ": "); ok {
			said[key] = append(said[key], value)
		}
	}
	return said
}

// badRange is a row of commits whose signatures do not count for the same reason.
type badRange struct {
	first, last plumbing.Hash
	at, n       int
	why         string
}

func (a *auditor) signature(raw []byte) {
	if a.keys == nil {
		return
	}
	s := a.keys.Commit(raw)
	if s.Counts() {
		a.report.Signed[s.Key]++
		a.endRange()
		return
	}
	if a.bad.n > 0 && a.bad.why != s.Problem {
		a.endRange()
	}
	if a.bad.n == 0 {
		a.bad = badRange{first: a.commit, at: a.at, why: s.Problem}
	}
	a.bad.last, a.bad.n = a.commit, a.bad.n+1
}

// endRange reports a row of bad signatures as one finding.
func (a *auditor) endRange() {
	b := a.bad
	a.bad = badRange{}
	if b.n == 0 {
		return
	}
	what := b.why
	if b.n > 1 {
		what = fmt.Sprintf("%s; so it is with the %d commits from here to %.12s", b.why, b.n, b.last)
	}
	a.report.Findings = append(a.report.Findings, Finding{Commit: b.first.String(), What: what, Want: "signed with one of the allowed keys", at: b.at})
}

// author checks that a daemon made the commit, and which one.
func (a *auditor) author(c *object.Commit, said map[string][]string) {
	epoch, err := strconv.ParseInt(strings.Join(said[epochTrailer], " "), 10, 64)
	if err != nil {
		a.find("", "made by a daemon, with the trailer "+epochTrailer, "the commit is by %s and not by a daemon: %q", person(c.Committer), oneLine(c.Message, 80))
		return
	}
	if epoch < a.epoch {
		a.find("", fmt.Sprintf("%d or more: an older daemon wrote after a newer one", a.epoch), "its epoch is %d", epoch)
	}
	a.epoch = max(a.epoch, epoch)
	id, number, _ := strings.Cut(strings.Join(said[journalTrailer], " "), ":")
	seq, _ := strconv.ParseInt(number, 10, 64)
	if seq == 0 { // raises an epoch, or adopts
		return
	}
	if last := a.journals[id]; seq <= last {
		a.find("", fmt.Sprintf("above %d: a daemon writes each entry of its journal once and in order", last), "it is entry %d of journal %s", seq, id)
	}
	a.journals[id] = max(seq, a.journals[id])
}

func (a *auditor) adoption(c *object.Commit, said map[string][]string, changes bool) {
	accepts, by := said[adoptTrailer][0], person(c.Committer)
	if names := said[personTrailer]; len(names) > 0 {
		by = oneLine(strings.Join(names, ", "), maxTrailer)
	}
	a.report.Adoptions = append(a.report.Adoptions, Adoption{Commit: c.Hash.String(), By: by, Time: c.Committer.When.UTC(), Accepts: accepts})
	var parent plumbing.Hash
	if len(c.ParentHashes) > 0 {
		parent = c.ParentHashes[0]
	}
	if accepts != parent.String() {
		a.find("", "its parent "+parent.String(), "the adoption accepts %s", oneLine(accepts, 40))
	}
	if changes {
		a.find("", "without any change: it only accepts what is there", "the adoption changes files")
	}
}

// approved checks that commits are on the plans' branch.
func (a *auditor) approved(file string, commits ...string) {
	if a.source == nil {
		return
	}
	for _, c := range commits {
		if c != "" && !a.source[plumbing.NewHash(c)] {
			a.find(file, "an ancestor of the tip of the plans' branch: nothing else can have asked for this", "Source-Commit %s is not on the plans' branch", oneLine(c, 40))
		}
	}
}

// visit is one commit with what it changes.
type visit struct {
	*auditor
	before, tree plumbing.Hash
	said         map[string][]string
	changes      []change
	ends         []ended
	first        bool // of a year, and compared with the last of the one before
}

// yearBefore is the commit that the first one of a year goes on from; zero where
// it is the first of all, or the one before is not there.
func (a *auditor) yearBefore(ctx context.Context, h plumbing.Hash, message string) plumbing.Hash {
	last, branch, ok := previousOf(message)
	if !ok {
		return plumbing.ZeroHash
	}
	if tip, err := a.tipOf(ctx, branch); err != nil || tip != last {
		a.gaps[h] = fmt.Sprintf("branch %s does not end in commit %s, the last of the year before", oneLine(branch, 100), last)
	}
	if !a.s.has(last) && (a.bring(ctx, last) != nil || !a.s.has(last)) {
		a.gaps[h] = fmt.Sprintf("commit %s, the last of the year before, cannot be read; what came before was not verified", last)
		return plumbing.ZeroHash
	}
	a.years[h] = last
	return last
}

// files looks at every changed file, records of runs first: what a status says is
// compared with them.
func (v *visit) files() error {
	if err := v.records(); err != nil {
		return err
	}
	for _, ch := range v.changes {
		if m := ch.new.Mode; m != filemode.Regular && !ch.new.Hash.IsZero() {
			v.find(ch.path, "a regular file", "its mode is %s", m)
			continue
		}
		if v.first && ch.path != yearFile && !v.past(ch) {
			v.find(ch.path, "as in the year before: its first commit changes nothing", "the file was changed when the year began")
			continue
		}
		if look := v.rule(ch.path); look != nil {
			if err := look(ch); err != nil {
				return err
			}
		}
	}
	if err := v.carried(); err != nil {
		return err
	}
	return v.checkpoints()
}

// carried checks that the first commit of a year has what statuses refer to.
func (v *visit) carried() error {
	if !v.first {
		return nil
	}
	files, err := needed(v.s, v.before)
	if err != nil { // a status that cannot be read was found where it was written
		return nil
	}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		at, err := fileAt(v.s, v.tree, p)
		if err != nil {
			return err
		}
		if at != files[p] {
			v.find(p, "as in the year before: a status refers to it", "the file was not carried over into the new year")
		}
	}
	return nil
}

// rule is what has to hold of a file; nil where another place has looked at it.
func (v *visit) rule(file string) func(change) error {
	named := map[string]func(change) error{checkpointFile: nil, daemonFile: v.daemon, formatFile: v.fixed, readmeFile: v.fixed, yearFile: v.year}
	if look, ok := named[file]; ok {
		return look
	}
	top, _, _ := strings.Cut(file, "/")
	look, ok := map[string]func(change) error{"runs": nil, "logs": v.log, "status": v.status}[top]
	if !ok {
		return v.stranger
	}
	return look
}

func (v *visit) stranger(ch change) error {
	v.find(ch.path, "absent: a ledger has no such file", "the file is none of a ledger's")
	return nil
}

// fixed files are written once, by the first commit.
func (v *visit) fixed(ch change) error {
	if !v.before.IsZero() {
		v.find(ch.path, "as the first commit wrote it", "the file was changed")
	}
	return nil
}

func (v *visit) year(ch change) error {
	if v.first {
		return nil
	}
	return v.fixed(ch)
}

// past says that a file of a run that has ended stays behind in the old year.
func (v *visit) past(ch change) bool {
	record := ch.path
	if rest, ok := strings.CutPrefix(ch.path, "logs/"); ok {
		record = "runs/" + path.Dir(rest) + ".yaml"
	}
	run := v.runs[record]
	return v.first && ch.new.Hash.IsZero() && run != nil && run.ended
}

func (v *visit) blobs(ch change) (old, now []byte, err error) {
	if !ch.old.Hash.IsZero() {
		if old, err = v.s.raw(plumbing.BlobObject, ch.old.Hash); err != nil {
			return nil, nil, err
		}
	}
	if !ch.new.Hash.IsZero() {
		now, err = v.s.raw(plumbing.BlobObject, ch.new.Hash)
	}
	return old, now, err
}

// log demands that logs grow only, and only until their run ends.
func (v *visit) log(ch change) error {
	file := "runs/" + strings.TrimPrefix(path.Dir(ch.path), "logs/") + ".yaml"
	run := v.runs[file]
	if ch.new.Hash.IsZero() {
		if !v.past(ch) {
			v.find(ch.path, "as it was", "the log was deleted")
		}
		return nil
	}
	endsHere := slices.ContainsFunc(v.ends, func(e ended) bool { return e.path == file })
	switch {
	case run == nil:
		v.find(ch.path, "with a record "+file, "the log belongs to no run")
		return nil
	case run.ended && !endsHere:
		v.find(ch.path, "as it was when the run ended", "the log was changed after its run had ended")
		return nil
	}
	old, now, err := v.blobs(ch)
	if err == nil && !extends(old, now) {
		v.find(ch.path, "the text before, with more behind it", "what the log said before was changed")
	}
	return err
}

func (v *visit) daemon(ch change) error {
	if ch.new.Hash.IsZero() {
		v.find(ch.path, "as it was", "the daemon's status was deleted")
		return nil
	}
	_, now, err := v.blobs(ch)
	if err != nil {
		return err
	}
	d, err := spec.DecodeDaemonStatus(now)
	switch {
	case err != nil:
		v.find(ch.path, "readable", "%s", oneLine(err.Error(), 300))
	case len(v.said[epochTrailer]) > 0 && strconv.FormatInt(d.Epoch, 10) != v.said[epochTrailer][0]:
		v.find(ch.path, "that of the commit's trailer, "+v.said[epochTrailer][0], "its epoch is %d", d.Epoch)
	}
	return nil
}

// checkpoints compares checkpoint.yaml with the runs that end in this commit.
func (v *visit) checkpoints() error {
	h, err := fileAt(v.s, v.tree, checkpointFile)
	if err != nil {
		return err
	}
	var text []byte
	if !h.IsZero() {
		if text, err = v.s.raw(plumbing.BlobObject, h); err != nil {
			return err
		}
	}
	v.sums = v.sums || text != nil
	if !v.sums { // written by a version before checkpoints
		return nil
	}
	want := v.sum
	if len(v.ends) > 0 {
		slices.SortFunc(v.ends, func(x, y ended) int { return strings.Compare(x.path, y.path) })
		v.truth, want = v.truth.with(v.ends), v.sum.with(v.ends)
	}
	has, err := decodeCheckpoint(text)
	if err != nil || has != want {
		v.find(checkpointFile, fmt.Sprintf("%q, which the records and logs add up to", want), "it is %q", has)
	}
	if err == nil {
		want = has // one finding for one change
	}
	v.sum = want
	return nil
}
