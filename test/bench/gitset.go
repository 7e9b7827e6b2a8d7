package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/test/bench/estate"
)

// host is the server with the repository of plans, for the set git.
type host struct {
	dir     string // of everything that is measured with
	bare    string // the repository, beside others of the same server
	suffix  string // of the names of its rows
	program string // test/bench/gitside
	server  *gitServer
	rev     int
}

// manyRefs are the branches more of the second repository.
const manyRefs = 10_000

// newHost takes a minute. close ends the server; the folder stays the lab's.
func newHost(ctx context.Context, dir string) (*host, error) {
	e := &host{dir: dir, bare: filepath.Join(dir, "served", "plans.git")}
	if err := os.MkdirAll(e.bare, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	err := gitRun(ctx, e.bare, "init", "-q", "--bare", "-b", "main", ".")
	if err == nil {
		err = gitRun(ctx, e.bare, "config", "http.receivepack", "true")
	}
	if err == nil {
		err = fill(ctx, e.bare)
	}
	if err == nil {
		e.program, err = buildSide(ctx, dir)
	}
	if err == nil {
		e.server, err = startServer(ctx, e.program, filepath.Dir(e.bare))
	}
	return e, err
}

// buildSide builds the program that the server and the clients are.
func buildSide(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "gitside")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./test/bench/gitside").CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build test/bench/gitside: %w: %s; run this in the project's folder", err, out)
	}
	return program, nil
}

// withRefs is a copy of the repository with manyRefs branches more.
func (e *host) withRefs(ctx context.Context) (*host, error) {
	many := &host{dir: filepath.Join(e.dir, "many"), bare: filepath.Join(filepath.Dir(e.bare), "many.git"), suffix: "-10k-refs", program: e.program, server: e.server}
	if err := errors.Join(os.MkdirAll(many.dir, 0o755), os.CopyFS(many.bare, os.DirFS(e.bare))); err != nil {
		return nil, fmt.Errorf("cannot copy the repository: %w", err)
	}
	err := fastImport(ctx, many.bare, func(w io.Writer) {
		for i := range manyRefs {
			fmt.Fprintf(w, "reset refs/heads/many/%05d\nfrom refs/heads/main^0\n\n", i)
		}
	})
	if err == nil {
		err = gitRun(ctx, many.bare, "pack-refs", "--all")
	}
	return many, err
}

func (e *host) url() string { return e.server.URL + "/" + filepath.Base(e.bare) }

