package mover

import (
	"fmt"
	"slices"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// templateOf names the volumeClaimTemplate that a claim of this name came
// from, or would be taken for; nil for none.
func (n *NamespaceInventory) templateOf(claim string) *spec.ClaimTemplate {
	for i := range n.Owners {
		o := &n.Owners[i]
		if o.Kind != "StatefulSet" {
			continue
		}
		for _, t := range o.ClaimTemplates {
			if _, ok := ordinal(claim, t.Name+"-"+o.Name); ok {
				return &spec.ClaimTemplate{StatefulSet: o.Name, Name: t.Name}
			}
		}
	}
	return nil
}

// settleTemplates decides, when the class of every volume is known, what each
// volumeClaimTemplate must say on the target: a StatefulSet that is scaled up
// there asks for whatever its template says.
func (inv *Inventory) settleTemplates(d *Discovery) {
	for i := range inv.Namespaces {
		n := &inv.Namespaces[i]
		for _, o := range n.Owners {
			if o.Kind != "StatefulSet" {
				continue
			}
			for j := range o.ClaimTemplates {
				inv.settleTemplate(d, n, o.Name, &o.ClaimTemplates[j])
			}
		}
	}
}

func (inv *Inventory) settleTemplate(d *Discovery, n *NamespaceInventory, set string, t *corev1.PersistentVolumeClaim) {
	var all []*spec.Volume
	var first *spec.Volume // the copied one of the lowest ordinal
	lowest := -1
	for i := range d.Volumes {
		v := &d.Volumes[i]
		at, ok := ordinal(v.Claim, t.Name+"-"+set)
		if v.Namespace != n.Name || v.Template == nil || !ok {
			continue
		}
		all = append(all, v)
		if v.StorageClassName != "" && (first == nil || at < lowest) {
			first, lowest = v, at
		}
	}
	class := inv.templateClass(t, first)
	var modes []corev1.PersistentVolumeAccessMode
	if first != nil && n.overridesModes(first) && !slices.Equal(first.AccessModes, t.Spec.AccessModes) {
		modes = first.AccessModes
	}
	for _, v := range all {
		v.Template.StorageClassName, v.Template.AccessModes = class, modes
		if first != nil && v.StorageClassName != "" && v.StorageClassName != first.StorageClassName {
			v.Notes = append(slices.Clip(v.Notes), fmt.Sprintf("its class is not that of %s, which further ordinals of StatefulSet %s get", first.Claim, set))
		}
	}
	if name := ptr.Deref(t.Spec.StorageClassName, ""); len(all) == 0 && name != "" && classNamed(inv.TargetClasses, name) == nil {
		d.Warnings = append(d.Warnings, fmt.Sprintf("template %s of StatefulSet %s/%s, of which no claim is covered, asks for storage class %q, which the target does not have (it has %s): create it there before the StatefulSet is scaled up", t.Name, n.Name, set, name, names(inv.TargetClasses)))
	}
}

// templateClass is the class that a template needs on the target; "" if what it
// says is right there too.
func (inv *Inventory) templateClass(t *corev1.PersistentVolumeClaim, first *spec.Volume) string {
	have, named := t.Annotations[corev1.BetaStorageClassAnnotation]
	if !named && t.Spec.StorageClassName != nil {
		have, named = *t.Spec.StorageClassName, true
	}
	if first == nil { // skipped or moved: only the template itself says what it wants
		if !named || classNamed(inv.TargetClasses, have) != nil {
			return ""
		}
		source := sourceClass{name: have}
		if c := classNamed(inv.SourceClasses, have); c != nil {
			source.provisioner = c.Provisioner
		}
		class, _ := chooseClass("", source, sharing{}, inv.TargetClasses)
		return class
	}
	want := first.StorageClassName
	switch {
	case !named && defaultClass(inv.TargetClasses) == want, named && have == want:
		return ""
	case named && have != first.SourceClassName && want == first.SourceClassName && classNamed(inv.TargetClasses, have) != nil:
		return "" // somebody gave the template another class for further ordinals, and the target has it
	}
	return want
}

// overridesModes says that the plan gives the claim other access modes.
func (n *NamespaceInventory) overridesModes(v *spec.Volume) bool {
	i := slices.IndexFunc(n.Claims, func(c corev1.PersistentVolumeClaim) bool { return c.Name == v.Claim })
	return i >= 0 && !slices.Equal(n.Claims[i].Spec.AccessModes, v.AccessModes)
}

// checkNames refuses names on the target that cannot be.
func (inv *Inventory) checkNames(d *Discovery) {
	byName := map[string]*spec.Volume{}
	for i := range d.Volumes {
		v := &d.Volumes[i]
		if v.Action == "skip" {
			continue
		}
		refuse := func(reason, format string, args ...any) {
			d.Problems = append(d.Problems, Problem{Reason: reason, Object: object(spec.Source, "PersistentVolumeClaim", v.Namespace, v.Claim), Message: fmt.Sprintf(format, args...)})
		}
		if other := byName[v.TargetNamespace+"/"+v.TargetClaim]; other != nil {
			refuse("TargetClaimTaken", "claims %s and %s would both be %s/%s on the target: give one of them another targetClaim in volumes.overrides", key(other), key(v), v.TargetNamespace, v.TargetClaim)
		}
		byName[v.TargetNamespace+"/"+v.TargetClaim] = v
		if v.TargetClaim == v.Claim {
			continue
		}
		if t := v.Template; t != nil {
			refuse("TemplateClaim", "claim %s belongs to template %s of StatefulSet %s, whose pods find their claims by name: remove its targetClaim %q", key(v), t.Name, t.StatefulSet, v.TargetClaim)
		}
		for j := range inv.Namespaces {
			if n := &inv.Namespaces[j]; n.Name == v.Namespace {
				if t := n.templateOf(v.TargetClaim); t != nil {
					refuse("TemplateClaim", "claim %s cannot be called %s on the target: StatefulSet %s would take it for a claim of its template %s; choose another targetClaim", key(v), v.TargetClaim, t.StatefulSet, t.Name)
				}
			}
		}
	}
}
