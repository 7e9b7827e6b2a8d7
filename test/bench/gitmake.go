package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"

	"github.com/tranship/tranship/test/bench/estate"
)

// fastImport feeds C git's fast-import of a bare repository.
func fastImport(ctx context.Context, dir string, write func(w io.Writer)) error {
	cmd := gitCommand(ctx, dir, "fast-import", "--quiet", "--done", "--force")
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("cannot feed git fast-import: %w", err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start git fast-import: %w", err)
	}
	b := bufio.NewWriterSize(in, 1<<20)
	write(b)
	fmt.Fprint(b, "done\n")
	_ = b.Flush() // a broken pipe shows in Wait
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("git fast-import failed: %w: %s", err, said.String())
	}
	return nil
}

// file is one file of a commit.
type file struct{ path, text string }

// importCommit writes one commit of a fast-import stream; from is "" for the
// first one of a branch in a stream that made it.
func importCommit(w io.Writer, ref, from string, at int64, files ...file) {
	fmt.Fprintf(w, "commit %s\nauthor Dev <dev@example.com> %d +0000\ncommitter Dev <dev@example.com> %d +0000\ndata 7\nchange\n\n", ref, at, at)
	if from != "" {
		fmt.Fprintf(w, "from %s\n", from)
	}
	for _, f := range files {
		fmt.Fprintf(w, "M 100644 inline %s\ndata %d\n%s\n", f.path, len(f.text), f.text)
	}
}

// fill fills a bare repository: 1,000 folders of ten plans in 2,000
// commits, repacked with bitmaps as a Git host has them.
func fill(ctx context.Context, dir string) error {
	err := fastImport(ctx, dir, func(w io.Writer) {
		at := int64(1_700_000_000)
		r := rand.New(rand.NewPCG(7, 7))
		for c := range estate.Folders {
			files := []file{}
			if c == 0 {
				files = append(files, file{"common.yaml", estate.Common})
			}
			for n := range estate.PerFolder {
				files = append(files, file{estate.File(c, n), estate.Plan(c, n, 0, "0 1 * * *")})
			}
			importCommit(w, "refs/heads/main", "", at+int64(c)*600, files...)
		}
		for c := range estate.Changes {
			files := []file{}
			for range 3 {
				f, n := r.IntN(estate.Folders), r.IntN(estate.PerFolder)
				files = append(files, file{estate.File(f, n), estate.Plan(f, n, c+1, "0 1 * * *")})
			}
			importCommit(w, "refs/heads/main", "", at+int64(estate.Folders+c)*600, files...)
		}
	})
	if err != nil {
		return err
	}
	return gitRun(ctx, dir, "repack", "-adqb")
}

// addCommit moves main by one commit that changes one plan, without a server.
func addCommit(ctx context.Context, dir string, rev int) error {
	f, n := rev*37%estate.Folders, rev%estate.PerFolder
	return fastImport(ctx, dir, func(w io.Writer) {
		importCommit(w, "refs/heads/main", "refs/heads/main^0", 1_800_000_000+int64(rev), file{estate.File(f, n), estate.Plan(f, n, 1_000_000+rev, "0 1 * * *")})
	})
}

func gitCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Dev", "GIT_AUTHOR_EMAIL=dev@example.com", "GIT_COMMITTER_NAME=Dev", "GIT_COMMITTER_EMAIL=dev@example.com")
	return cmd
}

func gitRun(ctx context.Context, dir string, args ...string) error {
	if out, err := gitCommand(ctx, dir, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("git %s failed: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
