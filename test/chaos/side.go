package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/test/lab"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const callLimit = 10 * time.Second

// side is a cluster as the checks see it: with clients of their own, which
// share nothing with the product.
type side struct {
	name    string
	cluster lab.Cluster
	kube    kubernetes.Interface
	any     dynamic.Interface
}

func newSide(name string, c lab.Cluster) (*side, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read the access to cluster %s: %w", name, err)
	}
	config.QPS, config.Burst, config.Timeout, config.WarningHandler = 200, 400, callLimit, rest.NoWarnings{}
	s := &side{name: name, cluster: c}
	if s.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("cannot use the access to cluster %s: %w", name, err)
	}
	s.any, err = dynamic.NewForConfig(config)
	return s, err
}

// address is where the application's Service answers; "" when it has none.
func (s *side) address(ctx context.Context, namespace string) (string, error) {
	svc, err := s.kube.CoreV1().Services(namespace).Get(ctx, "web", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return svc.Spec.ClusterIP, nil
}

// fetch asks the application; a read of it is as good as a write.
func fetch(ctx context.Context, address, path string, limit time.Duration) (string, error) {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/cgi-bin/"+path, nil)
	if err != nil {
		return "", err
	}
	req.Close = true // a connection that is kept would outlive the pod's place in the Service
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", address, resp.Status, body)
	}
	return string(body), err
}

// objects of the application that a migration must leave as they are.
var kept = []schema.GroupVersionResource{
	{Group: "apps", Version: "v1", Resource: "deployments"},
	{Version: "v1", Resource: "services"},
	{Version: "v1", Resource: "configmaps"},
	{Version: "v1", Resource: "secrets"},
	{Version: "v1", Resource: "persistentvolumeclaims"},
}

// portrait is the application's objects without what changes by itself, by
// kind and name, and the volume behind its claim. marked: from a copy back until the
// plan is closed, claims say what was written into them.
func (s *side) portrait(ctx context.Context, namespace string, marked bool) (map[string]string, error) {
	all := map[string]string{}
	for _, r := range kept {
		list, err := s.any.Resource(r).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, o := range list.Items {
			if marked && r.Resource == "persistentvolumeclaims" {
				o.SetAnnotations(withoutMarks(o.GetAnnotations()))
			}
			all[r.Resource+"/"+o.GetName()] = still(&o)
			if r.Resource != "persistentvolumeclaims" {
				continue
			}
			name, _, _ := unstructured.NestedString(o.Object, "spec", "volumeName")
			pv, err := s.any.Resource(schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			all["persistentvolume of "+o.GetName()] = still(pv)
		}
	}
	return all, nil
}

func withoutMarks(annotations map[string]string) map[string]string {
	maps.DeleteFunc(annotations, func(name, _ string) bool { return strings.HasPrefix(name, "tranship.dev/") })
	return annotations
}

func still(o *unstructured.Unstructured) string {
	for _, f := range []string{"resourceVersion", "generation", "managedFields"} {
		unstructured.RemoveNestedField(o.Object, "metadata", f)
	}
	unstructured.RemoveNestedField(o.Object, "status")
	text, err := json.Marshal(o.Object)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// forget deletes the volumes of a namespace that is going, without an error: it is
// for the end. The storage of one that is kept stays with the bed.
func (s *side) forget(namespace string) {
	ctx, stop := context.WithTimeout(context.Background(), callLimit)
	defer stop()
	list, err := s.kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, pv := range list.Items {
		if r := pv.Spec.ClaimRef; r != nil && r.Namespace == namespace && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain {
			_ = s.kube.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{})
		}
	}
}

// ready says how many replicas of the application are.
func (s *side) ready(ctx context.Context, namespace string) (int32, error) {
	d, err := s.kube.AppsV1().Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return d.Status.ReadyReplicas, nil
}

// beside proves that the pod without a controller runs, or that nothing is left of it.
func (s *side) beside(ctx context.Context, namespace string, wanted bool) error {
	list, err := s.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=beside"})
	if err != nil {
		return err
	}
	running := 0
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
			running++
		}
	}
	switch {
	case wanted && (running != 1 || len(list.Items) != 1):
		return fmt.Errorf("%d of %d pods without a controller run on the %s, not one", running, len(list.Items), s.name)
	case !wanted && len(list.Items) > 0:
		return fmt.Errorf("%d pods without a controller are on the %s, too", len(list.Items), s.name)
	}
	return nil
}

// labelled lists every object of every kind with a label, in all namespaces.
func (s *side) labelled(ctx context.Context, selector string) ([]string, error) {
	lists, err := discovery.ServerPreferredResources(s.kube.Discovery())
	if err != nil {
		return nil, fmt.Errorf("cannot list the kinds of cluster %s: %w", s.name, err)
	}
	var found []string
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || strings.Contains(r.Name, "/") {
				continue
			}
			list, err := s.any.Resource(gv.WithResource(r.Name)).List(ctx, metav1.ListOptions{LabelSelector: selector})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("cannot list the %s of cluster %s: %w", r.Name, s.name, err)
			}
			for _, o := range list.Items {
				found = append(found, fmt.Sprintf("%s %s/%s on the %s", r.Name, o.GetNamespace(), o.GetName(), s.name))
			}
		}
	}
	return found, nil
}
