package kube

import (
	"context"
	"fmt"
	"strings"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Namespaces of the plan on a side.
func (e *Env) Namespaces(side spec.Side) []string {
	var names []string
	for _, n := range e.Plan().Namespaces {
		if side == spec.Target {
			names = append(names, n.Target())
		} else {
			names = append(names, n.Name)
		}
	}
	return names
}

// Mapping gives each source namespace its name on the target.
func (e *Env) Mapping() map[string]string {
	m := map[string]string{}
	for _, n := range e.Plan().Namespaces {
		m[n.Name] = n.Target()
	}
	return m
}

// Selector is the plan's label selector for list calls; "" selects all.
func (e *Env) Selector() (string, error) {
	if e.Plan().LabelSelector == nil {
		return "", nil
	}
	s, err := metav1.LabelSelectorAsSelector(e.Plan().LabelSelector)
	if err != nil {
		return "", fmt.Errorf("plan %s: spec.labelSelector: %w", e.Run.Spec.Plan, err)
	}
	return s.String(), nil
}

// Listed lists everything in the plan's namespaces on the source that its
// selector matches, derived objects and all.
func Listed(ctx context.Context, e *Env) ([]Item, error) {
	selector, err := e.Selector()
	if err != nil {
		return nil, err
	}
	return e.Source.ListAll(ctx, e.Namespaces(spec.Source), selector)
}

// Covered lists the source objects that the plan moves as objects: without
// claims, which the mover brings, without what a controller or the cluster
// itself makes again, and without our own helpers.
func Covered(ctx context.Context, e *Env) ([]Item, error) {
	items, err := Listed(ctx, e)
	if err != nil {
		return nil, err
	}
	return Select(items), nil
}

// Select keeps the objects that are moved as objects.
func Select(items []Item) []Item {
	x := indexOf(items)
	var kept []Item
	for _, i := range items {
		if leftOut(i, x) == "" {
			kept = append(kept, i)
		}
	}
	return kept
}

// LeftOut says, for each object that is not moved as an object, why not.
func LeftOut(items []Item) map[spec.Object]string {
	x := indexOf(items)
	out := map[spec.Object]string{}
	for _, i := range items {
		if why := leftOut(i, x); why != "" {
			out[i.Record(spec.Source)] = why
		}
	}
	return out
}

// index is what rules need to know beyond the object itself.
type index struct {
	selecting map[string]bool // namespace/name of Services with a selector
	accounts  map[string]bool // namespace/name of ServiceAccounts
}

func indexOf(items []Item) *index {
	x := &index{selecting: map[string]bool{}, accounts: map[string]bool{}}
	for _, i := range items {
		key := i.GetNamespace() + "/" + i.GetName()
		switch i.groupKind() {
		case schema.GroupKind{Kind: "Service"}:
			selector, _, _ := unstructured.NestedMap(i.Object, "spec", "selector")
			x.selecting[key] = len(selector) > 0
		case schema.GroupKind{Kind: "ServiceAccount"}:
			x.accounts[key] = true
		}
	}
	return x
}

// rule is one reason to leave an object out.
type rule struct {
	why   string
	holds func(i Item, x *index) bool
}

var rules = []rule{
	{"Tranship made it", func(i Item, _ *index) bool { return Ours(i) }},
	{"it is being deleted", func(i Item, _ *index) bool { return i.GetDeletionTimestamp() != nil }},
	{"its node runs it of a file", mirror},
	{"its controller makes it again", func(i Item, _ *index) bool { return metav1.GetControllerOf(i) != nil }},
	{"claims are moved with their data", isKind("", "PersistentVolumeClaim")},
	{"it has finished", finished},
	{"every namespace has its own", clusterDefault},
	{"the target makes its own token", accountToken},
	{"it follows from a Service", followsService},
	{"the operator framework copies it", func(i Item, _ *index) bool { return i.GetLabels()["olm.copiedFrom"] != "" }},
}

func leftOut(i Item, x *index) string {
	for _, r := range rules {
		if r.holds(i, x) {
			return r.why
		}
	}
	return ""
}

// Ours says that Tranship itself made the object, for whichever plan.
func Ours(o metav1.Object) bool {
	l := o.GetLabels()
	return l[LabelManagedBy] == ManagedBy && l[LabelPlan] != ""
}

func isKind(group, kind string) func(Item, *index) bool {
	return func(i Item, _ *index) bool { return i.groupKind() == schema.GroupKind{Group: group, Kind: kind} }
}

// finished Jobs and pods would run again on the target.
func finished(i Item, _ *index) bool { return Finished(i) }

// Finished says that a Job or pod has ended for good.
func Finished(i Item) bool {
	switch i.groupKind() {
	case schema.GroupKind{Kind: "Pod"}:
		phase, _, _ := unstructured.NestedString(i.Object, "status", "phase")
		return phase == "Succeeded" || phase == "Failed"
	case schema.GroupKind{Group: "batch", Kind: "Job"}:
		conditions, _, _ := unstructured.NestedSlice(i.Object, "status", "conditions")
		for _, c := range conditions {
			m, _ := c.(map[string]any)
			if (m["type"] == "Complete" || m["type"] == "Failed") && m["status"] == "True" {
				return true
			}
		}
	}
	return false
}

// defaults are what each cluster puts into every namespace by itself.
var defaults = map[string]bool{
	"ConfigMap/kube-root-ca.crt":         true,
	"ConfigMap/openshift-service-ca.crt": true,
	"RoleBinding/system:deployers":       true,
	"RoleBinding/system:image-builders":  true,
	"RoleBinding/system:image-pullers":   true,
}

func clusterDefault(i Item, _ *index) bool { return defaults[i.GetKind()+"/"+i.GetName()] }

// DefaultAccount says that every namespace has a ServiceAccount of this name;
// the source's is merged into the target's.
func DefaultAccount(i Item) bool {
	if i.groupKind() != (schema.GroupKind{Kind: "ServiceAccount"}) {
		return false
	}
	return i.GetName() == "default" || i.GetName() == "builder" || i.GetName() == "deployer"
}

func accountToken(i Item, x *index) bool {
	if i.groupKind() != (schema.GroupKind{Kind: "Secret"}) {
		return false
	}
	kind, _, _ := unstructured.NestedString(i.Object, "type")
	account := i.GetAnnotations()["kubernetes.io/service-account.name"]
	switch kind {
	case "kubernetes.io/service-account-token":
		// Only those that old clusters made by themselves; one made by hand is
		// moved without its token.
		return account != "" && strings.HasPrefix(i.GetName(), account+"-token-")
	case "kubernetes.io/dockercfg":
		account = firstOf(account, i.GetAnnotations()["openshift.io/internal-registry-auth-token.service-account"])
		return account != "" && x.accounts[i.GetNamespace()+"/"+account]
	}
	return false
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func followsService(i Item, x *index) bool {
	switch i.groupKind() {
	case schema.GroupKind{Kind: "Endpoints"}:
		a, l := i.GetAnnotations(), i.GetLabels()
		return x.selecting[i.GetNamespace()+"/"+i.GetName()] ||
			a["endpoints.kubernetes.io/last-change-trigger-time"] != "" ||
			a["control-plane.alpha.kubernetes.io/leader"] != "" ||
			l["endpoints.kubernetes.io/managed-by"] != ""
	case schema.GroupKind{Group: "discovery.k8s.io", Kind: "EndpointSlice"}:
		l := i.GetLabels()
		by := l["endpointslice.kubernetes.io/managed-by"]
		return x.selecting[i.GetNamespace()+"/"+l["kubernetes.io/service-name"]] || strings.HasSuffix(by, ".k8s.io")
	}
	return false
}

// Traffic says that the object leads users to the application: it is created
// only after the application is proven healthy.
func Traffic(i Item) bool {
	switch i.groupKind() {
	case schema.GroupKind{Group: "networking.k8s.io", Kind: "Ingress"},
		schema.GroupKind{Group: "extensions", Kind: "Ingress"},
		schema.GroupKind{Group: "route.openshift.io", Kind: "Route"}:
		return true
	}
	return false
}
