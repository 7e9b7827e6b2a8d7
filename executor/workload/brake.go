package workload

import (
	"fmt"
	"maps"
	"reflect"
	"strconv"

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
	// annotations says that the field is some of the annotations, the one at
	// path among them.
	annotations bool
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

// byPausing and byPausingJobs stop what KEDA scales by: while it is paused, KEDA
// starts nothing. ScaledObjects have a second annotation, which pauses them at a
// number of pods. Facts: KEDA's documentation, "Pausing autoscaling".
var (
	byPausing     = pausing(kube.AnnotationPaused, kube.AnnotationPausedReplicas)
	byPausingJobs = pausing(kube.AnnotationPaused)
)

func pausing(names ...string) *brake {
	b := content[map[string]string]{
		of: func(w *spec.Workload) *map[string]string { return &w.Annotations },
		read: func(i item) map[string]string {
			var set map[string]string
			for _, name := range names {
				if v, found := i.GetAnnotations()[name]; found {
					set = with(set, name, v)
				}
			}
			return set
		},
		stops:   pausesAll,
		stopped: func(map[string]string) map[string]string { return map[string]string{kube.AnnotationPaused: "true"} },
		patch:   annotationsPatch,
	}.brake(keyPause, "paused, which KEDA 2.12 or newer confirms by its condition Paused", "metadata", "annotations", kube.AnnotationPaused)
	b.annotations = true
	return b
}

func with(set map[string]string, name, value string) map[string]string {
	if set == nil {
		set = map[string]string{}
	}
	set[name] = value
	return set
}

// pausesAll says that KEDA starts nothing: a number of pods wins over the
// other annotation, and what is no truth value there means yes.
func pausesAll(set map[string]string) bool {
	if n, found := set[kube.AnnotationPausedReplicas]; found {
		return n == "0"
	}
	v, found := set[kube.AnnotationPaused]
	yes, err := strconv.ParseBool(v)
	return found && (yes || err != nil)
}

// annotationsPatch makes one set of annotations of another; those of others stay.
func annotationsPatch(now, want map[string]string) any {
	patch := map[string]any{}
	for k := range now {
		patch[k] = nil
	}
	for k, v := range want {
		patch[k] = v
	}
	return patch
}

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

// hold adds to a patch what stops i.
func (ed *edit) hold(i item) {
	w := i.setting()
	i.kind.brake.hold(w)
	ed.release(i, w)
}

// release adds to a patch what gives i what was recorded.
func (ed *edit) release(i item, w *spec.Workload) {
	b := i.kind.brake
	if b.annotations {
		if ed.annotations == nil {
			ed.annotations = map[string]any{}
		}
		maps.Copy(ed.annotations, b.patch(i, w).(map[string]any))
		return
	}
	if ed.spec == nil {
		ed.spec = map[string]any{}
	}
	at := ed.spec
	for _, name := range b.path[1 : len(b.path)-1] {
		child := map[string]any{}
		at[name] = child
		at = child
	}
	at[b.path[len(b.path)-1]] = b.patch(i, w)
}

// stoppedBy says that a run has stopped i and not put it back.
func (i item) stoppedBy(p previous) bool {
	_, kept := p[i.kind.brake.key]
	return kept
}
