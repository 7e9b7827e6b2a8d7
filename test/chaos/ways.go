package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// way is one kind of plan. The scenarios take one after the other.
type way struct {
	name  string
	class string // of the application's claim
	extra string // YAML below spec; NS is the namespace
	facts reconciler.FreezeFacts
}

// The one that takes longest comes last: two minutes of chaos seldom get there.
var ways = []way{
	{"repository", "bed-node", "", reconciler.FreezeFacts{Volumes: true, Quiesce: true}},
	{"hooks", "bed-node", "hooks:\n" +
		"- {hook: chaos-down, undo: chaos-up, phase: PreBackup, namespace: NS, serviceAccountName: default}\n" +
		"- {hook: chaos-up, phase: PreBackup, namespace: NS, serviceAccountName: default, runs: [Stage]}\n" +
		"- {hook: chaos-up, phase: PostBackup, namespace: NS, serviceAccountName: default, runs: [Cutover, Stage]}\n" +
		"- {hook: chaos-up, phase: PostRestore, namespace: NS, serviceAccountName: default}\n",
		reconciler.FreezeFacts{Volumes: true, Quiesce: true, UndoHooks: true,
			Hooks: map[spec.Phase]bool{spec.PreBackup: true, spec.PostBackup: true, spec.PostRestore: true}}},
	{"direct", "bed-node", "volumes: {defaults: {transfer: Direct}}\n", reconciler.FreezeFacts{Volumes: true, Quiesce: true, Direct: true}},
	{"move", "bed-shared", "volumes: {defaults: {action: move}}\n", reconciler.FreezeFacts{Moves: true, Quiesce: true}},
	{"snapshot", "bed-node", "volumes: {defaults: {method: snapshot}}\n", reconciler.FreezeFacts{Volumes: true, Quiesce: true, Snapshots: true}},
}

func wayNames(all []way) (names []string) {
	for _, w := range all {
		names = append(names, w.name)
	}
	return names
}

// onlyWays leaves those that are named.
func onlyWays(names []string) error {
	for _, n := range names {
		if !slices.Contains(wayNames(ways), n) {
			return fmt.Errorf("there is no way %q", n)
		}
	}
	ways = slices.DeleteFunc(ways, func(w way) bool { return !slices.Contains(names, w.name) })
	return nil
}

// hooks are what the way of that name runs. They change nothing: that one which
// stops an application is undone is shown by the tests on the bed.
func hooks(image string) string {
	var b strings.Builder
	for _, name := range []string{"chaos-down", "chaos-up"} {
		fmt.Fprintf(&b, "---\napiVersion: tranship.dev/v1alpha1\nkind: Hook\nmetadata: {name: %s}\nspec: {image: %q, command: [/bin/sh, -c, \"sleep 1\"], activeDeadline: 5m}\n", name, image)
	}
	return b.String()
}

// has says whether such a plan goes through a step. What is in no itinerary belongs
// to rollbacks; a moved volume is neither copied back nor put back.
func (w *way) has(step string) bool {
	kind, name, _ := strings.Cut(step, "/")
	if kind == "undo" {
		kind = string(spec.RunMigrate)
	}
	for _, d := range reconciler.Itineraries[spec.RunKind(kind)] {
		if d.Name == name {
			return d.When == nil || d.When(&w.facts)
		}
	}
	return step == rolledBack || w.facts.Volumes
}
