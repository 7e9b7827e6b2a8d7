package workload

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var podsResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// left is a pod that still stands in the way, and why.
type left struct {
	pod    corev1.Pod
	claims []string // covered claims that it uses
	owner  string   // covered workload that it belongs to
}

// claimSet holds namespace/name of claims.
type claimSet map[string]bool

// podsLeft lists, in the namespaces, the pods that use one of the claims or
// belong to one of the workloads, in whatever phase but the two in which no
// container can run again. Only our read-only holder does not count.
func podsLeft(ctx context.Context, e *kube.Env, c *kube.Cluster, names []string, claims claimSet, items []item) ([]left, []place, error) {
	var (
		found  []left
		places []place
	)
	for _, ns := range names {
		pods, err := c.Kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, nil, fmt.Errorf("cannot list pods in namespace %s of cluster %s: %w", ns, c.Name, err)
		}
		places = append(places, place{podsResource, ns, pods.ResourceVersion})
		owners, err := ownersIn(ctx, c, ns, items)
		if err != nil {
			return nil, nil, err
		}
		for _, pod := range pods.Items {
			if done(&pod) {
				continue
			}
			l := left{pod: pod, claims: uses(&pod, claims), owner: owners.of(&pod)}
			if len(l.claims) == 0 && l.owner == "" || l.owner == "" && holder(e, &pod) {
				continue
			}
			found = append(found, l)
		}
	}
	return found, places, nil
}

// done says whether no container of a pod can run any more. Unknown is not
// done: the node may be cut off and the application still writing.
func done(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// uses returns the claims of the set that a pod mounts, by volume or as an
// ephemeral volume.
func uses(p *corev1.Pod, claims claimSet) []string {
	var names []string
	for _, v := range p.Spec.Volumes {
		if name := claimName(p, &v); name != "" && claims[p.Namespace+"/"+name] {
			names = append(names, name)
		}
	}
	return names
}

func claimName(p *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return p.Name + "-" + v.Name
	}
	return ""
}

// holder says whether a pod is the one that this plan's mover keeps a claim
// mounted with. A label alone could be anybody's, so it must also be unable
// to write: no controller, and every claim read-only.
func holder(e *kube.Env, p *corev1.Pod) bool {
	if p.Labels[kube.LabelManagedBy] != kube.ManagedBy || p.Labels[kube.LabelPlan] != kube.Short(e.Run.Spec.Plan) || metav1.GetControllerOf(p) != nil {
		return false
	}
	readOnly := map[string]bool{}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			readOnly[v.Name] = v.PersistentVolumeClaim.ReadOnly
		} else if v.Ephemeral != nil {
			return false
		}
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, m := range c.VolumeMounts {
			if ro, claim := readOnly[m.Name]; claim && !ro && !m.ReadOnly {
				return false
			}
		}
		for _, d := range c.VolumeDevices {
			if ro, claim := readOnly[d.Name]; claim && !ro {
				return false
			}
		}
	}
	return true
}

// owners knows which UIDs stand for which covered workload in a namespace.
type owners struct {
	byUID map[types.UID]string
	sets  map[types.UID]bool // all that still exist of what stands between
	// selectors of the workloads by what owns their pods, and by name.
	selectors map[string]map[string]labels.Selector
}

