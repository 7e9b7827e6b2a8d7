package workload

import (
	"fmt"
	"maps"
	"reflect"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// brake is the field that keeps a kind of workload from having pods, and is
// all that is changed of it: nothing of the source is deleted. Its functions
// work on the record and on the object alike.
type brake struct {
	key  string   // what the annotation remembers the field by
	path []string // of the field
	// done says in a message what a workload is that was stopped.
	done string
	// read puts what the field holds into a record.
	read func(i item, w *spec.Workload)
	// recall puts what the annotation remembers into a record.
	recall func(p previous, w *spec.Workload) bool
	// value is what the record says of the field.
	value func(w *spec.Workload) any
	// stops says whether what the record says keeps pods from running.
	stops func(w *spec.Workload) bool
	// hold changes a record to what keeps pods from running.
	hold func(w *spec.Workload)
	// patch is what a merge patch must say at path to make the field of i hold
	// what the record says.
	patch func(i item, w *spec.Workload) any
}

// content is a brake whose field holds a T.
type content[T any] struct {
	of      func(w *spec.Workload) *T // where a record keeps it
	read    func(i item) T
	stops   func(T) bool
	stopped func(T) T
	patch   func(now, want T) any
}

func (f content[T]) brake(key, done string, path ...string) *brake {
	return &brake{
		key: key, path: path, done: done,
		read: func(i item, w *spec.Workload) { *f.of(w) = f.read(i) },
		recall: func(p previous, w *spec.Workload) bool {
			v, ok := recall[T](p, key)
			if ok {
				*f.of(w) = v
			}
			return ok
		},
		value: func(w *spec.Workload) any { return *f.of(w) },
		stops: func(w *spec.Workload) bool { return f.stops(*f.of(w)) },
		hold:  func(w *spec.Workload) { *f.of(w) = f.stopped(*f.of(w)) },
		patch: func(i item, w *spec.Workload) any { return f.patch(f.read(i), *f.of(w)) },
	}
}

var (
	// byReplicas stops what scales.
	byReplicas = content[int32]{
		of:      func(w *spec.Workload) *int32 { return &w.Replicas },
		read:    item.replicas,
		stops:   func(n int32) bool { return n == 0 },
		stopped: func(int32) int32 { return 0 },
		patch:   func(_, want int32) any { return want },
	}.brake(keyReplicas, "scaled to zero", "spec", "replicas")

	// bySuspension stops Jobs and CronJobs. A Job's parallelism stays as it is:
	// at parallelism 0 its active deadline would go on running.
	bySuspension = content[bool]{
		of:      func(w *spec.Workload) *bool { return &w.Suspended },
		read:    item.suspended,
		stops:   func(s bool) bool { return s },
		stopped: func(bool) bool { return true },
		patch:   func(_, want bool) any { return want },
	}.brake(keySuspend, "suspended", "spec", "suspend")

	// byNodeSelector stops DaemonSets: no node has the label that is asked for.
	byNodeSelector = content[map[string]string]{
		of:    func(w *spec.Workload) *map[string]string { return &w.NodeSelector },
		read:  item.nodeSelector,
		stops: func(s map[string]string) bool { _, stopped := s[kube.NoNode]; return stopped },
		stopped: func(s map[string]string) map[string]string {
			with := map[string]string{kube.NoNode: "true"}
			maps.Copy(with, s)
			return with
		},
		patch: selectorPatch,
	}.brake(keyNodeSelector, "bound to no node", "spec", "template", "spec", "nodeSelector")
)

func (i item) suspended() bool {
	s, _, _ := unstructured.NestedBool(i.Object, "spec", "suspend")
	return s
}

// nodeSelector of the pods; nil where there is none.
func (i item) nodeSelector() map[string]string {
	s, _, err := unstructured.NestedStringMap(i.Object, "spec", "template", "spec", "nodeSelector")
	if err != nil || len(s) == 0 {
		return nil
	}
	return s
}

// selectorPatch makes one map of another.
func selectorPatch(now, want map[string]string) any {
	if len(want) == 0 {
		return nil // not an empty map: what was absent is absent again
	}
	patch := map[string]any{}
	for k := range now {
		patch[k] = nil
	}
	for k, v := range want {
		patch[k] = v
	}
	return patch
}

// setting is what the brake of i says now, as a record.
func (i item) setting() *spec.Workload {
	w := &spec.Workload{}
	i.kind.brake.read(i, w)
	return w
}

// held says that the brake keeps i from having pods.
func (i item) held() bool { return i.kind.brake.stops(i.setting()) }

// runs says that i has pods or may make some.
func (i item) runs() bool { return !i.held() && !i.over() }

// ran says that a recorded workload had pods or could have made some.
func (i item) ran(w *spec.Workload) bool { return !i.kind.brake.stops(w) }

// is says that the brake of i holds what was recorded.
func (i item) is(w *spec.Workload) bool {
	b := i.kind.brake
	return reflect.DeepEqual(b.value(i.setting()), b.value(w))
}

// said is how people read what a record says of the brake.
func (i item) said(w *spec.Workload) string { return fmt.Sprint(i.kind.brake.value(w)) }

// brakeOn is the spec of a patch that stops i.
func (i item) brakeOn() map[string]any {
	w := i.setting()
	i.kind.brake.hold(w)
	return i.release(w)
}

// release is the spec of a patch that gives i what was recorded.
func (i item) release(w *spec.Workload) map[string]any {
	b := i.kind.brake
	patch := map[string]any{}
	at := patch
	for _, name := range b.path[1 : len(b.path)-1] {
		child := map[string]any{}
		at[name] = child
		at = child
	}
	at[b.path[len(b.path)-1]] = b.patch(i, w)
	return patch
}

// stoppedBy says that a run has stopped i and not put it back.
func (i item) stoppedBy(p previous) bool {
	_, kept := p[i.kind.brake.key]
	return kept
}
