package kube

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// item reads an object from YAML; its resource is the lower-case plural.
func item(t *testing.T, text string) Item {
	t.Helper()
	o := map[string]any{}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: o}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	resource := strings.ToLower(u.GetKind()) + "s"
	if strings.HasSuffix(resource, "sss") {
		resource = strings.TrimSuffix(resource, "s") + "es"
	}
	return Item{u.GroupVersionKind().GroupVersion().WithResource(resource), u}
}

func TestHeld(t *testing.T) {
	mapping := map[string]string{"shop": "store"}
	for name, c := range map[string]struct{ source, want string }{
		"metadata of the source's cluster goes": {
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop, uid: u, resourceVersion: '7', generation: 3, creationTimestamp: '2026-01-01T00:00:00Z', finalizers: [x/y], ownerReferences: [{apiVersion: v1, kind: Secret, name: s, uid: v}], labels: {app: a, velero.io/restore-name: r}, annotations: {tranship.dev/previous: x, note: text}}, data: {k: v}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: store, labels: {app: a}, annotations: {note: text}}, data: {k: v}}",
		},
		"a Deployment is held at zero, and gets its ReplicaSet though it is paused": {
			"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: shop}, spec: {replicas: 3, paused: true}, status: {replicas: 3}}",
			"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: store}, spec: {replicas: 0}}",
		},
		"a ReplicaSet is held at zero": {
			"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, namespace: shop}, spec: {replicas: 3}}",
			"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, namespace: store}, spec: {replicas: 0}}",
		},
		"a ReplicationController is held at zero": {
			"{apiVersion: v1, kind: ReplicationController, metadata: {name: a, namespace: shop}, spec: {replicas: 3}}",
			"{apiVersion: v1, kind: ReplicationController, metadata: {name: a, namespace: store}, spec: {replicas: 0}}",
		},
		"a DaemonSet finds no node": {
			"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, namespace: shop}, spec: {template: {spec: {nodeSelector: {disk: ssd}, containers: []}}}}",
			"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, namespace: store}, spec: {template: {spec: {nodeSelector: {disk: ssd, tranship.dev/no-node: 'true'}, containers: []}}}}",
		},
		"a CronJob is suspended": {
			"{apiVersion: batch/v1, kind: CronJob, metadata: {name: a, namespace: shop}, spec: {schedule: x, suspend: false}}",
			"{apiVersion: batch/v1, kind: CronJob, metadata: {name: a, namespace: store}, spec: {schedule: x, suspend: true}}",
		},
		"a Job is suspended and finds its pods anew": {
			"{apiVersion: batch/v1, kind: Job, metadata: {name: a, namespace: shop, labels: {app: a, controller-uid: u}}, spec: {parallelism: 2, selector: {matchLabels: {controller-uid: u}}, template: {metadata: {labels: {app: a, controller-uid: u, batch.kubernetes.io/job-name: a, job-name: a, batch.kubernetes.io/controller-uid: u}}}}}",
			"{apiVersion: batch/v1, kind: Job, metadata: {name: a, namespace: store, labels: {app: a}}, spec: {parallelism: 2, suspend: true, template: {metadata: {labels: {app: a}}}}}",
		},
		"a Job with a selector of its own keeps it": {
			"{apiVersion: batch/v1, kind: Job, metadata: {name: a, namespace: shop}, spec: {manualSelector: true, selector: {matchLabels: {a: b}}}}",
			"{apiVersion: batch/v1, kind: Job, metadata: {name: a, namespace: store}, spec: {manualSelector: true, suspend: true, selector: {matchLabels: {a: b}}}}",
		},
		"a StatefulSet keeps its claims": {
			"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, namespace: shop}, spec: {persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}}}",
			"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, namespace: store}, spec: {replicas: 0, persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain}}}",
		},
		"a LoadBalancer waits as ClusterIP": {
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {type: LoadBalancer, clusterIP: 10.0.0.7, clusterIPs: [10.0.0.7], externalTrafficPolicy: Local, healthCheckNodePort: 31999, loadBalancerSourceRanges: [10.0.0.0/8], allocateLoadBalancerNodePorts: true, ports: [{port: 80, nodePort: 30080, protocol: TCP}]}}",
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: store}, spec: {type: ClusterIP, ports: [{port: 80, protocol: TCP}]}}",
		},
		"a headless Service stays headless": {
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {type: ClusterIP, clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}}",
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: store}, spec: {type: ClusterIP, clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}}",
		},
		"subjects follow the namespaces": {
			"{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: a, namespace: shop}, subjects: [{kind: ServiceAccount, name: x, namespace: shop}, {kind: ServiceAccount, name: y, namespace: other}, {kind: User, name: z}]}",
			"{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: a, namespace: store}, subjects: [{kind: ServiceAccount, name: x, namespace: store}, {kind: ServiceAccount, name: y, namespace: other}, {kind: User, name: z}]}",
		},
		"an account leaves tokens behind": {
			"{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: shop}, secrets: [{name: a-token-x}], imagePullSecrets: [{name: a-dockercfg-1}, {name: pull}]}",
			"{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: store}, imagePullSecrets: [{name: pull}]}",
		},
		"a token made by hand is made anew": {
			"{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: t, namespace: shop, annotations: {kubernetes.io/service-account.name: a, kubernetes.io/service-account.uid: u}}, data: {token: eA==, ca.crt: eA==, namespace: eA==, own: eA==}}",
			"{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: t, namespace: store, annotations: {kubernetes.io/service-account.name: a}}, data: {own: eA==}}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			source := item(t, c.source)
			before := source.DeepCopy()
			got := Held(source, Translation{Namespaces: mapping})
			if want := item(t, c.want); !reflect.DeepEqual(got.Object, want.Object) {
				t.Errorf("got  %v\nwant %v", got.Object, want.Object)
			}
			if !reflect.DeepEqual(before.Object, source.Object) {
				t.Error("the source's object was changed")
			}
		})
	}
}

