package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/tranship/tranship/spec"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

const (
	pageSize = 500
	// parallel requests of one listing; the client's own rate limit holds besides.
	parallel = 8
)

// Item is an object together with the resource that it was listed from.
type Item struct {
	GVR schema.GroupVersionResource
	*unstructured.Unstructured
}

// GroupResource is the name that Velero and RBAC know the resource by, such
// as deployments.apps.
func (i Item) GroupResource() string { return i.GVR.GroupResource().String() }

// Group and kind without the version.
func (i Item) groupKind() schema.GroupKind { return i.GroupVersionKind().GroupKind() }

// Record is what the ledger keeps of an item.
func (i Item) Record(side spec.Side) spec.Object {
	return spec.Object{
		Side: side, APIVersion: i.GetAPIVersion(), Kind: i.GetKind(), Resource: i.GVR.Resource,
		Namespace: i.GetNamespace(), Name: i.GetName(), UID: string(i.GetUID()),
	}
}

// Describe names an object for people: "source Deployment shop/web".
func Describe(o spec.Object) string {
	name := o.Name
	if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	return fmt.Sprintf("%s %s %s", o.Side, o.Kind, name)
}

// GVROf is the resource of a recorded object.
func GVROf(o spec.Object) schema.GroupVersionResource {
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil { // it was read from a cluster
		return schema.GroupVersionResource{Resource: o.Resource}
	}
	return gv.WithResource(o.Resource)
}

// noContent names groups and resources that never hold anything of an
// application: what others compute, and views of what is listed elsewhere.
var noContent = map[string]string{
	"metrics.k8s.io":                     "measurements",
	"custom.metrics.k8s.io":              "measurements",
	"external.metrics.k8s.io":            "measurements",
	"packages.operators.coreos.com":      "a catalogue, the same in every namespace",
	"authorization.openshift.io":         "a view of rbac.authorization.k8s.io",
	"events":                             "a diary",
	"events.events.k8s.io":               "a diary",
	"leases.coordination.k8s.io":         "of who leads on this cluster",
	"controllerrevisions.apps":           "made again by their controllers",
	"imagestreamtags.image.openshift.io": "a view of image streams",
	"imagetags.image.openshift.io":       "a view of image streams",
}

// ListAll lists every object of the namespaces, of every resource that can be
// listed, with the selector ("" for all). The order is stable.
func (c *Cluster) ListAll(ctx context.Context, namespaces []string, selector string) ([]Item, error) {
	resources, err := c.listable()
	if err != nil {
		return nil, err
	}
	return c.ListThese(ctx, resources, namespaces, selector)
}

// ListThese lists the objects of some resources in the namespaces, with the
// selector ("" for all). The order is stable.
func (c *Cluster) ListThese(ctx context.Context, resources []schema.GroupVersionResource, namespaces []string, selector string) ([]Item, error) {
	var (
		mu  sync.Mutex
		all []Item
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, ns := range namespaces {
		for _, gvr := range resources {
			g.Go(func() error {
				items, err := c.list(ctx, gvr, ns, selector)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, items...)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(all, compareItems)
	// One object may be listed through two groups (extensions and
	// networking.k8s.io); they share the UID. The sort puts extensions first.
	return dropDuplicates(all), nil
}

func (c *Cluster) list(ctx context.Context, gvr schema.GroupVersionResource, ns, selector string) ([]Item, error) {
	var items []Item
	opts := metav1.ListOptions{LabelSelector: selector, Limit: pageSize}
	for {
		list, err := c.Dynamic.Resource(gvr).Namespace(ns).List(ctx, opts)
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			return nil, nil // gone since discovery, or it only says that it can be listed
		}
		if err != nil {
			return nil, c.wrap(err, "list %s in namespace %s", gvr.GroupResource(), ns)
		}
		for n := range list.Items {
			items = append(items, Item{gvr, &list.Items[n]})
		}
		if opts.Continue = list.GetContinue(); opts.Continue == "" {
			return items, nil
		}
	}
}

// listable returns the resources of namespaces that can be listed, in the
// version that the server prefers. A group that does not answer may hide
// objects, so it is an error.
func (c *Cluster) listable() ([]schema.GroupVersionResource, error) {
	lists, err := discovery.ServerPreferredNamespacedResources(c.Discovery)
	var partial *discovery.ErrGroupDiscoveryFailed
	if errors.As(err, &partial) {
		for gv, why := range partial.Groups {
			if noContent[gv.Group] == "" {
				return nil, fmt.Errorf("cluster %s does not say what its API group %s holds: %w; repair or delete its APIService", c.Name, gv, why)
			}
		}
	} else if err != nil {
		return nil, c.wrap(err, "read which resources there are")
	}
	var resources []schema.GroupVersionResource
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil || noContent[gv.Group] != "" && gv.Group != "" {
			continue
		}
		for _, r := range l.APIResources {
			gvr := gv.WithResource(r.Name)
			if slices.Contains(r.Verbs, "list") && noContent[gvr.GroupResource().String()] == "" {
				resources = append(resources, gvr)
			}
		}
	}
	return resources, nil
}

func compareItems(a, b Item) int {
	for _, p := range [][2]string{
		{a.GetNamespace(), b.GetNamespace()}, {a.GetKind(), b.GetKind()}, {a.GetName(), b.GetName()}, {a.GVR.Group, b.GVR.Group},
	} {
		if p[0] < p[1] {
			return -1
		}
		if p[0] > p[1] {
			return 1
		}
	}
	return 0
}

func dropDuplicates(sorted []Item) []Item {
	last := map[string]int{}
	var kept []Item
	for _, i := range sorted {
		uid := string(i.GetUID())
		if at, ok := last[uid]; ok && uid != "" {
			kept[at] = i
			continue
		}
		last[uid] = len(kept)
		kept = append(kept, i)
	}
	return kept
}
