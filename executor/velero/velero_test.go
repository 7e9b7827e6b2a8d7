package velero

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

func env() *kube.Env {
	run := &spec.Run{Metadata: spec.Metadata{Name: "shop-migrate-1"}, Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: 1}}
	run.Spec.Closure.Plan.Spec.Namespaces = []spec.NamespaceMapping{{Name: "shop", TargetName: "store"}, {Name: "db"}}
	run.Spec.Closure.Repository.Spec = spec.RepositorySpec{Provider: spec.ProviderAWS, Bucket: "b", Prefix: "p", Endpoint: "https://s3.example.com"}
	run.Facts.Backup = "the-backup"
	return &kube.Env{
		Call:   reconciler.Call{Run: run, Step: spec.Step{Name: "restore", Attempt: 1}},
		Source: &kube.Cluster{Side: spec.Source, Name: "old", VeleroNamespace: "velero"},
		Target: &kube.Cluster{Side: spec.Target, Name: "new", VeleroNamespace: "velero"},
	}
}

func object(t *testing.T, resource, text string) kube.Item {
	t.Helper()
	u := &unstructured.Unstructured{}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = u.UnmarshalJSON(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return kube.Item{GVR: u.GroupVersionKind().GroupVersion().WithResource(resource), Unstructured: u}
}

func TestFilterPolicyNamesExactlyTheObjects(t *testing.T) {
	items := []kube.Item{
		object(t, "configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: shop}}"),
		object(t, "configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}"),
		object(t, "roles", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: 'x*[y]', namespace: shop}}"),
		object(t, "secrets", "{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: elsewhere}}"),
	}
	text, err := filterPolicy([]string{"shop", "db"}, items)
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(`
version: v1
namespacedFilterPolicies:
- namespaces: [shop]
  resourceFilters:
  - {kinds: [configmaps], names: ["-", a, b]}
  - {kinds: [roles.rbac.authorization.k8s.io], names: ['x\*\[y\]']}
- namespaces: [db]
  resourceFilters:
  - {kinds: [configmaps], names: ["-"]}
`), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s", text)
	}
}

func TestModifierRules(t *testing.T) {
	items := []kube.Item{
		object(t, "deployments", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: we.b, namespace: shop}, spec: {replicas: 3}}"),
		object(t, "services", "{apiVersion: v1, kind: Service, metadata: {name: door, namespace: shop}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}}"),
		object(t, "configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}"),
	}
	text, err := modifierRules(env(), items)
	if err != nil {
		t.Fatal(err)
	}
	var m modifiers
	if err := yaml.UnmarshalStrict([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Rules) != 3 || m.Rules[0].Conditions.GroupResource != "**" {
		t.Fatalf("got\n%s", text)
	}
	var all struct{ Metadata map[string]any }
	if err := json.Unmarshal([]byte(m.Rules[0].MergePatches[0].PatchData), &all); err != nil {
		t.Fatal(err)
	}
	annotations, _ := all.Metadata["annotations"].(map[string]any)
	if f, there := all.Metadata["finalizers"]; !there || f != nil || annotations[kube.AnnotationPlan] != "shop" {
		t.Errorf("every object gets %v", all.Metadata)
	}
	if v, there := annotations[kube.AnnotationPrevious]; !there || v != nil {
		t.Error("what an earlier attempt left on the source comes along")
	}
	for n, want := range map[int]string{1: `{"spec":{"paused":null,"replicas":0}}`, 2: `"ports":[{"port":80}],"type":"ClusterIP"`} {
		if got := m.Rules[n].MergePatches[0].PatchData; !strings.Contains(got, want) {
			t.Errorf("rule %d: %s lacks %s", n, got, want)
		}
	}
	if c := m.Rules[1].Conditions; c.ResourceNameRegex != `^we\.b$` || c.GroupResource != "deployments.apps" || c.Namespaces[0] != "shop" {
		t.Errorf("conditions %+v", c)
	}
}