func TestExplicitNodePorts(t *testing.T) {
	svc := item(t, "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 81, nodePort: 30081, protocol: UDP}, {port: 82, nodePort: 30082}]}}")
	svc.SetAnnotations(map[string]string{lastApplied: `{"spec":{"ports":[{"port":80,"nodePort":30080},{"port":81,"protocol":"UDP"}]}}`})
	svc.SetManagedFields([]metav1.ManagedFieldsEntry{{FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{"f:ports":{"k:{\"port\":82,\"protocol\":\"TCP\"}":{"f:nodePort":{}}}}}`)}}})
	ports, _, _ := unstructured.NestedSlice(Portable(svc, nil).Object, "spec", "ports")
	var got []any
	for _, p := range ports {
		got = append(got, p.(map[string]any)["nodePort"])
	}
	if want := []any{int64(30080), nil, int64(30082)}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSelect(t *testing.T) {
	items := []Item{
		item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: keep-config, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: leaving, namespace: shop, deletionTimestamp: '2026-01-01T00:00:00Z'}}"),
		item(t, "{apiVersion: v1, kind: Secret, metadata: {name: keep-owned, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: d, uid: u}]}}"),
		item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: app-token-x, namespace: shop, annotations: {kubernetes.io/service-account.name: app}}}"),
		item(t, "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: keep-token, namespace: shop, annotations: {kubernetes.io/service-account.name: app}}}"),
		item(t, "{apiVersion: v1, kind: Secret, type: kubernetes.io/dockercfg, metadata: {name: app-dockercfg-1, namespace: shop, annotations: {kubernetes.io/service-account.name: app}}}"),
		item(t, "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {a: b}}}"),
		item(t, "{apiVersion: v1, kind: Service, metadata: {name: keep-ext, namespace: shop}, spec: {}}"),
		item(t, "{apiVersion: v1, kind: Endpoints, metadata: {name: web, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: Endpoints, metadata: {name: keep-ext, namespace: shop}}"),
		item(t, "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}}"),
		item(t, "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: ext-1, namespace: shop, labels: {kubernetes.io/service-name: keep-ext, endpointslice.kubernetes.io/managed-by: endpointslicemirroring-controller.k8s.io}}}"),
		item(t, "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: keep-slice, namespace: shop, labels: {kubernetes.io/service-name: keep-ext, endpointslice.kubernetes.io/managed-by: people}}}"),
		item(t, "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: u, controller: true}]}}"),
		item(t, "{apiVersion: v1, kind: Pod, metadata: {name: keep-bare, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: Pod, metadata: {name: done, namespace: shop}, status: {phase: Succeeded}}"),
		item(t, "{apiVersion: v1, kind: Pod, metadata: {name: holder, namespace: shop, labels: {app.kubernetes.io/managed-by: tranship, tranship.dev/plan: p}}}"),
		item(t, "{apiVersion: batch/v1, kind: Job, metadata: {name: done, namespace: shop}, status: {conditions: [{type: Complete, status: 'True'}]}}"),
		item(t, "{apiVersion: batch/v1, kind: Job, metadata: {name: keep-running, namespace: shop}, status: {conditions: [{type: Suspended, status: 'True'}]}}"),
	}
	var names []string
	for _, i := range Select(items) {
		names = append(names, i.GetName())
	}
	want := []string{"keep-config", "keep-owned", "app", "keep-token", "web", "keep-ext", "keep-ext", "keep-slice", "keep-bare", "keep-running"}
	if !slices.Equal(names, want) {
		t.Errorf("got  %v\nwant %v", names, want)
	}
	if n := len(LeftOut(items)); n+len(want) != len(items) {
		t.Errorf("%d objects left out with a reason, %d kept, of %d", n, len(want), len(items))
	}
}

func TestSame(t *testing.T) {
	mapping := map[string]string{"shop": "store"}
	for name, c := range map[string]struct {
		source, target string
		same           bool
	}{
		"equal":            {"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop, uid: u}, data: {k: v}}", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: store, uid: w, labels: {velero.io/restore-name: r}}, data: {k: v}}", true},
		"a value":          {"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}, data: {k: v}}", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: store}, data: {k: w}}", false},
		"a key is gone":    {"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}, data: {k: v}}", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: store}, data: {k: v, l: w}}", false},
		"an empty value":   {"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}, data: {k: ''}}", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: store}}", false},
		"a label":          {"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop, labels: {x: yes1}}}", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: store}}", false},
		"our replicas":     {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: shop, annotations: {deployment.kubernetes.io/revision: '4'}}, spec: {replicas: 3}}", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: store}, spec: {replicas: 0}}", true},
		"an image":         {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: shop}, spec: {template: {spec: {containers: [{image: x:2}]}}}}", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: store}, spec: {template: {spec: {containers: [{image: x:1}]}}}}", false},
		"held Service":     {"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {type: NodePort, clusterIP: 10.0.0.1, ports: [{port: 80, nodePort: 30000}]}}", "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: store}, spec: {type: ClusterIP, clusterIP: 10.9.0.1, clusterIPs: [10.9.0.1], ports: [{port: 80}]}}", true},
		"another version":  {"{apiVersion: autoscaling/v2, kind: X, metadata: {name: a, namespace: shop}}", "{apiVersion: autoscaling/v1, kind: X, metadata: {name: a, namespace: store}}", true},
		"Service selector": {"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {selector: {a: b}}}", "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: store}, spec: {selector: {a: c}}}", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Same(item(t, c.source), item(t, c.target), Translation{Namespaces: mapping}); got != c.same {
				t.Errorf("same: %v, want %v", got, c.same)
			}
		})
	}
}

func TestUntouched(t *testing.T) {
	since := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: since.Add(d)} }
	for name, c := range map[string]struct {
		created time.Duration
		fields  []metav1.ManagedFieldsEntry
		want    bool
	}{
		"older":          {-time.Hour, []metav1.ManagedFieldsEntry{{Time: at(-time.Hour)}}, true},
		"only status":    {-time.Hour, []metav1.ManagedFieldsEntry{{Time: at(-time.Hour)}, {Time: at(time.Hour), Subresource: "status"}}, true},
		"changed":        {-time.Hour, []metav1.ManagedFieldsEntry{{Time: at(time.Second)}}, false},
		"scaled":         {-time.Hour, []metav1.ManagedFieldsEntry{{Time: at(time.Second), Subresource: "scale"}}, false},
		"made since":     {time.Second, []metav1.ManagedFieldsEntry{{Time: at(-time.Hour)}}, false},
		"within margin":  {-time.Hour, []metav1.ManagedFieldsEntry{{Time: at(-30 * time.Second)}}, false},
		"nothing known":  {-time.Hour, nil, false},
		"no time at all": {-time.Hour, []metav1.ManagedFieldsEntry{{}}, false},
	} {
		i := item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}")
		i.SetCreationTimestamp(*at(c.created))
		i.SetManagedFields(c.fields)
		if got := Untouched(i, since); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestDropDuplicates(t *testing.T) {
	a := item(t, "{apiVersion: extensions/v1beta1, kind: Ingress, metadata: {name: a, uid: u}}")
	b := item(t, "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, uid: u}}")
	c := item(t, "{apiVersion: v1, kind: Secret, metadata: {name: a}}")
	got := dropDuplicates([]Item{a, b, c, c})
	if len(got) != 3 || got[0].GVR.Group != "networking.k8s.io" {
		t.Errorf("got %v", got)
	}
	if Describe(a.Record(spec.Source)) != "source Ingress a" || GVROf(b.Record(spec.Target)) != (schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: b.GVR.Resource}) {
		t.Error("records")
	}
}
