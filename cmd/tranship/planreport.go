package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// planReport is what `tranship plan` says; -o json prints it.
type planReport struct {
	Against  string          `json:"against"` // commit that the change is merged into
	Head     string          `json:"head,omitempty"`
	Shard    string          `json:"shard,omitempty"`  // of the configuration; nothing is said about plans of others
	Ledger   string          `json:"ledger,omitempty"` // commit; empty: not read
	Time     time.Time       `json:"time"`
	Hold     *spec.Waiting   `json:"hold,omitempty"`
	Notes    []string        `json:"notes,omitempty"`
	Problems []spec.Problem  `json:"problems,omitempty"` // of documents that belong to no plan
	Plans    []*foreseenPlan `json:"plans"`
}

// What the daemon will do about a plan.
const (
	actCutover  = "cutover"
	actRollback = "rollback"
	actClose    = "close"
	actStage    = "stage"
	actCancel   = "cancel"
	actRemoved  = "removed"
	actNothing  = "nothing"
	actRefused  = "refused"
)

var actions = map[spec.RunKind]string{spec.RunMigrate: actCutover, spec.RunRollback: actRollback, spec.RunClose: actClose, spec.RunStage: actStage}

// foreseenPlan is a plan that the change touches.
type foreseenPlan struct {
	Name   string `json:"name"`
	Action string `json:"action"`
	// At is when the run starts, where it is not as soon as the merge is read;
	// After the run that it waits for.
	At      *time.Time `json:"at,omitempty"`
	After   string     `json:"after,omitempty"`
	Reason  string     `json:"reason"` // the plan's condition right after the merge
	Message string     `json:"message"`

	From          spec.State    `json:"from,omitempty"` // state in the documents, before and after
	To            spec.State    `json:"to,omitempty"`
	Attempt       int           `json:"attempt,omitempty"`
	Digest        string        `json:"digest,omitempty"` // what is approved
	DigestBefore  string        `json:"digestBefore,omitempty"`
	ApprovalEnds  *time.Time    `json:"approvalEnds,omitempty"`
	SourceCluster string        `json:"sourceCluster,omitempty"`
	TargetCluster string        `json:"targetCluster,omitempty"`
	Namespaces    []string      `json:"namespaces,omitempty"`
	Objects       []spec.Count  `json:"objects,omitempty"`
	Volumes       []spec.Volume `json:"volumes,omitempty"`
	Scope         *spec.Scope   `json:"scope,omitempty"` // what is covered now, or was when it was surveyed
	Steps         []plannedStep `json:"steps,omitempty"`
	StopSeconds   *float64      `json:"stopSeconds,omitempty"` // estimated

	Problems []spec.Problem `json:"problems,omitempty"`
	Errors   []string       `json:"errors,omitempty"`   // that keep it from being done
	Warnings []string       `json:"warnings,omitempty"` // that do not
	Unknown  []string       `json:"unknown,omitempty"`  // what could not be found out, and why
}

type plannedStep struct {
	Name string `json:"name"`
	Help string `json:"help"`
}

func newReport(m *gitsource.Merge, head string) *planReport {
	return &planReport{Against: m.Into, Head: head, Notes: m.Notes, Problems: m.After.Other, Plans: []*foreseenPlan{}}
}

// exitCode sums the report up: 1 wrong, 2 something would be done, 0 nothing.
func (r *planReport) exitCode() int {
	code := 0
	if r.Hold != nil || len(r.Problems) > 0 {
		return 1
	}
	for _, p := range r.Plans {
		switch p.Action {
		case actRefused:
			return 1
		case actNothing:
		default:
			code = 2
		}
	}
	return code
}

// planner makes a report of what was read.
type planner struct {
	now      time.Time
	merge    *gitsource.Merge
	rec      *reconciler.Recorded
	runs     runReader // nil: no ledger
	clusters inspector // nil: offline
	report   *planReport
}

// foresee fills the report in.
func (p *planner) foresee(ctx context.Context) {
	m := p.merge
	was, will := reconciler.Foresee(p.now, p.rec, m.Before), reconciler.Foresee(p.now, p.rec, m.After)
	p.report.Time, p.report.Hold = p.now, will.Hold
	for _, name := range reconciler.Touched(m.Before, m.After, was, will) {
		if f := will.Plans[name]; f != nil {
			p.report.Plans = append(p.report.Plans, p.plan(ctx, f))
		}
	}
}

func (p *planner) plan(ctx context.Context, f *reconciler.Foreseen) *foreseenPlan {
	was, c := p.merge.Before.Closures[f.Plan], p.merge.After.Closures[f.Plan]
	out := &foreseenPlan{Name: f.Plan, Action: actNothing, Reason: f.Condition.Reason, Message: f.Condition.Message, After: f.After, Problems: p.merge.After.Problems[f.Plan]}
	if !f.At.IsZero() {
		at := f.At.UTC()
		out.At = &at
	}
	switch {
	case f.Cancel != "":
		out.Action, out.Message = actCancel, f.Cancel
	case f.Condition.Reason == "Removed":
		out.Action = actRemoved
	case f.Order != nil:
		out.Action = actions[f.Order.Kind]
	case f.Stalled:
		out.Action = actRefused
	}
	if was != nil {
		out.From, out.DigestBefore = was.Plan.Spec.State, was.Digest()
	}
	if c == nil {
		return out
	}
	out.describe(c)
	for _, x := range spec.NotSupported(c) {
		out.Problems = append(out.Problems, x)
	}
	p.explore(ctx, out, f, c)
	return out
}

