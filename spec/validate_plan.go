package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// plan holds the rules of CAM's MigPlan (F-134..F-142) and of the parts that
// are ours.
func (c checker) plan(p *MigrationPlan) {
	s := &p.Spec
	if s.SourceCluster != "" && s.SourceCluster == s.TargetCluster {
		c.addf("spec.targetCluster", "source and target are both %s: a plan migrates from one cluster to another", quote(s.TargetCluster))
	}
	c.labels(p.Metadata.Labels)
	c.namespaces(s.Namespaces)
	if s.LabelSelector != nil {
		if _, err := metav1.LabelSelectorAsSelector(s.LabelSelector); err != nil {
			c.addf("spec.labelSelector", "labelSelector cannot be understood: %v", err)
		}
	}
	c.volumes(s)
	c.hooks(s.Hooks)
	c.stage(&s.Stage)
	for i := range s.Windows {
		c.window(fmt.Sprintf("spec.windows[%d]", i), &s.Windows[i])
	}
	c.cutover(&s.Cutover)
	for i, d := range s.DependsOn {
		path := fmt.Sprintf("spec.dependsOn[%d]", i)
		if d == p.Metadata.Name {
			c.addf(path, "the plan depends on itself: remove it")
		}
		if j := slices.Index(s.DependsOn, d); j < i && d != "" {
			c.addf(path, "%s is already in dependsOn[%d]: remove one of them", quote(d), j)
		}
	}
}

// labels are those of Kubernetes, because selectors of shards are.
func (c checker) labels(labels map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		path := fmt.Sprintf("metadata.labels[%s]", key)
		for _, say := range validation.IsQualifiedName(key) {
			c.addf(path, "the key of label %s is not valid: %s", quote(key), say)
		}
		for _, say := range validation.IsValidLabelValue(labels[key]) {
			c.addf(path, "the value of label %s is not valid: %s", quote(key), say)
		}
	}
}

// systemNamespaces are never migrated and no hook runs in them. CAM hides
// them in its console; "default" is hidden there too, but people do run
// applications in it.
var systemNamespaces = struct{ names, prefixes []string }{
	names:    []string{"openshift", "velero", DefaultNamespace},
	prefixes: []string{"kube-", "openshift-"},
}

func isSystem(namespace string) bool {
	return slices.Contains(systemNamespaces.names, namespace) ||
		slices.ContainsFunc(systemNamespaces.prefixes, func(p string) bool { return strings.HasPrefix(namespace, p) })
}

func (c checker) namespaces(ns []NamespaceMapping) {
	sources, targets := map[string]int{}, map[string]int{}
	for i, n := range ns {
		path := fmt.Sprintf("spec.namespaces[%d]", i)
		target := path + ".name"
		if n.TargetName != "" {
			target = path + ".targetName"
		}
		if isSystem(n.Name) {
			c.addf(path+".name", "%s belongs to the cluster itself and cannot be migrated: name the namespaces of an application", quote(n.Name))
		}
		if isSystem(n.TargetName) {
			c.addf(target, "%s belongs to the cluster itself: choose another name on the target", quote(n.TargetName))
		}
		if j, twice := sources[n.Name]; twice && n.Name != "" {
			c.addf(path+".name", "%s is already namespaces[%d]: remove one of them", quote(n.Name), j)
		} else if j, twice := targets[n.Target()]; twice && n.Target() != "" {
			c.addf(target, "namespaces[%d] also goes to %s on the target: two namespaces cannot become one", j, quote(n.Target()))
		}
		sources[n.Name], targets[n.Target()] = i, i
	}
}

func (c checker) volumes(s *PlanSpec) {
	d := s.Volumes.Defaults
	if d.Verify && d.Method == "snapshot" {
		c.addf("spec.volumes.defaults.verify", "verify goes with method filesystem only (F-061): a snapshot has no files to compare")
	}
	c.defaults(s)
	targetOf := map[string]string{}
	for _, n := range s.Namespaces {
		targetOf[n.Name] = n.Target()
	}
	seen, claims := map[string]int{}, map[string]int{}
	for i, o := range s.Volumes.Overrides {
		path := fmt.Sprintf("spec.volumes.overrides[%d]", i)
		if _, ok := targetOf[o.Namespace]; !ok && o.Namespace != "" && len(s.Namespaces) > 0 {
			c.addf(path+".namespace", "%s is not among spec.namespaces%s", quote(o.Namespace), meant(o.Namespace, sourceNames(s.Namespaces)))
		}
		key := o.Namespace + "/" + o.Claim
		if j, twice := seen[key]; twice && o.Claim != "" {
			c.addf(path, "claim %s has an override already, overrides[%d]: write one entry a claim", quote(key), j)
			continue
		}
		seen[key] = i
		target := targetOf[o.Namespace] + "/" + o.TargetClaim
		if j, twice := claims[target]; twice && o.TargetClaim != "" {
			c.addf(path+".targetClaim", "overrides[%d] also goes to claim %s of the same namespace: two claims cannot become one", j, quote(o.TargetClaim))
		}
		claims[target] = i
		c.override(path, o, d)
	}
}

// defaults refuses what says how to copy in a plan that copies nothing.
func (c checker) defaults(s *PlanSpec) {
	d := s.Volumes.Defaults
	copies := func(o VolumeOverride) bool { return o.Action == "copy" }
	if d.Action == "" || d.Action == "copy" || slices.ContainsFunc(s.Volumes.Overrides, copies) {
		return
	}
	for name, set := range map[string]bool{"method": d.Method != "", "verify": d.Verify, "onVerifyError": d.OnVerifyError != "", "transfer": d.Transfer != ""} {
		if set {
			c.addf("spec.volumes.defaults."+name, "%s goes with action copy only, and this plan has action %s for every claim: remove it", name, d.Action)
		}
	}
}

