package kube

import (
	"context"
	"strings"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// maxAbove bounds how far up a chain of controllers is followed: it may have a
	// circle in it.
	maxAbove = 10
	// maxReads is how many controllers of one kind in a namespace are read one by
	// one; when there are more, all of them are listed.
	maxReads = 3
)

// Orphans is where Below has the pods whose controller, or one above it, is gone:
// nobody can say any more what they hang below.
const Orphans types.UID = "-"

// Below finds the pods that hang below some objects by references to controllers,
// at any depth, and have not ended, by the UIDs of these. What bears an object's name
// and another UID, because it was made anew, counts as the object. A pod that is one of
// the objects hangs below itself. Each controller is read once. Without objects nothing
// is read.
func Below(ctx context.Context, c *Cluster, namespaces []string, roots []spec.Object) (map[types.UID][]corev1.Pod, error) {
	if len(roots) == 0 {
		return nil, nil
	}
	found := map[types.UID][]corev1.Pod{}
	w := newClimb(c, roots)
	for _, ns := range namespaces {
		pods, err := c.Kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, c.wrap(err, "list pods in namespace %s", ns)
		}
		for _, p := range pods.Items {
			if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
				continue
			}
			if _, itself := w.roots[p.UID]; itself && p.UID != "" {
				found[p.UID] = append(found[p.UID], p)
				continue
			}
			root, below, err := w.root(ctx, ns, metav1.GetControllerOf(&p))
			if err != nil {
				return nil, err
			}
			if below {
				found[root] = append(found[root], p)
			}
		}
	}
	return found, nil
}

// climb remembers what it has read.
type climb struct {
	c      *Cluster
	roots  map[types.UID]types.UID // UIDs of those that are meant
	names  map[itemKey]types.UID
	above  map[types.UID]controller
	shelfs map[shelfKey]*shelf
}

// controller is what controls an object: nil where nothing does, or where the
// object is gone.
type controller struct {
	by   *metav1.OwnerReference
	gone bool
}

type shelfKey struct {
	gvr       schema.GroupVersionResource
	namespace string
}

// shelf is what is known of the objects of a kind in a namespace.
type shelf struct {
	reads int
	all   map[string]Item // by name; nil as long as nobody has listed them
}

func newClimb(c *Cluster, roots []spec.Object) *climb {
	w := &climb{c: c, roots: map[types.UID]types.UID{}, names: map[itemKey]types.UID{}, above: map[types.UID]controller{}, shelfs: map[shelfKey]*shelf{}}
	for _, o := range roots {
		if o.UID != "" {
			w.roots[types.UID(o.UID)] = types.UID(o.UID)
		}
		w.names[keyOfRecord(o)] = types.UID(o.UID)
	}
	return w
}

func (w *climb) root(ctx context.Context, ns string, by *metav1.OwnerReference) (root types.UID, below bool, err error) {
	for n := 0; by != nil && n < maxAbove; n++ {
		if uid, ok := w.roots[by.UID]; ok {
			return uid, true, nil
		}
		if uid, ok := w.names[keyOfRecord(spec.Object{APIVersion: by.APIVersion, Kind: by.Kind, Namespace: ns, Name: by.Name})]; ok {
			return uid, true, nil
		}
		next, known := w.above[by.UID]
		if !known {
			if next, err = w.controller(ctx, ns, by); err != nil {
				return "", false, err
			}
			w.above[by.UID] = next
		}
		if next.gone {
			return Orphans, true, nil
		}
		by = next.by
	}
	return "", false, nil
}

// controller reads an object and says what controls it.
func (w *climb) controller(ctx context.Context, ns string, o *metav1.OwnerReference) (controller, error) {
	gvk := schema.FromAPIVersionAndKind(o.APIVersion, o.Kind)
	m, err := w.c.mapping(gvk)
	if meta.IsNoMatchError(err) {
		return controller{gone: true}, nil
	}
	if err != nil {
		return controller{}, w.c.wrap(err, "find out about %s %s", o.APIVersion, o.Kind)
	}
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		ns = ""
	}
	have, err := w.read(ctx, shelfKey{m.Resource, ns}, o.Name)
	if err != nil || have == nil || have.GetUID() != o.UID {
		return controller{gone: true}, err
	}
	return controller{by: metav1.GetControllerOf(have)}, nil
}

// read gets one object, nil when it is not there.
func (w *climb) read(ctx context.Context, k shelfKey, name string) (*Item, error) {
	s := w.shelfs[k]
	if s == nil {
		s = &shelf{}
		w.shelfs[k] = s
	}
	if s.reads++; s.reads <= maxReads {
		return w.c.get(ctx, k.gvr, k.namespace, name)
	}
	if s.all == nil {
		items, err := w.c.list(ctx, k.gvr, k.namespace, "")
		if err != nil {
			return nil, err
		}
		s.all = map[string]Item{}
		for _, i := range items {
			s.all[i.GetName()] = i
		}
	}
	if i, ok := s.all[name]; ok {
		return &i, nil
	}
	return nil, nil
}

// Ready counts the pods that are ready and stay: not those of Jobs, which come and
// go, and of a Deployment that is being rolled out those of one revision only.
func Ready(pods []corev1.Pod) (n int32) {
	revisions := map[string]map[string]int32{}
	for i := range pods {
		p := &pods[i]
		if !podReady(p) || p.DeletionTimestamp != nil || p.Spec.RestartPolicy != "" && p.Spec.RestartPolicy != corev1.RestartPolicyAlways {
			continue
		}
		hash := p.Labels["pod-template-hash"]
		if hash == "" {
			n++
			continue
		}
		of := p.Namespace + "/" + strings.TrimSuffix(p.GenerateName, hash+"-")
		if revisions[of] == nil {
			revisions[of] = map[string]int32{}
		}
		revisions[of][hash]++
	}
	for _, counts := range revisions {
		most := int32(0)
		for _, c := range counts {
			most = max(most, c)
		}
		n += most
	}
	return n
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
