package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor"
	"github.com/tranship/tranship/executor/preflight"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "plan", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./cmd/tranship -run TestPlan -update writes it anew):\n%s", file, got)
	}
}

// answers is clusters that say the same about every plan.
type answers struct {
	executor.Inspection
	err   error
	asked []string
}

func (a *answers) Inspect(_ context.Context, c *spec.Closure, _ []spec.Volume) (executor.Inspection, error) {
	a.asked = append(a.asked, c.Plan.Metadata.Name)
	return a.Inspection, a.err
}

var planTime = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// examples is a clone of a repository that holds the examples.
func examples(t *testing.T) *gittest.Work {
	t.Helper()
	w := gittest.New(t).Repo("plans.git").Clone()
	if err := os.CopyFS(w.Dir, os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	w.Write("daemon.yaml", "").Push("first")
	w.Git("checkout", "-q", "-b", "change")
	return w
}

func edit(t *testing.T, w *gittest.Work, file, from, to string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.Dir, file))
	if err != nil || !strings.Contains(string(data), from) {
		t.Fatalf("%s has no %q: %v", file, from, err)
	}
	w.Write(file, strings.Replace(string(data), from, to, 1))
}

// planned is the report about the working tree.
func planned(t *testing.T, w *gittest.Work, clusters inspector) *planReport {
	t.Helper()
	local, err := gitsource.OpenLocal(w.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	m, err := local.Merge(t.Context(), gitsource.Change{Into: "main", Now: planTime})
	if err != nil {
		t.Fatal(err)
	}
	p := &planner{now: planTime, merge: m, clusters: clusters, rec: reconciler.Presume(planTime, m.Before), report: newReport(m, "")}
	p.foresee(t.Context())
	p.report.Against = strings.Repeat("0123456789", 4) // commits of tests differ from run to run
	return p.report
}

func bothClusters() *answers {
	return &answers{Inspection: executor.Inspection{
		Findings: []preflight.Finding{{Reason: "PodLimit", Message: "the plan covers 120 pods, more than the 100 of limits.pods", Warning: true}},
		Volumes: []spec.Volume{{Namespace: "shop-db", Claim: "data-mysql-0", TargetNamespace: "shop-data", TargetClaim: "data-mysql-0", Action: "copy", Method: "filesystem",
			Capacity: "10Gi", SourceClassName: "gp3", StorageClassName: "ceph-rbd", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Files: 12, Bytes: 4 << 20, Notes: []string{"its class is another one"}}},
		Counts: []spec.Count{{Kind: "ConfigMap", Source: 3}, {Kind: "Deployment.apps", Source: 2}},
	}}
}

func TestPlanSaysWhatAFlipDoes(t *testing.T) {
	w := examples(t)
	edit(t, w, "plans/shop.yaml", "state: Staged", "state: Migrated")
	r := planned(t, w, bothClusters())
	if r.exitCode() != 2 || len(r.Plans) != 1 || r.Plans[0].Action != actCutover {
		t.Fatalf("exit %d, %+v", r.exitCode(), r.Plans)
	}
	for name, print := range map[string]string{"cutover.txt": "text", "cutover.md": "markdown", "cutover.json": "json"} {
		var b strings.Builder
		if err := printPlan(&b, print, r); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.String())
	}
	if err := printPlan(&strings.Builder{}, "html", r); err == nil {
		t.Error("an unknown form was printed")
	}
}

func TestPlanExitCodes(t *testing.T) {
	broken := bothClusters()
	broken.Findings = append(broken.Findings, preflight.Finding{Reason: "NoVelero", Message: "cluster new has no Velero"})
	passing := bothClusters()
	passing.Findings = append(passing.Findings, preflight.Finding{Reason: "NoVelero", Message: "Velero of cluster new starts", Passing: true})
	rows := []struct {
		name, file, from, to string
		clusters             inspector
		exit                 int
		action, reason       string
	}{
		{"nothing", "plans/shop.yaml", "kind: MigrationPlan", "# a comment\nkind: MigrationPlan", nil, 0, "", ""},
		{"a flip, offline", "plans/shop.yaml", "state: Staged", "state: Migrated", nil, 2, actCutover, ""},
		{"a flip that the clusters refuse", "plans/shop.yaml", "state: Staged", "state: Migrated", broken, 1, actRefused, "NoVelero"},
		{"a flip while a cluster is not ready yet", "plans/shop.yaml", "state: Staged", "state: Migrated", passing, 2, actCutover, ""},
		{"a flip while the clusters do not answer", "plans/shop.yaml", "state: Staged", "state: Migrated", &answers{err: context.DeadlineExceeded}, 1, actRefused, "ClustersUnreachable"},
		{"a flip that is refused", "plans/shop.yaml", "state: Staged", "state: RolledBack", nil, 1, actRefused, "NothingToRollBack"},
		{"a document that cannot be read", "plans/shop.yaml", "state: Staged", "state: Sideways", nil, 1, actRefused, "InvalidDocuments"},
		{"a document of no plan", "clusters/new.yaml", "kind: Cluster", "kind: Clutter", nil, 1, "", ""},
	}
	for _, r := range rows {
		w := examples(t)
		edit(t, w, r.file, r.from, r.to)
		got := planned(t, w, r.clusters)
		if got.exitCode() != r.exit {
			t.Errorf("%s: exit %d, want %d: %+v", r.name, got.exitCode(), r.exit, got)
		}
		if r.action == "" {
			continue
		}
		if len(got.Plans) != 1 || got.Plans[0].Action != r.action || r.reason != "" && got.Plans[0].Reason != r.reason {
			t.Errorf("%s: %+v", r.name, *got.Plans[0])
		}
	}
}