func sourceNames(ns []NamespaceMapping) []string {
	var out []string
	for _, n := range ns {
		if n.Name != "" {
			out = append(out, n.Name)
		}
	}
	return out
}

// override refuses fields that mean nothing with the entry's own action.
func (c checker) override(path string, o VolumeOverride, d VolumeDefaults) {
	if o.Verify != nil && *o.Verify && either(o.Method, d.Method) == "snapshot" {
		c.addf(path+".verify", "verify goes with method filesystem only (F-061): a snapshot has no files to compare")
	}
	action := either(o.Action, d.Action)
	if action != "move" && action != "skip" {
		return
	}
	for name, set := range map[string]bool{
		"method": o.Method != "", "verify": o.Verify != nil, "onVerifyError": o.OnVerifyError != "", "transfer": o.Transfer != "",
		"storageClassName": o.StorageClassName != "", "accessMode": o.AccessMode != "", "targetClaim": o.TargetClaim != "" && action == "skip",
	} {
		if set {
			c.addf(path+"."+name, "%s goes with action copy only, and this claim has action %s: remove it", name, action)
		}
	}
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// hooks allows one hook a phase and kind of run (F-074), as CAM does.
func (c checker) hooks(hooks []PlanHook) {
	first := map[string]int{}
	for i, h := range hooks {
		path := fmt.Sprintf("spec.hooks[%d]", i)
		if isSystem(h.Namespace) {
			c.addf(path+".namespace", "hooks do not run in %s, which belongs to the cluster itself: name a namespace of the application", quote(h.Namespace))
		}
		for _, run := range runsOf(h) {
			key := string(h.Phase) + "/" + run
			if j, twice := first[key]; twice && h.Phase != "" {
				c.addf(path+".phase", "hooks[%d] already runs in phase %s of %s runs, and a phase takes one hook (F-074): put both into one, or choose another phase", j, h.Phase, strings.ToLower(run))
				continue
			}
			first[key] = i
		}
		if slices.Contains(h.Runs, "Stage") && (h.Phase == PreRestore || h.Phase == PostRestore) {
			c.addf(path+".runs", "a stage run restores no objects, so it has no phase %s: use PreBackup or PostBackup, or remove Stage", h.Phase)
		}
		for k, run := range h.Runs {
			if slices.Index(h.Runs, run) < k {
				c.addf(fmt.Sprintf("%s.runs[%d]", path, k), "%s is written twice: remove one of them", quote(run))
			}
		}
		c.hookUndo(path+".undo", h)
	}
}

// hookUndo refuses an undo where nothing would ever run it, or where it would be
// about a cluster whose objects are removed anyway.
func (c checker) hookUndo(path string, h PlanHook) {
	switch {
	case h.Undo == "":
	case h.Phase != "" && h.Phase != PreBackup:
		c.addf(path, "undo goes with phase PreBackup only: a hook of phase %s stops nothing on the source that would have to be started again; remove it", h.Phase)
	case h.Cluster == Target:
		c.addf(path, "undo takes back what a hook has done on the source, and this hook runs on the target: remove undo, or cluster")
	case slices.Contains(h.Runs, "Stage"):
		c.addf(path, "undo is for cutovers only, and this hook runs in stage runs too: write the stage run's hook as an entry of its own, without undo")
	case h.Undo == h.Hook:
		c.addf(path, "undo names the hook itself, which would do the same again: name another Hook")
	}
}

func runsOf(h PlanHook) []string {
	if len(h.Runs) == 0 {
		return hookRuns[:1]
	}
	return slices.Compact(slices.Sorted(slices.Values(h.Runs)))
}

// stage refuses fields that have no effect without a schedule.
func (c checker) stage(s *Stage) {
	if s.Schedule != "" {
		c.schedule("spec.stage", s.Schedule, s.TimeZone)
		return
	}
	for name, set := range map[string]bool{"timeZone": s.TimeZone != "", "startingDeadline": s.StartingDeadline != nil} {
		if set {
			c.addf("spec.stage."+name, "%s has no effect without stage.schedule: write a schedule such as \"0 1 * * *\", or remove it", name)
		}
	}
}

func (c checker) schedule(path, expr, zone string) {
	if _, err := parseZone(zone); err != nil {
		c.addf(path+".timeZone", "%v", err)
	}
	if _, err := ParseSchedule(expr, ""); err != nil {
		c.addf(path+".schedule", "%v", err)
	}
}

// cutover checks the approval's own limits.
func (c checker) cutover(s *Cutover) {
	if s.NotBefore != nil && s.NotAfter != nil && !s.NotAfter.After(s.NotBefore.Time) {
		c.addf("spec.cutover.notAfter", "notAfter must be later than notBefore: no cutover could ever start")
	}
	if s.Attempt < 0 {
		c.addf("spec.cutover.attempt", "attempt must be 1 or more, not %d; raise it by one to ask for another cutover", s.Attempt)
	}
	if s.Scope != "" && !digestForm.MatchString(s.Scope) {
		c.addf("spec.cutover.scope", "scope must be a digest as `tranship plan` shows it: sha256: and 64 hex digits")
	}
}