// owning lists what stands between workloads and their pods, by kind.
var owning = map[string]func(ctx context.Context, c *kube.Cluster, ns string) ([]metav1.ObjectMeta, error){
	"ReplicaSet": func(ctx context.Context, c *kube.Cluster, ns string) (all []metav1.ObjectMeta, err error) {
		list, err := c.Kube.AppsV1().ReplicaSets(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, o := range list.Items {
			all = append(all, o.ObjectMeta)
		}
		return all, nil
	},
	"ReplicationController": func(ctx context.Context, c *kube.Cluster, ns string) (all []metav1.ObjectMeta, err error) {
		list, err := c.Kube.CoreV1().ReplicationControllers(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, o := range list.Items {
			all = append(all, o.ObjectMeta)
		}
		return all, nil
	},
}

func ownersIn(ctx context.Context, c *kube.Cluster, ns string, items []item) (*owners, error) {
	o := &owners{byUID: map[types.UID]string{}, sets: map[types.UID]bool{}, selectors: map[string]map[string]labels.Selector{}}
	for _, i := range items {
		if i.GetNamespace() != ns {
			continue
		}
		name := i.kind.name + " " + ns + "/" + i.GetName()
		o.byUID[i.GetUID()] = name
		if k := i.kind.through; k != "" {
			if o.selectors[k] == nil {
				o.selectors[k] = map[string]labels.Selector{}
			}
			o.selectors[k][name] = i.selector()
		}
	}
	for k := range o.selectors {
		sets, err := owning[k](ctx, c, ns)
		if err != nil {
			return nil, fmt.Errorf("cannot list %ss in namespace %s of cluster %s: %w", k, ns, c.Name, err)
		}
		for _, s := range sets {
			o.sets[s.UID] = true
			if by := metav1.GetControllerOf(&s); by != nil && o.byUID[by.UID] != "" {
				o.byUID[s.UID] = o.byUID[by.UID]
			}
		}
	}
	return o, nil
}

// of names the covered workload that a pod belongs to, or "". A pod whose owner
// between the two is gone already is still told by its labels.
func (o *owners) of(p *corev1.Pod) string {
	by := metav1.GetControllerOf(p)
	if by == nil {
		return ""
	}
	if name := o.byUID[by.UID]; name != "" || o.sets[by.UID] {
		return name
	}
	for name, s := range o.selectors[by.Kind] {
		if s.Matches(labels.Set(p.Labels)) {
			return name
		}
	}
	return ""
}

// selector of the pods of i. ReplicationControllers have a plain map of labels.
func (i item) selector() labels.Selector {
	if plain, _, err := unstructured.NestedStringMap(i.Object, "spec", "selector"); err == nil && len(plain) > 0 {
		return labels.SelectorFromSet(plain)
	}
	var d appsv1.Deployment // every other kind has the same selector at the same place
	if convert(i, &d) != nil || d.Spec.Selector == nil {
		return labels.Nothing()
	}
	s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return labels.Nothing()
	}
	return s
}

// describeLeft says what keeps a pod from being gone.
func describeLeft(l left, now time.Time) (reason, message string) {
	p := &l.pod
	var b strings.Builder
	fmt.Fprintf(&b, "pod %s/%s", p.Namespace, p.Name)
	if l.owner != "" {
		fmt.Fprintf(&b, " of %s", l.owner)
	} else if by := metav1.GetControllerOf(p); by != nil {
		fmt.Fprintf(&b, " of %s %s, which the plan does not stop,", by.Kind, by.Name)
	} else {
		b.WriteString(", which has no controller and is not stopped by the plan,")
	}
	reason = "PodRunning"
	switch {
	case p.DeletionTimestamp != nil:
		reason = "PodTerminating"
		grace := time.Duration(0)
		if p.DeletionGracePeriodSeconds != nil {
			grace = time.Duration(*p.DeletionGracePeriodSeconds) * time.Second
		}
		since := p.DeletionTimestamp.Add(-grace)
		fmt.Fprintf(&b, " is terminating since %s (%s ago, grace period %s)", since.UTC().Format(time.RFC3339), now.Sub(since).Round(time.Second), grace)
		if len(p.Finalizers) > 0 {
			fmt.Fprintf(&b, ", held by finalizers %s", strings.Join(p.Finalizers, ", "))
		}
	case p.Status.Phase == "":
		b.WriteString(" exists")
	default:
		fmt.Fprintf(&b, " is %s", p.Status.Phase)
	}
	if p.Spec.NodeName != "" {
		fmt.Fprintf(&b, " on node %s", p.Spec.NodeName)
	}
	if len(l.claims) > 0 {
		fmt.Fprintf(&b, " and uses claim %s", strings.Join(l.claims, ", "))
	}
	if l.owner == "" && p.DeletionTimestamp == nil {
		reason = "ClaimInUse"
		b.WriteString("; stop it, or add it to the plan")
	}
	return reason, b.String()
}

func podObject(side spec.Side, p *corev1.Pod) spec.Object {
	return spec.Object{Side: side, APIVersion: "v1", Kind: "Pod", Resource: "pods", Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
}
