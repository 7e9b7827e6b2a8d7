package mover

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Discovery is what a plan's volumes are.
type Discovery struct {
	Volumes []spec.Volume // sorted by namespace and claim
	// Problems keep the plan from being carried out as it is.
	Problems []Problem
	// Warnings say what will not be migrated.
	Warnings []string
	// Pending is true when a covered claim waits for its volume.
	Pending bool
}

// Problem is one reason why a claim cannot be migrated.
type Problem struct {
	Reason  string
	Object  string // "source PersistentVolumeClaim shop/data"
	Message string
}

// Discover reads both clusters and returns the plan's volumes, with what
// earlier runs recorded of them carried over.
func Discover(ctx context.Context, e *kube.Env) (Discovery, error) {
	inv, err := ReadInventory(ctx, e)
	if err != nil {
		return Discovery{}, err
	}
	return discover(e, inv)
}

func discover(e *kube.Env, inv *Inventory) (Discovery, error) {
	d, err := inv.Discover(e.Plan())
	if err != nil {
		return d, err
	}
	for i := range d.Volumes {
		if v := &d.Volumes[i]; !moved(v) {
			v.StagingClaim = stagingName(e, v)
		}
	}
	d.Volumes = carryOver(d.Volumes, e.Run.Facts.Volumes, e.Plan())
	for i := range d.Volumes {
		grow(&d.Volumes[i])
	}
	d.movedBefore(e, inv)
	inv.checkZones(&d)
	if e.Run.Spec.Number > 0 { // in a run, and not before one
		keepTransfer(d.Volumes, e.Run.Facts.Volumes)
	}
	inv.settleTemplates(&d) // from here on every class is known
	inv.checkNames(&d)
	return d, nil
}

// carryOver keeps what earlier steps and runs found out about a volume: which
// claim, volume and snapshot belong to it. What the plan and the source say
// today wins everywhere else.
func carryOver(found, recorded []spec.Volume, plan *spec.PlanSpec) []spec.Volume {
	before := map[string]*spec.Volume{}
	for i := range recorded {
		before[key(&recorded[i])] = &recorded[i]
	}
	for i := range found {
		f, r := &found[i], before[key(&found[i])]
		if r == nil {
			continue
		}
		f.SourcePolicy = cmp.Or(r.SourcePolicy, f.SourcePolicy)
		if r.Back != nil && len(r.Back.Kept) > 0 { // stays until the plan is closed
			f.Back = &spec.CopiedBack{Kept: r.Back.Kept}
		}
		if r.Action != f.Action {
			continue // a copy says nothing about a volume that is moved, nor the other way round
		}
		f.TargetPV, f.TargetHandle, f.TargetPolicy = r.TargetPV, r.TargetHandle, r.TargetPolicy
		f.Mark, f.Held = r.Mark, r.Held
		f.DiskBytes = r.DiskBytes
		f.Files, f.Bytes, f.ChangedFiles, f.ChangedBytes = r.Files, r.Bytes, r.ChangedFiles, r.ChangedBytes
		if word := overrideOf(plan, f.Namespace, f.Claim).StorageClassName; r.TargetPV != "" && r.StorageClassName != "" && word == "" {
			f.StorageClassName = r.StorageClassName // nobody asked for another: what is copied stays where it is
		}
		f.Snapshot, f.Verified, f.Back = r.Snapshot, r.Verified, r.Back
	}
	return found
}

// Discover computes the volumes of a plan. It is a pure function.
func (inv *Inventory) Discover(plan *spec.PlanSpec) (Discovery, error) {
	selector, err := metav1.LabelSelectorAsSelector(plan.LabelSelector)
	if err != nil {
		return Discovery{}, fmt.Errorf("the plan's labelSelector cannot be used: %w", err)
	}
	if plan.LabelSelector == nil {
		selector = labels.Everything()
	}
	var d Discovery
	for i := range inv.Namespaces {
		n := &inv.Namespaces[i]
		target := n.Name
		for _, m := range plan.Namespaces {
			if m.Name == n.Name && m.TargetName != "" {
				target = m.TargetName
			}
		}
		groups := n.groups(selector)
		for j := range n.Claims {
			c := &n.Claims[j]
			g, mounted := groups[c.Name]
			if !selector.Matches(labels.Set(c.Labels)) && (!mounted || !g.covered) {
				continue
			}
			inv.volume(&d, plan, candidate{c: c, target: target, group: g, template: n.templateOf(c.Name)})
		}
	}
	slices.SortFunc(d.Volumes, func(a, b spec.Volume) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Claim, b.Claim))
	})
	d.twoTimes()
	return d, nil
}