// describe repeats what the documents say.
func (o *foreseenPlan) describe(c *spec.Closure) {
	s := &c.Plan.Spec
	o.To, o.Attempt, o.Digest = s.State, s.Cutover.AttemptOrDefault(), c.Digest()
	o.SourceCluster, o.TargetCluster = s.SourceCluster, s.TargetCluster
	for _, n := range s.Namespaces {
		name := n.Name
		if n.Target() != name {
			name += " -> " + n.Target()
		}
		o.Namespaces = append(o.Namespaces, name)
	}
}

// explore adds what is recorded and what the clusters say.
func (p *planner) explore(ctx context.Context, out *foreseenPlan, f *reconciler.Foreseen, c *spec.Closure) {
	out.Volumes, out.Scope = f.Status.Volumes, f.Status.Scope
	switch refused := p.untrusted(c); {
	case p.clusters == nil:
		out.Unknown = append(out.Unknown, "no cluster was asked: objects, and what has changed in the volumes since they were last recorded, are not known")
	case f.Order != nil && f.Order.Kind != spec.RunStage && f.Order.Kind != spec.RunMigrate:
	case refused != "":
		out.Unknown = append(out.Unknown, refused)
	default:
		p.inspect(ctx, out, f, c)
	}
	if f.Order == nil {
		return
	}
	o := *f.Order
	o.Volumes = out.Volumes
	if o.Kind == spec.RunMigrate {
		ends := reconciler.ApprovalEnds(c, *o.Approval).UTC()
		out.ApprovalEnds = &ends
		if e := f.Status.Estimate; e != nil {
			out.StopSeconds = &e.StopSeconds
		} else {
			out.Unknown = append(out.Unknown, "how long the application will be stopped: no stage run has measured it yet")
		}
	}
	p.steps(out, f, o)
}

// steps freezes the run as it would be frozen now.
func (p *planner) steps(out *foreseenPlan, f *reconciler.Foreseen, o reconciler.Order) {
	if path := f.Status.Recorded.CutoverPath; path != "" && p.runs != nil && o.Kind != spec.RunStage && o.Kind != spec.RunMigrate {
		run, err := p.runs.Run(f.Plan, path)
		if err != nil {
			out.Unknown = append(out.Unknown, "the record of the cutover: "+err.Error())
		}
		o.Undoes = run
	}
	if o.Kind == spec.RunRollback && o.Undoes == nil {
		out.Unknown = append(out.Unknown, "the steps: they are those of the cutover, whose record was not read")
		return
	}
	if len(o.Volumes) == 0 && p.clusters == nil {
		out.Unknown = append(out.Unknown, "the volumes, and so the steps about them, which are not listed")
	}
	for _, s := range reconciler.Freeze(p.now, o, f.Status).Steps {
		out.Steps = append(out.Steps, plannedStep{s.Name, reconciler.Help(o.Kind, s.Name)})
	}
}

// inspectTimeout bounds the questions about one plan.
const inspectTimeout = 2 * time.Minute

func (p *planner) inspect(ctx context.Context, out *foreseenPlan, f *reconciler.Foreseen, c *spec.Closure) {
	ctx, stop := context.WithTimeout(ctx, inspectTimeout)
	defer stop()
	all, err := p.clusters.Inspect(ctx, c, f.Status.Volumes)
	if err != nil {
		out.Errors = append(out.Errors, err.Error())
		out.refuse(f, "ClustersUnreachable", err.Error())
		return
	}
	if all.Volumes != nil {
		out.Volumes, out.Objects, out.Scope = all.Volumes, all.Counts, all.Scope
		p.compare(out, f)
	}
	for _, x := range all.Findings {
		if x.Warning || x.Passing {
			out.Warnings = append(out.Warnings, x.Message)
			continue
		}
		out.Errors = append(out.Errors, x.Message)
		out.refuse(f, x.Reason, x.Message)
	}
}

// compare judges the scope as the daemon will.
func (p *planner) compare(out *foreseenPlan, f *reconciler.Foreseen) {
	if f.Order == nil {
		return
	}
	if reason, say := reconciler.Stale(f.Order, f.Status, &reconciler.Survey{Scope: out.Scope}); reason != "" {
		out.Errors = append(out.Errors, say)
		out.refuse(f, reason, say)
	}
	if say := reconciler.ScopeNews(f.Status.Scope, out.Scope); say != "" {
		out.Warnings = append(out.Warnings, "what the plan covers has changed since the daemon has surveyed it: "+say)
	}
}

// refuse notes why a run that is due would not begin; the first reason stays.
func (o *foreseenPlan) refuse(f *reconciler.Foreseen, reason, message string) {
	if f.Order != nil && o.Action != actRefused {
		o.Action, o.Reason, o.Message = actRefused, reason, message
	}
}

// untrusted says why no credentials may be used for a closure: where they would
// be sent is what the change itself says.
func (p *planner) untrusted(c *spec.Closure) string {
	approved := map[string]string{}
	for _, b := range p.merge.Before.Closures {
		for name, doc := range places(b) {
			approved[name] = doc
		}
	}
	for name, doc := range places(c) {
		if approved[name] != doc {
			return fmt.Sprintf("no cluster was asked: %s is new or changed here, and credentials are only sent where the branch says", name)
		}
	}
	return ""
}

// places are the documents of a closure that say where credentials are sent.
func places(c *spec.Closure) map[string]string {
	out := map[string]string{}
	for name, doc := range map[string]any{
		"Cluster " + c.Source.Metadata.Name: c.Source.Spec, "Cluster " + c.Target.Metadata.Name: c.Target.Spec,
		"ReplicationRepository " + c.Repository.Metadata.Name: c.Repository.Spec,
	} {
		data, err := json.Marshal(doc)
		if err != nil { // documents hold nothing that JSON cannot say
			data = []byte(err.Error())
		}
		out[name] = string(data)
	}
	return out
}
