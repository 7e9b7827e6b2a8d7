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
	extra string // YAML below spec; NS is the namespace
	facts reconciler.FreezeFacts
}

var ways = []way{
	{"", reconciler.FreezeFacts{Volumes: true, Quiesce: true}},
	{"hooks:\n" +
		"- {hook: chaos-down, undo: chaos-up, phase: PreBackup, namespace: NS, serviceAccountName: default}\n" +
		"- {hook: chaos-up, phase: PostBackup, namespace: NS, serviceAccountName: default}\n" +
		"- {hook: chaos-up, phase: PostRestore, namespace: NS, serviceAccountName: default}\n",
		reconciler.FreezeFacts{Volumes: true, Quiesce: true, UndoHooks: true,
			Hooks: map[spec.Phase]bool{spec.PreBackup: true, spec.PostBackup: true, spec.PostRestore: true}}},
	{"volumes: {defaults: {transfer: Direct}}\n", reconciler.FreezeFacts{Volumes: true, Quiesce: true, Direct: true}},
}

// hooks are what the second of them runs. They change nothing: that one which
// stops an application is undone is shown by the tests on the bed.
func hooks(image string) string {
	var b strings.Builder
	for _, name := range []string{"chaos-down", "chaos-up"} {
		fmt.Fprintf(&b, "---\napiVersion: tranship.dev/v1alpha1\nkind: Hook\nmetadata: {name: %s}\nspec: {image: %q, command: [/bin/sh, -c, \"sleep 1\"], activeDeadline: 5m}\n", name, image)
	}
	return b.String()
}

// has says whether such a plan goes through a step. What is in no itinerary belongs
// to rollbacks, which all of them have.
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
	return true
}

// stepsOf names the steps that a plan of some way goes through: "stage/upload",
// "migrate/stop", "undo/stop", "close/purge".
func stepsOf(kind spec.RunKind) (all []string) {
	for _, d := range reconciler.Itineraries[kind] {
		if !slices.ContainsFunc(ways, func(w way) bool { return w.has(string(kind) + "/" + d.Name) }) {
			continue
		}
		all = append(all, string(kind)+"/"+d.Name)
		if kind == spec.RunMigrate && d.Undo != "" {
			all = append(all, "undo/"+d.Name)
		}
	}
	return all
}
