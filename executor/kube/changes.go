package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Bounds of what a record keeps of changes.
const (
	maxChanges        = 200
	maxChangedObjects = 10
	maxChangedValue   = 200 // bytes
)

// Changes lists what becomes different in objects of the source on their way,
// and in the claims of the plan's volumes; the same change of several objects
// is one entry.
func Changes(items []Item, t Translation) []spec.Change {
	c := changes{}
	for _, i := range items {
		if DefaultAccount(i) {
			continue // merged into the target's own
		}
		c.object = i.GetKind() + " " + i.GetNamespace() + "/" + i.GetName()
		portable := Portable(i, t.Namespaces)
		mergeInto(portable.Object, t.ClaimPatch(i))
		c.metadata(i, portable)
		c.secret = i.groupKind() == schema.GroupKind{Kind: "Secret"}
		c.content(i.Object, portable.Object)
		held := Item{i.GVR, portable.DeepCopy()}
		mergeInto(held.Object, HoldPatch(portable))
		c.held = true
		c.content(portable.Object, held.Object)
		c.held, c.secret = false, false
	}
	for _, v := range t.Volumes {
		if v.Action == "skip" {
			continue
		}
		c.object = "PersistentVolumeClaim " + v.Namespace + "/" + v.Claim
		c.differ("metadata.namespace", v.Namespace, v.TargetNamespace)
		c.differ("metadata.name", v.Claim, v.TargetClaim)
		if v.SourceClassName != "" && v.StorageClassName != "" {
			c.differ("spec.storageClassName", v.SourceClassName, v.StorageClassName)
		}
	}
	return c.sum()
}

// asTheyRan are the source's objects with the counts that they had before this
// run stopped them.
func asTheyRan(items []Item, stopped []spec.Workload) []Item {
	counts := map[itemKey]int64{}
	for _, w := range stopped {
		counts[keyOfRecord(w.Object)] = int64(w.Replicas)
	}
	out := slices.Clone(items)
	for n, i := range out {
		if _, scaled, _ := unstructured.NestedInt64(i.Object, "spec", "replicas"); scaled && counts[keyOfItem(i, nil)] > 0 {
			out[n] = Item{i.GVR, i.DeepCopy()}
			_ = unstructured.SetNestedField(out[n].Object, counts[keyOfItem(i, nil)], "spec", "replicas") // it is there
		}
	}
	return out
}

// changes collects objects by what changes in them.
type changes struct {
	object string
	secret bool // values are not to be recorded
	held   bool
	found  map[changeKey][]string
}

type changeKey struct {
	field, from, to string
	held            bool
}

// ofEachCluster are fields whose values only their own cluster can use.
var ofEachCluster = map[string]bool{"spec.clusterIP": true, "spec.clusterIPs[]": true, "spec.healthCheckNodePort": true}

func (c *changes) add(field, from, to string) {
	if c.secret || ofEachCluster[field] {
		from, to = "", ""
	}
	k := changeKey{field, cut(from), cut(to), c.held}
	if c.found == nil {
		c.found = map[changeKey][]string{}
	}
	if !slices.Contains(c.found[k], c.object) {
		c.found[k] = append(c.found[k], c.object)
	}
}

func cut(s string) string {
	if len(s) > maxChangedValue {
		return strings.ToValidUTF8(s[:maxChangedValue], "") + "…"
	}
	return s
}

func (c *changes) differ(field, from, to string) {
	if from != to {
		c.add(field, from, to)
	}
}

// metadata compares what people may rely on; the rest is each server's own.
func (c *changes) metadata(from, to Item) {
	c.differ("metadata.namespace", from.GetNamespace(), to.GetNamespace())
	c.differ("metadata.finalizers", strings.Join(from.GetFinalizers(), ", "), strings.Join(to.GetFinalizers(), ", "))
	c.differ("metadata.ownerReferences", owners(from.GetOwnerReferences()), owners(to.GetOwnerReferences()))
}

func owners(list []metav1.OwnerReference) string {
	var names []string
	for _, o := range list {
		names = append(names, o.Kind+" "+o.Name)
	}
	return strings.Join(names, ", ")
}

// content compares everything but the identity and the status.
func (c *changes) content(from, to map[string]any) {
	for _, k := range keysOf(from, to) {
		if k != "apiVersion" && k != "kind" && k != "metadata" && k != "status" {
			c.walk(k, from[k], to[k])
		}
	}
}

func keysOf(a, b map[string]any) []string {
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, both := a[k]; !both {
			keys = append(keys, k)
		}
	}
	return keys
}

func (c *changes) walk(path string, from, to any) {
	a, mapped := from.(map[string]any)
	b, isMap := to.(map[string]any)
	if mapped || isMap {
		for _, k := range keysOf(a, b) {
			c.walk(path+"."+k, a[k], b[k])
		}
		return
	}
	x, listed := from.([]any)
	y, isList := to.([]any)
	if !listed && !isList {
		c.differ(path, textOf(from), textOf(to))
		return
	}
	for n := range max(len(x), len(y)) {
		var old, now any
		if n < len(x) {
			old = x[n]
		}
		if n < len(y) {
			now = y[n]
		}
		c.walk(path+"[]", old, now)
	}
}

func textOf(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func (c *changes) sum() []spec.Change {
	var out []spec.Change
	for k, objects := range c.found {
		slices.Sort(objects)
		n := min(len(objects), maxChangedObjects)
		out = append(out, spec.Change{Field: k.field, From: k.from, To: k.to, Held: k.held, Objects: objects[:n], More: len(objects) - n})
	}
	slices.SortFunc(out, func(a, b spec.Change) int {
		return cmp.Or(strings.Compare(a.Field, b.Field), strings.Compare(a.From, b.From), strings.Compare(a.To, b.To), strings.Compare(a.Objects[0], b.Objects[0]))
	})
	return out[:min(len(out), maxChanges)]
}
