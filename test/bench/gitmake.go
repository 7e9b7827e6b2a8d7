package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
)

// The repository of plans that the set git is measured with: an estate of
// folders full of plans, made by many commits.
const (
	gitFolders  = 1000
	gitPerFold  = 10
	gitChanges  = 1000 // commits after the ones that made the folders, with three plans each
	gitManyRefs = 10_000
)

const gitCommon = `apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: old}
spec: {server: "https://old.example.com:6443", token: {from: old}}
---
apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: new}
spec: {server: "https://new.example.com:6443", token: {from: new}}
---
apiVersion: tranship.dev/v1alpha1
kind: ReplicationRepository
metadata: {name: main}
spec: {provider: aws, bucket: migrations, region: eu-central-1, credentials: {from: s3}, encryption: {from: s3}}
`

// estatePlan is a plan of about 500 bytes; rev makes its text another one.
func estatePlan(folder, n, rev int, schedule string) string {
	return fmt.Sprintf(`# owned by team %[1]d
apiVersion: tranship.dev/v1alpha1
kind: MigrationPlan
metadata:
  name: app-%04[1]d-%[2]d
spec:
  state: Staged
  sourceCluster: old
  targetCluster: new
  replicationRepository: main
  namespaces:
    - name: app-%04[1]d-%[2]d
    - name: app-%04[1]d-%[2]d-db
      targetName: app-%04[1]d-%[2]d-data
  labelSelector:
    matchLabels: {app: "a%[1]d", rev: "r%[3]d"}
  stage:
    schedule: "%[4]s"
    timeZone: Europe/Berlin
    startingDeadline: 1h
  cutover:
    timeout: 4h
    healthTimeout: 10m
`, folder, n, rev, schedule)
}

func estateFile(folder, n int) string { return fmt.Sprintf("plans/app-%04d/plan-%d.yaml", folder, n) }

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

// makeEstate fills a bare repository: 1,000 folders of ten plans in 2,000
// commits, repacked with bitmaps as a Git host has them.
func makeEstate(ctx context.Context, dir string) error {
	err := fastImport(ctx, dir, func(w io.Writer) {
		at := int64(1_700_000_000)
		r := rand.New(rand.NewPCG(7, 7))
		for c := range gitFolders {
			files := []file{}
			if c == 0 {
				files = append(files, file{"common.yaml", gitCommon})
			}
			for n := range gitPerFold {
				files = append(files, file{estateFile(c, n), estatePlan(c, n, 0, "0 1 * * *")})
			}
			importCommit(w, "refs/heads/main", "", at+int64(c)*600, files...)
		}
		for c := range gitChanges {
			files := []file{}
			for range 3 {
				f, n := r.IntN(gitFolders), r.IntN(gitPerFold)
				files = append(files, file{estateFile(f, n), estatePlan(f, n, c+1, "0 1 * * *")})
			}
			importCommit(w, "refs/heads/main", "", at+int64(gitFolders+c)*600, files...)
		}
	})
	if err != nil {
		return err
	}
	return gitRun(ctx, dir, "repack", "-adqb")
}

// addCommit moves main by one commit that changes one plan, without a server.
func addCommit(ctx context.Context, dir string, rev int) error {
	f, n := rev*37%gitFolders, rev%gitPerFold
	return fastImport(ctx, dir, func(w io.Writer) {
		importCommit(w, "refs/heads/main", "refs/heads/main^0", 1_800_000_000+int64(rev), file{estateFile(f, n), estatePlan(f, n, 1_000_000+rev, "0 1 * * *")})
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