// candidate is a claim that the plan covers, with what was found out about it.
type candidate struct {
	c        *corev1.PersistentVolumeClaim
	target   string // namespace
	group    group
	template *spec.ClaimTemplate
}

// volume adds one claim to the discovery, or says why it is left out.
func (inv *Inventory) volume(d *Discovery, plan *spec.PlanSpec, of candidate) {
	c, name := of.c, of.c.Namespace+"/"+of.c.Name
	choice := chosen(plan, c)
	v := spec.Volume{
		Namespace: c.Namespace, Claim: c.Name, ClaimUID: string(c.UID),
		TargetNamespace: of.target, TargetClaim: choice.TargetClaim, Action: choice.Action, Owners: of.group.owners, Template: of.template,
	}
	if why := leftBehind(c); why != "" {
		d.Warnings = append(d.Warnings, fmt.Sprintf("claim %s %s", name, why))
		v.Action, v.Notes = "skip", []string{why}
		d.Pending = d.Pending || c.Status.Phase == corev1.ClaimPending
	}
	if v.Action == "skip" {
		d.Volumes = append(d.Volumes, v)
		return
	}
	pv, known := inv.Volumes[c.Spec.VolumeName]
	problem := func(reason, format string, args ...any) {
		d.Problems = append(d.Problems, Problem{Reason: reason, Object: object(spec.Source, "PersistentVolumeClaim", c.Namespace, c.Name), Message: fmt.Sprintf(format, args...)})
	}
	switch {
	case !known:
		problem("VolumeLost", "claim %s is bound to volume %s, which does not exist: repair or delete the claim, or skip it in volumes.overrides", name, c.Spec.VolumeName)
		return
	case c.DeletionTimestamp != nil:
		problem("ClaimTerminating", "claim %s is being deleted and goes when no pod uses it any more, which would be in the middle of the cutover: make a new claim of its volume, or skip it in volumes.overrides", name)
		return
	}
	if out := of.group.outside; len(out) > 0 {
		v.Notes = append(v.Notes, fmt.Sprintf("%s, which the plan does not cover, uses it too: the cutover cannot stop that", strings.Join(out, ", ")))
	}
	v.Method, v.Group = choice.Method, cmp.Or(of.group.name, "PersistentVolumeClaim/"+c.Name+"/0")
	v.SourcePV, v.SourcePolicy = pv.Name, string(pv.Spec.PersistentVolumeReclaimPolicy)
	shape(&v, c, &pv, choice.AccessMode)
	if reason, why := inv.way(plan, &v, c, &pv); why != "" {
		problem(reason, "claim %s%s", name, why)
		return
	}
	if copied(&v) {
		v.Transfer, v.TransferReason = wayOf(choice.Transfer, c)
	}
	if moved(&v) && !inv.examine(d, &v, c, &pv) {
		return
	}
	d.Volumes = append(d.Volumes, v)
}

// shape says which modes and which size the claim gets on the target. A moved
// claim asks for what it asks for on the source: the volume is the same.
func shape(v *spec.Volume, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, accessMode string) {
	v.AccessModes, v.Capacity, v.VolumeMode = c.Spec.AccessModes, capacity(c, pv), blockMode(c)
	if asked := c.Spec.Resources.Requests.Storage(); asked.String() != v.Capacity && !moved(v) {
		v.Notes = append(v.Notes, fmt.Sprintf("it asks for %s and has %s, which the claim on the target asks for", asked, v.Capacity))
	}
	if accessMode != "" {
		v.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.PersistentVolumeAccessMode(accessMode)}
		if !slices.Equal(v.AccessModes, c.Spec.AccessModes) {
			v.Notes = append(v.Notes, fmt.Sprintf("its access modes are %v on the source", c.Spec.AccessModes))
		}
	}
}