func TestConflicts(t *testing.T) {
	r, err := parseResults([]byte(`{"warnings":{"cluster":["could not restore, ClusterRole:view already exists. Warning: the in-cluster version is different than the backed-up version","could not restore, ClusterRole \"app\" already exists. Warning: different"],"namespaces":{"shop":["could not restore, ConfigMap \"a\" already exists. Warning: different","something else"]}},"errors":{"velero":["broken"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	got := conflicts(r.lines("warnings"))
	if len(got) != 2 || !strings.Contains(got[0], `"app"`) || !strings.HasPrefix(got[1], "shop: ") {
		t.Errorf("got %q", got)
	}
	if e := r.lines("errors"); len(e) != 1 || e[0] != "velero: broken" {
		t.Errorf("errors %q", e)
	}
	if _, err := parseResults([]byte("<html>")); err == nil {
		t.Error("a page is not a result")
	}
}

func TestCreatedOf(t *testing.T) {
	got, err := createdOf([]byte(`{"v1/ConfigMap":["shop/a(created)","shop/b(skipped)","shop/c(failed)"],"v1/ServiceAccount":["shop/default(updated)"],"rbac.authorization.k8s.io/v1/ClusterRole":["x:y(created)"]}`))
	want := []restored{{"rbac.authorization.k8s.io/v1", "ClusterRole", "", "x:y"}, {"v1", "ConfigMap", "shop", "a"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := createdOf([]byte(`{"odd":["a(created)"]}`)); err == nil {
		t.Error("an unknown key was passed over")
	}
}

func TestWantedRestore(t *testing.T) {
	r := wantedRestore(env())
	if r.Spec.BackupName != "the-backup" || !reflect.DeepEqual(r.Spec.NamespaceMapping, map[string]string{"shop": "store"}) {
		t.Errorf("%+v", r.Spec)
	}
	if r.Spec.ExistingResourcePolicy != velerov1.PolicyTypeNone || r.Spec.ResourceModifier == nil || r.Spec.ResourcePolicy == nil {
		t.Errorf("%+v", r.Spec)
	}
}

func TestWantedLocation(t *testing.T) {
	e := env()
	s, d := wantedLocation(e, e.Source), wantedLocation(e, e.Target)
	if s.Name != d.Name || s.Spec.ObjectStorage.Prefix != "p/objects/"+kube.Short("shop") {
		t.Errorf("%s %s %+v", s.Name, d.Name, s.Spec.ObjectStorage)
	}
	if s.Spec.AccessMode != velerov1.BackupStorageLocationAccessModeReadWrite || d.Spec.AccessMode != velerov1.BackupStorageLocationAccessModeReadOnly {
		t.Errorf("%s, %s", s.Spec.AccessMode, d.Spec.AccessMode)
	}
}

// A Velero that stands still is told by that name, with what a person can do; one
// that has just begun is not.
func TestAVeleroThatStandsStill(t *testing.T) {
	c := &kube.Cluster{Name: "old", VeleroNamespace: "velero"}
	for since, want := range map[time.Duration]string{time.Minute: "BackupRunning", patience + time.Minute: "VeleroStuck"} {
		o := reconciler.Observation{Seen: reconciler.Working, Reason: "BackupRunning", Message: "it backs up"}
		stuck(&o, c, time.Now().Add(-since))
		if o.Reason != want || o.Seen != reconciler.Working || strings.Contains(o.Message, "-n velero rollout restart deployment/velero") != (want == "VeleroStuck") {
			t.Errorf("after %s: %+v", since, o)
		}
	}
}

// TestLinksAreNotShown: a presigned link is a credential.
func TestLinksAreNotShown(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/denied" {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	for _, link := range []string{plain.URL + "/denied?X-Amz-Signature=abc", plain.URL + "/text?X-Amz-Signature=abc", secure.URL + "/a?X-Amz-Signature=abc", "http://127.0.0.1:1/a?X-Amz-Signature=abc", ":?X-Amz-Signature=abc"} {
		_, err := fetch(t.Context(), env(), link)
		if err == nil || strings.Contains(err.Error(), "Signature") {
			t.Errorf("got %v", err)
		}
	}
}

func TestPhases(t *testing.T) {
	for phase, want := range map[string]bool{"": false, "New": false, "Queued": false, "ReadyToStart": false, "InProgress": false, "Finalizing": false,
		"FinalizingPartiallyFailed": false, "WaitingForPluginOperations": false, "Completed": true, "PartiallyFailed": true, "Failed": true, "FailedValidation": true} {
		if terminal(phase) != want {
			t.Errorf("%q: terminal %v", phase, !want)
		}
	}
	if restoreResource != (schema.GroupVersionResource{Group: "velero.io", Version: "v1", Resource: "restores"}) {
		t.Error(restoreResource)
	}
}

// What scales is not Velero's business: neither backed up nor restored.
func TestWhatScalesIsLeftOut(t *testing.T) {
	items := []kube.Item{
		{GVR: schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"}},
		{GVR: schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledjobs"}},
		{GVR: schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}},
		{GVR: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}},
	}
	if kept := storable(&kube.Env{Call: reconciler.Call{Run: &spec.Run{}}}, items); len(kept) != 1 || kept[0].GVR.Resource != "deployments" {
		t.Errorf("backed up: %v", kept)
	}
}

// No Backup is made when a custom resource has come since the others were kept:
// Velero would restore it while everything is held at zero.
func TestNoBackupWithNewCustomResources(t *testing.T) {
	shops := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "shops"}
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	shop := object(t, "shops", "{apiVersion: example.com/v1, kind: Shop, metadata: {name: main, namespace: shop, uid: a}}")
	definition := object(t, "customresourcedefinitions", "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: shops.example.com}, spec: {group: example.com, names: {plural: shops}}}")
	e := env()
	typed := kubefake.NewClientset()
	typed.Resources = []*metav1.APIResourceList{{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "shops", Kind: "Shop", Namespaced: true, Verbs: metav1.Verbs{"list"}}}}}
	e.Source.Discovery = memory.NewMemCacheClient(typed.Discovery())
	e.Source.Dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{shops: "ShopList", crds: "CustomResourceDefinitionList", backupResource: "BackupList"}, shop.Unstructured, definition.Unstructured)
	o, err := lookBackup(t.Context(), e)
	if err != nil || o.Seen != reconciler.Broken || !o.Final || o.Object != "source Shop shop/main" {
		t.Errorf("%+v, %v", o, err)
	}
	e.Run.Facts.Custom = []spec.CustomResource{{Object: spec.Object{Side: spec.Source, APIVersion: "example.com/v1", Kind: "Shop", Namespace: "shop", Name: "main", UID: "before the hook made it anew"}}}
	if o, err := lookBackup(t.Context(), e); err != nil || o.Seen != reconciler.Absent {
		t.Errorf("%+v, %v", o, err)
	}
}
