package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

const (
	noopBar      = 0.5 // seconds beyond the peer
	noopObjects  = 25
	cutoverLimit = 5 * time.Minute
	lastStep     = "migrated"
	mergeMessage = "Move the application"
)

// noopApp is a namespace with 25 objects and no workload.
func noopApp(ns string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", ns)
	add := func(n int, text string) {
		for i := range n {
			fmt.Fprintf(&b, "---\n"+text+"\n", i, ns)
		}
	}
	add(10, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings-%d, namespace: %s}\ndata: {greeting: hello, text: "+strings.Repeat("x", 200)+"}")
	add(5, "apiVersion: v1\nkind: Secret\nmetadata: {name: password-%d, namespace: %s}\nstringData: {password: example}")
	add(4, "apiVersion: v1\nkind: Service\nmetadata: {name: web-%d, namespace: %s}\nspec: {selector: {app: web}, ports: [{port: 80}]}")
	add(3, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot-%d, namespace: %s}")
	add(2, "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader-%d, namespace: %s}\nrules: [{apiGroups: [''], resources: [configmaps], verbs: [get]}]")
	add(1, "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: readers-%d, namespace: %s}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader-0}\nsubjects: [{kind: ServiceAccount, name: robot-0}]")
	return b.String()
}

// noop is one comparison of cutovers with the same work by hand.
type noop struct {
	lab     *lab
	ours    sample
	wall    sample
	peers   sample
	around  parts
	steps   parts
	byHand  parts
	pushes  []map[string]string // what the product pushed, for the peer to push as much
	commits sample
}

// noopCutover measures overhead.noop-cutover. Each pair has a plan and a
// namespace of its own; who goes first alternates.
func noopCutover(ctx context.Context, l *lab, runs int) (row, error) {
	n := &noop{lab: l}
	plans, err := n.prepare(ctx, runs)
	if err != nil {
		return row{}, err
	}
	for i, p := range plans {
		if err := alternate(i, func() error { return n.product(ctx, p) }, func() error { return n.peer(ctx, p) }); err != nil {
			return row{}, err
		}
		fmt.Printf("  pair %d: product %.2f s (from the push to the record %.2f s), by hand %.2f s, load average %s\n", i+1, n.ours[i], n.wall[i], n.peers[i], loadAverage())
	}
	fmt.Printf("product: %s\nproduct, from the push of the merge to the record in Git: %s\nby hand: %s\n", n.ours, n.wall, n.peers)
	fmt.Printf("commits that the product pushed during a run: %s\n", n.commits)
	n.around.print(os.Stdout, "from the push of the merge to the record:")
	n.steps.print(os.Stdout, "where the product's time went:")
	n.byHand.print(os.Stdout, "where the time by hand went:")
	a, b := n.ours.median(), n.peers.median()
	return row{Value: a - b, Unit: "s", Peer: "the same Velero work and four pushes, scripted by hand", PeerValue: b, Ratio: a / b, Bar: noopBar, Pass: a-b <= noopBar}, nil
}

// prepare makes the namespaces and the plans. One stage run each brings the
// backup locations, which the peer uses as well.
func (n *noop) prepare(ctx context.Context, runs int) ([]string, error) {
	l := n.lab
	var plans []string
	docs := map[string]string{}
	for i := range runs {
		p := l.newPlan(fmt.Sprintf("noop-%d", i))
		if _, err := l.kubectl(ctx, &l.bed.Source, noopApp(p), "apply", "-f", "-"); err != nil {
			return nil, err
		}
		for name, text := range plan(p, spec.Staged, now()) {
			docs[name] = text
		}
		plans = append(plans, p)
	}
	if _, err := l.commit(ctx, "Plan the moves", docs); err != nil {
		return nil, err
	}
	for _, p := range plans {
		if _, err := l.staged(ctx, p, 1); err != nil {
			return nil, err
		}
	}
	return plans, n.preparePeer(ctx)
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

// product measures one cutover: from the run's start to the push that says
// Migrated. The clean-up that follows is awaited, so that it disturbs nobody.
func (n *noop) product(ctx context.Context, p string) error {
	l := n.lab
	before, err := l.ledgerTip(ctx)
	if err != nil {
		return err
	}
	s, err := l.status(ctx, p)
	if err != nil {
		return err
	}
	request := s.Status.Recorded.HandledRequest.UTC().Format(time.RFC3339)
	if _, err := l.commit(ctx, mergeMessage, plan(p, spec.Migrated, request)); err != nil {
		return err
	}
	merged := time.Now()
	_, seen, err := l.wait(ctx, p, "the cutover", cutoverLimit, func(s *story) bool {
		reason, _ := s.ready()
		return reason == "Migrated" || s.finished(spec.RunMigrate, 1)
	})
	if err != nil {
		return err
	}
	s, _, err = l.wait(ctx, p, "the cutover's clean-up", cutoverLimit, func(s *story) bool { return s.finished(spec.RunMigrate, 1) })
	if err != nil {
		return err
	}
	if s.Run.Status.Phase != spec.RunSucceeded {
		return fmt.Errorf("the cutover of plan %s did not succeed: %s", p, s.tell())
	}
	took, err := untilMigrated(s.Run)
	if err != nil {
		return err
	}
	n.ours = append(n.ours, took.Seconds())
	n.wall = append(n.wall, seen.Sub(merged).Seconds())
	n.around.add("merge to start", s.Run.Status.Started.Sub(merged))
	n.around.add("start to Migrated", took)
	n.around.add("until seen in Git", seen.Sub(s.Run.Status.Started.Add(took)))
	n.steps.addSteps(s.Run, lastStep, s.Run.Status.Started.Add(took))
	n.pushes, err = l.pushesSince(ctx, before)
	n.commits = append(n.commits, float64(len(n.pushes)))
	return err
}

func untilMigrated(r *spec.Run) (time.Duration, error) {
	for _, s := range r.Steps {
		if s.Name == lastStep && s.Ended != nil {
			return s.Ended.Sub(r.Status.Started.Time), nil
		}
	}
	return 0, fmt.Errorf("the record of run %s has no finished step %s", r.Metadata.Name, lastStep)
}

func (l *lab) ledgerTip(ctx context.Context) (string, error) {
	if _, err := l.git(ctx, "clone", "fetch", "-q", "origin", l.ledger()); err != nil {
		return "", err
	}
	return l.git(ctx, "clone", "rev-parse", "FETCH_HEAD")
}

// pushesSince reads what each commit of the ledger changed.
func (l *lab) pushesSince(ctx context.Context, before string) ([]map[string]string, error) {
	tip, err := l.ledgerTip(ctx)
	if err != nil {
		return nil, err
	}
	list, err := l.git(ctx, "clone", "rev-list", "--reverse", before+".."+tip)
	if err != nil {
		return nil, err
	}
	var pushes []map[string]string
	for _, commit := range strings.Fields(list) {
		names, err := l.git(ctx, "clone", "diff-tree", "-r", "--no-commit-id", "--name-only", "--diff-filter=AM", commit)
		if err != nil {
			return nil, err
		}
		files := map[string]string{}
		for _, name := range strings.Fields(names) {
			if files[name], err = l.git(ctx, "clone", "show", commit+":"+name); err != nil {
				return nil, err
			}
		}
		pushes = append(pushes, files)
	}
	if len(pushes) == 0 {
		return nil, fmt.Errorf("the ledger has no new commit after %s", before)
	}
	return pushes, nil
}
