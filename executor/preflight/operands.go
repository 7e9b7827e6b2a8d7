package preflight

import (
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

const (
	uncovered = "what a custom resource controls that the plan does not cover"
	elsewhere = "workloads that something else controls"
	lifecycle = "objects of the operator lifecycle manager, which makes its own on the target (install the operator there)"
	snapshots = "snapshots, which stand for content of the source's storage"
	losing    = "what an operator runs and whose claims go when it is scaled or deleted (set persistentVolumeClaimRetentionPolicy to Retain)"
	unclaimed = "claims of what hangs below a covered custom resource, which spec.labelSelector leaves out (its operator would start on empty volumes; give them the label, and those that are not to be copied `action: skip`)"
	unhooked  = "what an operator runs, and no PreBackup hook stops (a hook with undo, which runs in cutovers; docs/hooks.md)"
)

// operands judges what controllers that are not known have made. It is never
// moved: on the target a custom resource has it made again, and on the source only
// a hook of its author can stop it (docs/kinds.md).
func (s *state) operands(refused map[string][]string) []Finding {
	stopped := !s.Plan().Cutover.QuiesceOrDefault() || slices.ContainsFunc(s.Plan().Hooks, func(h spec.PlanHook) bool { return kube.MayStop(h) && h.Undo != "" })
	var anew, adopted []string
	for _, i := range s.covered {
		if i.GVR.Group == "operators.coreos.com" {
			refused[lifecycle] = append(refused[lifecycle], describe(i))
		}
		if kube.Snapshot(i) {
			refused[snapshots] = append(refused[snapshots], describe(i))
		}
	}
	x := s.claimIndex()
	for _, i := range s.all {
		by := metav1.GetControllerOf(i)
		if by == nil || kube.Ours(i) {
			continue
		}
		name := fmt.Sprintf("%s (of %s %s)", describe(i), by.Kind, by.Name)
		root, custom := s.root(i)
		if root == nil && !s.selected(i) {
			continue
		}
		if left := x.leftOut(i); root != nil && len(left) > 0 {
			refused[unclaimed] = union(refused[unclaimed], left)
		}
		runs := kube.Runs(i) || i.GetKind() == "Pod"
		switch {
		case root != nil && i.GetKind() == "StatefulSet" && deletesClaims(i):
			refused[losing] = append(refused[losing], name)
		case root == nil && custom:
			refused[uncovered] = append(refused[uncovered], name)
		case root == nil && kube.Runs(i) && !slices.Contains(makers[i.GetKind()], by.Kind):
			refused[elsewhere] = append(refused[elsewhere], name)
		case root == nil:
		case runs && !idle(i) && !stopped:
			refused[unhooked] = append(refused[unhooked], name)
		case i.GetKind() == "PersistentVolumeClaim":
			adopted = append(adopted, name)
		case (i.GetKind() == "Secret" || i.GetKind() == "ConfigMap") && i.GVR.Group == "":
			anew = append(anew, name)
		}
	}
	var found []Finding
	say := func(message string, list []string) {
		if len(list) > 0 {
			found = append(found, Finding{Reason: "NotMigrated", Warning: true, Object: list[0], Message: message + names(list)})
		}
	}
	say("the target's operator makes these anew; a password that it makes up there does not open data of the source: ", anew)
	say("claims of an operator are copied by name and have no owner on the target; make sure that its operator there takes what is there: ", adopted)
	return found
}

// root is the covered custom resource that an object hangs below; custom says that
// something on the way up is an operator's.
func (s *state) root(i kube.Item) (root *kube.Item, custom bool) {
	byUID := s.allByUID()
	by := metav1.GetControllerOf(i)
	for range 10 { // there may be a circle
		if by == nil {
			return nil, custom
		}
		custom = custom || s.custom.Controls(by)
		next := byUID[by.UID]
		if next == nil {
			return nil, custom
		}
		if by = metav1.GetControllerOf(next); by == nil && s.custom.Custom(*next) && s.selected(*next) {
			return next, true
		}
	}
	return nil, custom
}

func (s *state) allByUID() map[types.UID]*kube.Item {
	if s.byUID == nil {
		s.byUID = map[types.UID]*kube.Item{}
		for n := range s.all {
			s.byUID[s.all[n].GetUID()] = &s.all[n]
		}
	}
	return s.byUID
}

// selected says that the plan's selector matches the object.
func (s *state) selected(i kube.Item) bool {
	if s.matches == nil {
		s.matches = map[types.UID]bool{}
		for _, l := range s.listed {
			s.matches[l.GetUID()] = true
		}
	}
	return s.matches[i.GetUID()]
}

// idle says that a workload has no pods and asks for none.
func idle(i kube.Item) bool {
	n, asked, _ := unstructured.NestedInt64(i.Object, "spec", "replicas")
	return kube.Finished(i) || kube.Runs(i) && asked && n == 0 && kube.Pods(i) == 0
}

// deletesClaims: nobody of ours sets an operator's StatefulSet to Retain before the
// hook scales it.
func deletesClaims(i kube.Item) bool {
	policy, _, _ := unstructured.NestedStringMap(i.Object, "spec", "persistentVolumeClaimRetentionPolicy")
	return policy["whenScaled"] == "Delete" || policy["whenDeleted"] == "Delete"
}
