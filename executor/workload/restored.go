package workload

import (
	"context"
	"fmt"
	"slices"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var slicesResource = discoveryv1.SchemeGroupVersion.WithResource("endpointslices")

// restored is what the run has put on the target beside workloads.
type restored struct {
	verdicts []verdict
	places   []place
	found    map[string]int // objects by kind, for the record
}

// judgeRestored judges everything that the run restored and that no workload's
// own row judges: nothing may be gone, conditions must be good, Services whose
// pods run must have an endpoint, claims must be bound.
func judgeRestored(ctx context.Context, e *kube.Env, workloads []pair) (*restored, error) {
	r := &restored{found: map[string]int{}}
	for _, p := range workloads {
		if p.item.exists() && !alien(e, p.item) {
			r.found[p.item.GroupVersionKind().GroupKind().String()]++
		}
	}
	for _, o := range e.Run.Facts.Created {
		if kube.IsPod(o) {
			r.found[o.Kind]++ // judged with what the run kept
		}
	}
	objects, err := restoredObjects(ctx, e)
	if err != nil {
		return nil, err
	}
	var services []kube.Item
	for _, o := range objects {
		if o.there == nil {
			r.verdicts = append(r.verdicts, missing(o.record))
			continue
		}
		r.found[o.there.GroupVersionKind().GroupKind().String()]++
		r.verdicts = append(r.verdicts, conditions(*o.there))
		if o.record.Kind == "Service" && o.record.APIVersion == "v1" {
			services = append(services, *o.there)
		}
	}
	if err := r.judgeServices(ctx, e, services, workloads); err != nil {
		return nil, err
	}
	return r, r.judgeClaims(ctx, e)
}

// recordedObject is an object that the run made, and what is there now.
type recordedObject struct {
	record spec.Object
	there  *kube.Item
}

// restoredObjects reads what the run made in the target namespaces, without
// workloads: one list a kind, and by name only what these do not show.
func restoredObjects(ctx context.Context, e *kube.Env) ([]recordedObject, error) {
	var (
		all       []recordedObject
		resources []schema.GroupVersionResource
	)
	for _, o := range slices.Concat(e.Run.Facts.Created, e.Run.Facts.Updated) {
		if o.Namespace == "" || runsPods(o) {
			continue
		}
		all = append(all, recordedObject{record: o})
		if gvr := kube.GVROf(o); !slices.Contains(resources, gvr) {
			resources = append(resources, gvr)
		}
	}
	listed, err := e.Target.ListThese(ctx, resources, e.Namespaces(spec.Target), kube.LabelRestore+"="+e.Run.Facts.Restore)
	if err != nil {
		return nil, err
	}
	have := map[string]*kube.Item{}
	key := func(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }
	for n, i := range listed {
		have[key(i.GetKind(), i.GetNamespace(), i.GetName())] = &listed[n]
	}
	for n, o := range all {
		if all[n].there = have[key(o.record.Kind, o.record.Namespace, o.record.Name)]; all[n].there == nil {
			if all[n].there, err = e.Target.Find(ctx, o.record); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// runsPods: these are judged by the counts of the run, and their pods.
func runsPods(o spec.Object) bool {
	gvr := kube.GVROf(o)
	return gvr.Group == "apps" || gvr.Group == "batch" || gvr.Group == "apps.openshift.io" ||
		gvr.Group == "" && (gvr.Resource == "pods" || gvr.Resource == "replicationcontrollers")
}

func missing(o spec.Object) verdict {
	return verdict{reconciler.Working, "ObjectMissing", kube.Describe(o) + " was restored and is gone; find out who deleted it on the target", o, false}
}

// conditions judges an object by kstatus: the conventions for status and
// conditions that custom resources follow too. A failure may pass while
// others start, so that only the step's deadline makes it final.
func conditions(i kube.Item) verdict {
	o := i.Record(spec.Target)
	res, err := status.Compute(i.Unstructured)
	if err != nil {
		return verdict{reconciler.Working, "UnknownStatus", fmt.Sprintf("the status of %s cannot be understood: %v", kube.Describe(o), err), o, false}
	}
	if res.Status == status.CurrentStatus {
		return verdict{seen: reconciler.Succeeded}
	}
	reason := string(res.Status)
	if len(res.Conditions) > 0 && res.Conditions[0].Reason != "" {
		reason = res.Conditions[0].Reason
	}
	return verdict{reconciler.Working, reason, fmt.Sprintf("%s is %s: %s", kube.Describe(o), res.Status, res.Message), o, false}
}

// judgeServices demands a ready endpoint of every Service that selects pods of
// a workload that runs; one that selects nothing of the plan never had any.
func (r *restored) judgeServices(ctx context.Context, e *kube.Env, services []kube.Item, workloads []pair) error {
	answering := map[string]map[string]bool{} // by namespace: Services with a ready endpoint
	for _, s := range services {
		if !selectsRunning(e, s, workloads) {
			continue
		}
		ns := s.GetNamespace()
		if answering[ns] == nil {
			list, err := e.Target.Kube.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				return e.Target.Errorf(err, "list the endpoints of namespace %s", ns)
			}
			answering[ns] = withEndpoint(list.Items)
			r.places = append(r.places, place{slicesResource, ns, list.ResourceVersion})
		}
		if !answering[ns][s.GetName()] {
			o := s.Record(spec.Target)
			r.verdicts = append(r.verdicts, verdict{reconciler.Working, "NoEndpoints",
				kube.Describe(o) + " has no ready endpoint, although the pods that it selects run; compare its selector and ports with theirs", o, false})
		}
	}
	return nil
}

// selectsRunning says whether a Service selects the pods of a workload of the
// run that keeps pods running.
func selectsRunning(e *kube.Env, service kube.Item, workloads []pair) bool {
	if t, _, _ := unstructured.NestedString(service.Object, "spec", "type"); t == "ExternalName" {
		return false // it never has endpoints, whatever it selects
	}
	wanted, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
	if len(wanted) == 0 {
		return false
	}
	selector := labels.SelectorFromSet(wanted)
	return slices.ContainsFunc(workloads, func(p pair) bool {
		if !p.item.exists() || alien(e, p.item) || p.item.GetNamespace() != service.GetNamespace() || p.recorded.Replicas == 0 || p.item.kind.gvr.Group == "batch" {
			return false
		}
		of, _, _ := unstructured.NestedStringMap(p.item.Object, "spec", "template", "metadata", "labels")
		return selector.Matches(labels.Set(of))
	})
}

// withEndpoint names the Services that have a ready endpoint. Unknown
// readiness counts as ready, as the API says.
func withEndpoint(list []discoveryv1.EndpointSlice) map[string]bool {
	names := map[string]bool{}
	for _, s := range list {
		for _, p := range s.Endpoints {
			if len(p.Addresses) > 0 && (p.Conditions.Ready == nil || *p.Conditions.Ready) {
				names[s.Labels[discoveryv1.LabelServiceName]] = true
			}
		}
	}
	return names
}

// judgeClaims: the application's claims were handed over bound, and stay so.
func (r *restored) judgeClaims(ctx context.Context, e *kube.Env) error {
	phases := map[string]corev1.PersistentVolumeClaimPhase{}
	listed := map[string]bool{}
	for _, v := range e.Run.Facts.Volumes {
		if v.Action == "skip" || v.TargetClaim == "" {
			continue
		}
		if !listed[v.TargetNamespace] {
			listed[v.TargetNamespace] = true
			list, err := e.Target.Kube.CoreV1().PersistentVolumeClaims(v.TargetNamespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return e.Target.Errorf(err, "list the claims of namespace %s", v.TargetNamespace)
			}
			for _, c := range list.Items {
				phases[c.Namespace+"/"+c.Name] = c.Status.Phase
			}
		}
		phase, there := phases[v.TargetNamespace+"/"+v.TargetClaim]
		o := spec.Object{Side: spec.Target, APIVersion: "v1", Kind: "PersistentVolumeClaim", Resource: "persistentvolumeclaims", Namespace: v.TargetNamespace, Name: v.TargetClaim}
		switch {
		case !there:
			r.verdicts = append(r.verdicts, missing(o))
		case phase != corev1.ClaimBound:
			r.verdicts = append(r.verdicts, verdict{reconciler.Working, "ClaimNotBound", fmt.Sprintf("%s is %s and not bound to its volume", kube.Describe(o), phase), o, false})
		}
		if there {
			r.found[o.Kind]++
		}
	}
	return nil
}
