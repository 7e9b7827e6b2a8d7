package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tranship/tranship/spec"

	"github.com/tranship/tranship/test/bench/estate"
)

const ledgerRef = "refs/heads/" + spec.DefaultLedgerBranch

// ledgerPush measures ledger.push, one status of 10,000 changed, and
// ledger.batch, 100 at once.
func ledgerPush(ctx context.Context, e *host, runs int) ([]row, error) {
	w, err := e.worker(ctx)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	for _, o := range []estate.Order{{Do: "ledger"}, {Do: "plans"}, {Do: "event", Times: 3}} {
		if _, err := w.do(o); err != nil {
			return nil, err
		}
	}
	p, err := e.newPlumber(ctx)
	if err != nil {
		return nil, err
	}
	var ours, peers sample
	for i := range 3 * runs {
		a, err := w.do(estate.Order{Do: "event", From: 10 + i})
		if err != nil {
			return nil, err
		}
		cpu, err := p.push(ctx, i)
		if err != nil {
			return nil, err
		}
		ours, peers = append(ours, a.CPU), append(peers, cpu)
	}
	fmt.Printf("  ledger.push: ours %s\n  C git %s\n", ours, peers)
	rows := []row{compared("ledger.push", "ms of processor time", ours, "git hash-object, update-index, write-tree, commit-tree and push, with an index that is kept", peers, ratioAtMost(0.2),
		"one status file of 10,000; ours also checks it, redacts it and writes it to the journal")}
	before, err := e.commitsOf(ctx, ledgerRef)
	if err != nil {
		return rows, err
	}
	if _, err := w.do(estate.Order{Do: "batch", From: 100}); err != nil {
		return rows, err
	}
	after, err := e.commitsOf(ctx, ledgerRef)
	batch := sample{float64(after - before)}
	return append(rows, fixed("ledger.batch", "commits", batch, "the bar", 1, "100 plans changed at once, each in a change of its own")), err
}

func (e *host) commitsOf(ctx context.Context, ref string) (int, error) {
	_, out, err := e.c(ctx, e.bare, "", "rev-list", "--count", ref)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}

// plumber does by hand what a push to the ledger does, on a branch that begins
// as the ledger's own.
type plumber struct {
	e     *host
	dir   string
	paths []string
}

func (e *host) newPlumber(ctx context.Context) (*plumber, error) {
	p := &plumber{e: e, dir: filepath.Join(e.dir, "plumber.git")}
	if err := gitRun(ctx, e.bare, "update-ref", "refs/heads/byhand", ledgerRef); err != nil {
		return nil, err
	}
	err := errors.Join(os.MkdirAll(p.dir, 0o755), gitRun(ctx, p.dir, "clone", "-q", "--bare", "--single-branch", "-b", "byhand", e.url(), "."))
	if err == nil {
		err = gitRun(ctx, p.dir, "read-tree", "byhand")
	}
	if err != nil {
		return nil, err
	}
	_, names, err := e.c(ctx, p.dir, "", "ls-tree", "-r", "--name-only", "byhand", "status/")
	p.paths = strings.Fields(names)
	return p, err
}

// push commits another content of one status and pushes it, in milliseconds
// of processor time.
func (p *plumber) push(ctx context.Context, i int) (float64, error) {
	path := p.paths[(i*37+11)%len(p.paths)]
	data, err := spec.EncodeStatus(estate.Status(i%estate.Folders, i%estate.PerFolder, 7_000_000+i))
	if err != nil {
		return 0, fmt.Errorf("cannot encode a status: %w", err)
	}
	sum := 0.0
	run := func(stdin string, args ...string) (out string) {
		if err != nil {
			return ""
		}
		var cpu float64
		cpu, out, err = p.e.c(ctx, p.dir, stdin, args...)
		sum += cpu
		return out
	}
	blob := run(string(data), "hash-object", "-w", "--stdin")
	run("", "update-index", "--add", "--cacheinfo", "100644,"+blob+","+path)
	tree := run("", "write-tree")
	commit := run("status\n", "commit-tree", tree, "-p", "refs/heads/byhand")
	run("", "push", "-q", "origin", commit+":refs/heads/byhand")
	if err == nil {
		err = gitRun(ctx, p.dir, "update-ref", "refs/heads/byhand", commit)
	}
	return sum, err
}

// flat measures git.flat: how much memory grows by thousands of polls and of
// commits read.
func flat(ctx context.Context, e *host) ([]row, error) {
	const polls, fetches = 10_000, 1_000
	w, err := e.worker(ctx)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	read := func(times int) (a estate.Answer) {
		if err == nil {
			a, err = w.do(estate.Order{Do: "read", Times: times})
		}
		return a
	}
	read(1)
	fetch := func(n int) {
		for range n {
			if err == nil {
				err = e.commit(ctx)
			}
			read(1)
		}
	}
	fetch(100)
	warm := read(100)
	fetch(fetches)
	end := read(polls)
	if err != nil {
		return nil, err
	}
	size, err := e.diskOf(w)
	fmt.Printf("  git.flat of %s: %.1f MiB, then %.1f MiB, at most %.1f MiB; cache %.1f MiB\n", filepath.Base(e.bare), warm.RSS, end.RSS, end.Peak, size)
	return []row{fixed("git.flat", "MiB more", sample{end.RSS - warm.RSS}, "half of what it was", warm.RSS/2,
		fmt.Sprintf("from %.0f MiB, by %d commits read and %d polls; the cache on disk has %.1f MiB", warm.RSS, fetches, polls, size))}, err
}

// diskOf is the size of a worker's data folder in MiB.
func (e *host) diskOf(w *gitWorker) (float64, error) {
	var n int64
	err := filepath.WalkDir(w.cmd.Args[len(w.cmd.Args)-1], func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return float64(n) / (1 << 20), err
}

// judge says whether a row holds its bar, given our median and the ratio.
type judge struct {
	bar  float64
	pass func(value, ratio float64) bool
}

func atMost(bar float64) judge {
	return judge{bar, func(value, _ float64) bool { return value <= bar }}
}

func ratioAtMost(bar float64) judge {
	return judge{bar, func(_, ratio float64) bool { return ratio <= bar }}
}

// compared is a row of medians; fixed is one whose peer is a fixed figure.
func compared(name, unit string, ours sample, peer string, peers sample, j judge, note string) row {
	value, other := ours.median(), peers.median()
	return row{Name: name, Value: value, Unit: unit, Peer: peer, PeerValue: other, Ratio: value / other, Bar: j.bar, Pass: j.pass(value, value/other), Note: note}
}

func fixed(name, unit string, ours sample, peer string, bar float64, note string) row {
	value := ours.median()
	return row{Name: name, Value: value, Unit: unit, Peer: peer, PeerValue: bar, Ratio: value / bar, Bar: bar, Pass: value <= bar, Note: note}
}