func TestPlanOfARemoval(t *testing.T) {
	w := examples(t)
	w.Write("plans/shop.yaml", "")
	r := planned(t, w, nil)
	if r.exitCode() != 2 || len(r.Plans) != 1 || r.Plans[0].Action != actRemoved {
		t.Errorf("exit %d, %+v", r.exitCode(), *r.Plans[0])
	}
}

// Where credentials go is what the branch says, never what a change says.
func TestPlanAsksNoClusterThatTheChangeNames(t *testing.T) {
	w := examples(t)
	edit(t, w, "plans/shop.yaml", "state: Staged", "state: Migrated")
	file := "clusters/old.yaml"
	data, err := os.ReadFile(filepath.Join(w.Dir, file))
	if err != nil {
		t.Fatal(err)
	}
	w.Write(file, strings.Replace(string(data), "server: https://", "server: https://evil.", 1))
	clusters := bothClusters()
	r := planned(t, w, clusters)
	if len(clusters.asked) != 0 {
		t.Errorf("asked about %v", clusters.asked)
	}
	for _, p := range r.Plans {
		if !strings.Contains(strings.Join(p.Unknown, "\n"), "Cluster old is new or changed here") {
			t.Errorf("%s: unknown is %q", p.Name, p.Unknown)
		}
	}
}

// The whole command, as CI runs it: nothing but a clone.
func TestPlanCommand(t *testing.T) {
	w := examples(t)
	edit(t, w, "plans/shop.yaml", "state: Staged", "state: Migrated")
	run := func(args ...string) (string, error) {
		c := planCommand()
		var b strings.Builder
		c.SetOut(&b)
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetArgs(args)
		err := c.Execute()
		return b.String(), err
	}
	out, err := run(w.Dir)
	if err != exitError(2) || !strings.Contains(out, "merging   starts the cutover") || !strings.Contains(out, "no ledger was read") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run("--against", "main", filepath.Join(w.Dir, "clusters")); err != nil || !strings.Contains(out, "no plan is touched") {
		t.Errorf("below a folder: %v: %s", err, out)
	}
	if _, err := run("--against", "nothing", w.Dir); err == nil || !strings.Contains(err.Error(), `cannot find commit "nothing"`) {
		t.Errorf("a branch that is not there: %v", err)
	}
	if _, err := run("--config", filepath.Join(t.TempDir(), "none.yaml"), w.Dir); err == nil {
		t.Error("a configuration that is not there was not missed")
	}
}

// With a shard's configuration it says what that shard's daemon makes of a change.
func TestPlanOfAShard(t *testing.T) {
	server, dir := gittest.New(t), t.TempDir()
	w := server.Repo("plans.git").Clone()
	if err := os.CopyFS(w.Dir, os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	w.Write("daemon.yaml", "").Push("first")
	edit(t, w, "plans/shop.yaml", "state: Staged", "state: Migrated")
	ca := strings.ReplaceAll(strings.TrimSpace(server.CA), "\n", "\n      ")
	for name, text := range map[string]string{"secrets/git/username": gittest.User, "secrets/git/password": gittest.Password, "west.conf": "apiVersion: tranship.dev/v1alpha1\nkind: DaemonConfig\nmetadata: {name: west}\nspec:\n  source:\n    url: " + w.Repo.URL +
		"\n    credentials: {from: git}\n    caBundle: |\n      " + ca + "\n  mover: {image: x}\n  shard: {name: west, selector: {matchLabels: {region: west}}}\n"} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c := planCommand()
	var b strings.Builder
	c.SetOut(&b)
	c.SetArgs([]string{"--config", filepath.Join(dir, "west.conf"), "--secrets-dir", filepath.Join(dir, "secrets"), "--offline", w.Dir})
	if err := c.Execute(); err != nil || !strings.Contains(b.String(), "no plan is touched") || !strings.Contains(b.String(), `that of shard "west"`) {
		t.Errorf("%v: %s", err, b.String())
	}
}

// What a plan with cutover.scope covers is judged as the daemon will judge it.
func TestPlanKnowsTheScope(t *testing.T) {
	approved, other := spec.NewScope(nil, []string{"Deployment.apps shop/web"}), spec.NewScope(nil, []string{"Deployment.apps shop/web", "Secret shop/new"})
	for now, exit := range map[*spec.Scope]int{approved: 2, other: 1} {
		w := examples(t)
		edit(t, w, "plans/shop.yaml", "state: Staged", "state: Migrated")
		edit(t, w, "plans/shop.yaml", "cutover:\n", "cutover:\n    scope: "+approved.Digest+"\n")
		clusters := bothClusters()
		clusters.Scope = now
		r := planned(t, w, clusters)
		if r.exitCode() != exit || r.Plans[0].Scope != now || exit == 1 && r.Plans[0].Reason != "PlanStale" {
			t.Errorf("exit %d, want %d: %+v", r.exitCode(), exit, *r.Plans[0])
		}
	}
}