// worker starts the product with an empty cache.
func (e *host) worker(ctx context.Context) (*gitWorker, error) {
	data, err := os.MkdirTemp(e.dir, "data-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	return startWorker(ctx, e.program, e.url(), data)
}

// commit moves main by one commit.
func (e *host) commit(ctx context.Context) error {
	e.rev++
	return addCommit(ctx, e.bare, e.rev)
}

// c runs C git and returns the processor time that it took, its helpers
// included, in milliseconds.
func (e *host) c(ctx context.Context, dir, stdin string, args ...string) (cpu float64, out string, err error) {
	cmd := gitCommand(ctx, dir, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var said strings.Builder
	cmd.Stderr = &said
	raw, err := cmd.Output()
	if err != nil {
		return 0, "", fmt.Errorf("git %s failed: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return float64(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()) / 1e6, strings.TrimSpace(string(raw)), nil
}

// gitRows measures everything of the set git, in a repository of one branch and in
// one of ten thousand.
func gitRows(ctx context.Context, l *lab, runs int) (rows []row, err error) {
	few, err := newHost(ctx, filepath.Join(l.dir, "git"))
	if err != nil {
		return nil, err
	}
	defer few.server.stop()
	many, err := few.withRefs(ctx)
	if err != nil {
		return nil, err
	}
	both := []*host{few, many}
	for _, e := range both {
		fmt.Printf("  of %s:\n", filepath.Base(e.bare))
		for _, m := range []func(context.Context, *host, int) ([]row, error){coldStart, polls, newCommit, ledgerPush} {
			got, failed := m(ctx, e, runs)
			rows, err = append(rows, e.named(got)...), errors.Join(err, failed)
		}
	}
	got, failed := flats(ctx, both)
	rows, err = append(rows, got...), errors.Join(err, failed)
	got, failed = fleetDue(ctx, few)
	rows, err = append(rows, got...), errors.Join(err, failed)
	for _, e := range both {
		if out, failed := gitCommand(ctx, e.bare, "fsck", "--strict", "--no-dangling").CombinedOutput(); failed != nil || strings.TrimSpace(string(out)) != "" {
			err = errors.Join(err, fmt.Errorf("git fsck --strict is not content: %s: %w", out, failed))
		}
	}
	return rows, err
}

// flats measures git.flat of all repositories side by side: it is long, and about
// memory, which others' processor time does not change.
func flats(ctx context.Context, hosts []*host) (rows []row, err error) {
	got, failed := make([][]row, len(hosts)), make([]error, len(hosts))
	var all sync.WaitGroup
	for i, e := range hosts {
		all.Go(func() { got[i], failed[i] = flat(ctx, e) })
	}
	all.Wait()
	for i, e := range hosts {
		rows = append(rows, e.named(got[i])...)
	}
	return rows, errors.Join(failed...)
}

// named says in the rows' names of which repository they are.
func (e *host) named(rows []row) []row {
	for i := range rows {
		rows[i].Name += e.suffix
	}
	return rows
}

// coldStart measures git.cold-start and git.rss: an empty cache, until every
// plan is read and joined with what it refers to.
func coldStart(ctx context.Context, e *host, runs int) ([]row, error) {
	var ours, peers, rss, most sample
	for range runs {
		w, err := e.worker(ctx)
		if err != nil {
			return nil, err
		}
		a, err := w.do(estate.Order{Do: "read"})
		if err == nil && a.Plans != estate.Folders*estate.PerFolder {
			err = fmt.Errorf("%d plans were read instead of %d", a.Plans, estate.Folders*estate.PerFolder)
		}
		steady, failed := w.do(estate.Order{Do: "read", Times: 200})
		w.stop()
		if err := errors.Join(err, failed); err != nil {
			return nil, err
		}
		ours, rss, most = append(ours, a.Wall/1000), append(rss, steady.RSS), append(most, a.Peak)
		wall, err := e.cloneByHand(ctx)
		if err != nil {
			return nil, err
		}
		peers = append(peers, wall)
	}
	fmt.Printf("  git.cold-start: ours %s\n  C git %s\n  peak memory %s\n", ours, peers, most)
	note := fmt.Sprintf("%d plans in %d folders; peak while reading %.0f MiB", estate.Folders*estate.PerFolder, estate.Folders, most.median())
	return []row{
		compared("git.cold-start", "s", ours, "C git: a shallow bare clone, and every file by cat-file, none of them parsed", peers, atMost(2), note),
		fixed("git.rss", "MiB", rss, "the bar", 80, note+"; after 200 polls"),
	}, nil
}

// cloneByHand reads every file with C git, in seconds.
func (e *host) cloneByHand(ctx context.Context) (float64, error) {
	dir, err := os.MkdirTemp(e.dir, "clone-")
	if err != nil {
		return 0, fmt.Errorf("cannot make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	if err := gitRun(ctx, dir, "clone", "-q", "--bare", "--depth=1", "--single-branch", e.url(), "."); err != nil {
		return 0, err
	}
	_, names, err := e.c(ctx, dir, "", "ls-tree", "-r", "--format=%(objectname)", "HEAD")
	if err == nil {
		_, _, err = e.c(ctx, dir, names+"\n", "cat-file", "--batch")
	}
	return time.Since(began).Seconds(), err
}

// polls measures git.poll, the cost of a poll that finds nothing new; one sample is
// the mean of many.
func polls(ctx context.Context, e *host, runs int) ([]row, error) {
	const each = 50
	w, err := e.worker(ctx)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	if _, err := w.do(estate.Order{Do: "read", Times: 3}); err != nil {
		return nil, err
	}
	var ours, peers, bytes sample
	for range runs {
		before, err := e.server.sent()
		if err != nil {
			return nil, err
		}
		a, err := w.do(estate.Order{Do: "read", Times: each})
		if err != nil {
			return nil, err
		}
		after, err := e.server.sent()
		if err != nil {
			return nil, err
		}
		ours, bytes = append(ours, a.CPU/each), append(bytes, float64(after-before)/each)
		cpu, _, err := e.c(ctx, e.bare, "", "ls-remote", e.url(), "refs/heads/main")
		if err != nil {
			return nil, err
		}
		peers = append(peers, cpu)
	}
	fmt.Printf("  git.poll: ours %s; bytes received %s\n", ours, bytes)
	r := compared("git.poll", "ms of processor time", ours, "git ls-remote of one branch", peers, atMost(1), fmt.Sprintf("%.0f bytes received a poll", bytes.median()))
	r.Pass = r.Pass && bytes.median() <= 1024
	return []row{r}, nil
}

// newCommit measures git.new-commit: fetch it, find what it changed, read that.
// Ours also parses it and joins it with what it refers to.
func newCommit(ctx context.Context, e *host, runs int) ([]row, error) {
	w, err := e.worker(ctx)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	clone := filepath.Join(e.dir, "peer.git")
	if err := errors.Join(os.MkdirAll(clone, 0o755), gitRun(ctx, clone, "clone", "-q", "--bare", "--single-branch", e.url(), ".")); err != nil {
		return nil, err
	}
	if _, err := w.do(estate.Order{Do: "read"}); err != nil {
		return nil, err
	}
	var ours, peers sample
	for range 3 * runs {
		if err := e.commit(ctx); err != nil {
			return nil, err
		}
		a, err := w.do(estate.Order{Do: "read"})
		if err == nil && a.Commits != 1 {
			err = fmt.Errorf("%d commits were seen instead of one", a.Commits)
		}
		if err != nil {
			return nil, err
		}
		cpu, err := e.fetchByHand(ctx, clone)
		if err != nil {
			return nil, err
		}
		ours, peers = append(ours, a.CPU), append(peers, cpu)
	}
	fmt.Printf("  git.new-commit: ours %s\n  C git %s\n", ours, peers)
	return []row{compared("git.new-commit", "ms of processor time", ours, "git fetch, diff-tree and cat-file of the changed file, in a full clone", peers, ratioAtMost(0.25), "one plan of 10,000 changed; ours parses it and joins it with its clusters as well")}, nil
}

func (e *host) fetchByHand(ctx context.Context, clone string) (float64, error) {
	_, old, err := e.c(ctx, clone, "", "rev-parse", "refs/heads/main")
	if err != nil {
		return 0, err
	}
	fetch, _, err := e.c(ctx, clone, "", "fetch", "-q", "origin", "+refs/heads/main:refs/heads/main")
	if err != nil {
		return 0, err
	}
	diff, changed, err := e.c(ctx, clone, "", "diff-tree", "-r", old, "refs/heads/main")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(changed)
	if len(fields) < 4 {
		return 0, fmt.Errorf("git diff-tree said %q", changed)
	}
	read, _, err := e.c(ctx, clone, fields[3]+"\n", "cat-file", "--batch")
	return fetch + diff + read, err
}
