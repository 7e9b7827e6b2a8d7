package kube

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
)

// TestChanges: what the record says of objects on their way.
func TestChanges(t *testing.T) {
	tr := Translation{Namespaces: map[string]string{"shop": "store"}, Volumes: []spec.Volume{
		{Namespace: "shop", Claim: "data", TargetNamespace: "store", TargetClaim: "files", Action: "copy", SourceClassName: "slow", StorageClassName: "fast"},
		{Namespace: "shop", Claim: "left", TargetNamespace: "store", TargetClaim: "other", Action: "skip"},
	}}
	items := []Item{
		item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop, uid: u, resourceVersion: '7', finalizers: [example.com/keep]}, data: {k: v}}"),
		item(t, "{apiVersion: v1, kind: Secret, metadata: {name: t, namespace: shop}, type: kubernetes.io/service-account-token, data: {token: c2VjcmV0LXZhbHVl}}"),
		item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop}, secrets: [{name: x}]}"),
		item(t, "{apiVersion: v1, kind: Service, metadata: {name: door, namespace: shop}, spec: {type: LoadBalancer, clusterIP: 10.0.0.7, ports: [{port: 80, nodePort: 30080}]}, status: {loadBalancer: {}}}"),
		item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, ownerReferences: [{kind: App, name: main}]}, spec: {replicas: 3, template: {spec: {volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}}}"),
		item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: idle, namespace: shop}, spec: {replicas: 0}}"),
	}
	got := map[string]spec.Change{}
	all := Changes(items, tr)
	for _, c := range all {
		got[fmt.Sprintf("%s %s>%s %v", c.Field, c.From, c.To, c.Held)] = c
	}
	for key, objects := range map[string]string{
		"metadata.namespace shop>store false":                                           "ConfigMap shop/a, Deployment shop/idle, Deployment shop/web, PersistentVolumeClaim shop/data, Secret shop/t, Service shop/door",
		"metadata.finalizers example.com/keep> false":                                   "ConfigMap shop/a",
		"metadata.ownerReferences App main> false":                                      "Deployment shop/web",
		"metadata.name data>files false":                                                "PersistentVolumeClaim shop/data",
		"spec.storageClassName slow>fast false":                                         "PersistentVolumeClaim shop/data",
		"data.token > false":                                                            "Secret shop/t",
		"spec.clusterIP > false":                                                        "Service shop/door",
		"spec.ports[].nodePort 30080> false":                                            "Service shop/door",
		"spec.type LoadBalancer>ClusterIP true":                                         "Service shop/door",
		"spec.replicas 3>0 true":                                                        "Deployment shop/web",
		"spec.template.spec.volumes[].persistentVolumeClaim.claimName data>files false": "Deployment shop/web",
	} {
		c, ok := got[key]
		if !ok || strings.Join(c.Objects, ", ") != objects {
			t.Errorf("%s: %v", key, c.Objects)
		}
		delete(got, key)
	}
	for key, c := range got {
		t.Errorf("also %s: %v", key, c.Objects)
	}
	if raw, _ := json.Marshal(all); strings.Contains(string(raw), "c2VjcmV0") {
		t.Errorf("the value of a Secret is recorded: %s", raw)
	}
	stopped := item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {replicas: 0}}")
	ran := asTheyRan([]Item{stopped}, []spec.Workload{{Object: stopped.Record(spec.Source), Replicas: 3}})
	if c := Changes(ran, Translation{}); len(c) != 1 || c[0].Field != "spec.replicas" || c[0].From != "3" || c[0].To != "0" || !c[0].Held {
		t.Errorf("a workload that is stopped: %+v", c)
	}
	many := []Item{}
	for n := range 25 {
		many = append(many, item(t, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: a%02d, namespace: shop}}", n)))
	}
	if c := Changes(many, Translation{Namespaces: tr.Namespaces}); len(c) != 1 || len(c[0].Objects) != 10 || c[0].More != 15 {
		t.Errorf("25 objects: %+v", c)
	}
}

func TestCounts(t *testing.T) {
	items := []Item{
		item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop}}"),
		item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: shop}}"),
		item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: b, namespace: shop}}"),
	}
	counts := CountSource(items, []spec.Volume{{Claim: "a", Action: "copy"}, {Claim: "b", Action: "skip"}})
	got := fmt.Sprint(WithTarget(counts, map[string]int{"Deployment.apps": 1, "Route.route.openshift.io": 4}))
	if want := "[{ConfigMap 1 0} {Deployment.apps 2 1} {PersistentVolumeClaim 1 0}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if counts[1].Target != 0 {
		t.Error("what was recorded before is changed")
	}
}

// Who claims the same host and path for the same class is in the way; the
// same host with another path is not.
func TestWaysOf(t *testing.T) {
	ingress := func(spec string) Item {
		return item(t, "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, namespace: shop}, spec: "+spec+"}")
	}
	for name, c := range map[string]struct {
		i    Item
		want string
	}{
		"paths":         {ingress("{ingressClassName: x, rules: [{host: h, http: {paths: [{path: /a}, {}]}}, {host: i}]}"), "[{x h /a} {x h /} {x i /}]"},
		"no host":       {ingress("{rules: [{http: {paths: [{path: /a}]}}]}"), "[{  /a}]"},
		"nothing":       {ingress("{defaultBackend: {service: {name: a}}}"), "[]"},
		"by annotation": {item(t, "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, annotations: {kubernetes.io/ingress.class: nginx}}, spec: {rules: [{host: h}]}}"), "[{nginx h /}]"},
		"route":         {item(t, "{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: a}, spec: {host: h, path: /p}}"), "[{ h /p}]"},
	} {
		ways := []struct{ class, host, path string }{}
		for _, w := range waysOf(c.i) {
			ways = append(ways, struct{ class, host, path string }(w))
		}
		if got := fmt.Sprint(ways); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}