// way chooses how and into which class a volume is copied, or returns the rest
// of a sentence that begins with the claim.
func (inv *Inventory) way(plan *spec.PlanSpec, v *spec.Volume, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (reason, problem string) {
	if !staged(v) {
		return "", ""
	}
	if snapshotted(v) {
		if reason, why := inv.snapshotable(plan, v, c, pv); why != "" {
			return reason, " cannot be copied by snapshot: " + why
		}
		v.Notes = append(v.Notes, snapshotNote(v))
	}
	if copied(v) && isBlock(v) && !deviceVisible(pv) {
		return "BlockVolume", fmt.Sprintf(" is a raw block device of volume %s, which neither a CSI driver nor the local plugin serves: nobody but its own pod can see it; move it, or skip it in volumes.overrides", pv.Name)
	}
	source := provisionerOf(inv.SourceClasses, c, pv)
	use := sharing{wanted: !isBlock(v) && !singleNode(v.AccessModes), before: !singleNode(c.Spec.AccessModes)}
	class, why := chooseClass(chosen(plan, c).StorageClassName, source, use, inv.TargetClasses)
	if why != "" {
		return "NoStorageClass", ": " + why
	}
	if native(v) {
		if why := inv.foreignClass(class, pv); why != "" {
			return "NoStorageClass", ": " + why
		}
	}
	v.StorageClassName, v.SourceClassName = class, source.name
	return "", ""
}

func snapshotNote(v *spec.Volume) string {
	if native(v) {
		return "its provider takes snapshots of it through Velero's plugin " + v.SnapshotPlugin + ", past the repository, and makes a volume of the last one at the cutover: stage runs shorten only that"
	}
	return "Velero copies a snapshot of it, and makes the whole volume anew at the cutover: stage runs shorten only the way into the repository"
}

// leftBehind says why there is nothing to migrate behind a claim.
func leftBehind(c *corev1.PersistentVolumeClaim) string {
	if o := metav1.GetControllerOf(c); o != nil && o.Kind == "Pod" {
		return fmt.Sprintf("is a generic ephemeral volume of pod %s: it dies with its pod and is not migrated", o.Name)
	}
	if c.Status.Phase != corev1.ClaimLost && (c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName == "") {
		return fmt.Sprintf("is not bound to a volume (phase %s): it holds no data and is not migrated", cmp.Or(string(c.Status.Phase), "unknown"))
	}
	return ""
}

// chosen is what the plan says about a claim: the defaults with the claim's
// override on top.
func chosen(plan *spec.PlanSpec, c *corev1.PersistentVolumeClaim) spec.VolumeOverride {
	o := overrideOf(plan, c.Namespace, c.Name)
	def := plan.Volumes.Defaults
	o.Action = cmp.Or(o.Action, def.Action, "copy")
	if o.Action == "copy" {
		o.Method = cmp.Or(o.Method, def.Method, "filesystem")
	}
	o.TargetClaim = cmp.Or(o.TargetClaim, c.Name)
	o.Transfer = cmp.Or(o.Transfer, def.Transfer, transferRepository)
	return o
}

func overrideOf(plan *spec.PlanSpec, namespace, claim string) spec.VolumeOverride {
	for _, o := range plan.Volumes.Overrides {
		if o.Namespace == namespace && o.Claim == claim {
			return o
		}
	}
	return spec.VolumeOverride{Namespace: namespace, Claim: claim}
}

// verified says that the plan wants the copy compared by content.
func verified(plan *spec.PlanSpec, v *spec.Volume) bool {
	if o := overrideOf(plan, v.Namespace, v.Claim); o.Verify != nil {
		return *o.Verify
	}
	return plan.Volumes.Defaults.Verify
}

// capacity is the largest size that anything says about a source volume, so
// that the copy fits even where a claim was rounded up or has been expanded.
func capacity(c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
	var most resource.Quantity
	for _, l := range []corev1.ResourceList{c.Spec.Resources.Requests, c.Status.Capacity, pv.Spec.Capacity} {
		if q := l[corev1.ResourceStorage]; q.Cmp(most) > 0 {
			most = q
		}
	}
	return most.String()
}
