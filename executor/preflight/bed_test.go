package preflight_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/executor/preflight"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const plain = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}"

const pod = "{containers: [{name: c, image: none}], restartPolicy: Never}"

const stopped = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 0, selector: {matchLabels: {a: a}}, template: {metadata: {labels: {a: a}}, spec: {containers: [{name: c, image: none}]}}}}"

// TestBedPreflight asks the real clusters about plans that cannot be carried
// out; each finding names its objects.
func TestBedPreflight(t *testing.T) {
	for name, c := range map[string]struct {
		source, target string
		labels         map[string]string // of the target's namespace; nil: there is none
		change         func(e *kube.Env)
		reason         string // "" means that all is well
		says           []string
		warnings       []string // of one where all is well
	}{
		"plain": {source: plain},
		"unsupported": {
			source: "{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: custom}, spec: {source: {persistentVolumeClaimName: none}}}",
			reason: "UnsupportedWorkload",
			says:   []string{"VolumeSnapshot"},
		},
		"a pod without a controller": {
			source:   "{apiVersion: v1, kind: Pod, metadata: {name: bare}, spec: {nodeSelector: {none: 'true'}, containers: [{name: c, image: none}]}}",
			warnings: []string{"the stop deletes pods without a controller", "/bare"},
		},
		"every kind that is stopped": {
			source: strings.Join([]string{
				"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: hpa}, spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}",
				"{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly}, spec: {schedule: '0 0 1 1 *', jobTemplate: {spec: {template: {spec: " + pod + "}}}}}",
				"{apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: {suspend: true, template: {spec: " + pod + "}}}",
				"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {selector: {matchLabels: {a: a}}, template: {metadata: {labels: {a: a}}, spec: {nodeSelector: {none: 'true'}, containers: [{name: c, image: none}]}}}}",
				"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: rs}, spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: none}]}}}}",
				"{apiVersion: v1, kind: ReplicationController, metadata: {name: rc}, spec: {replicas: 0, selector: {a: c}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: none}]}}}}",
			}, "\n---\n"),
		},
		"kept by a tool": {
			source:   "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {kustomize.toolkit.fluxcd.io/name: apps, kustomize.toolkit.fluxcd.io/namespace: flux}}, spec: {replicas: 0, selector: {matchLabels: {a: a}}, template: {metadata: {labels: {a: a}}, spec: {containers: [{name: c, image: none}]}}}}",
			warnings: []string{"Flux Kustomization flux/apps may start again", "/web"},
		},
		"existing object": {source: plain, target: plain, labels: map[string]string{}, reason: "ExistingObject", says: []string{"target ConfigMap"}},
		"existing object, skipped": {source: plain, target: plain, labels: map[string]string{}, change: func(e *kube.Env) { e.Plan().Existing = spec.ExistingSkip },
			warnings: []string{"with warnings", "target ConfigMap", "left as they are"}},
		"existing object, updated": {source: plain, target: plain, labels: map[string]string{}, change: func(e *kube.Env) { e.Plan().Existing = spec.ExistingUpdate },
			warnings: []string{"with warnings", "made what the source has", "target ConfigMap"}},
		"existing object, of another plan": {source: strings.ReplaceAll(plain, "metadata: {", "metadata: {annotations: {tranship.dev/plan-name: other}, "), labels: map[string]string{},
			target: strings.ReplaceAll(plain, "metadata: {", "metadata: {annotations: {tranship.dev/plan-name: other}, "),
			change: func(e *kube.Env) { e.Plan().Existing = spec.ExistingUpdate }, reason: "ExistingObject", says: []string{"is not updated: it belongs to another plan"}},
		"existing workload, updated": {source: stopped, target: strings.Replace(stopped, "replicas: 0", "replicas: 1", 1), labels: map[string]string{},
			change: func(e *kube.Env) {
				e.Plan().Existing = spec.ExistingUpdate
				bedtest.Await(t, "the target's own pod", func() bool {
					return bedtest.Field(t, e.Target, e.Namespaces(spec.Target)[0], "apps/v1:deployments", "web", "status", "replicas") == "1"
				})
			}, warnings: []string{"stops these before it stops the source", "/web (1 pods)"}},
		"published names": {source: "{apiVersion: v1, kind: Service, metadata: {name: door, annotations: {external-dns.alpha.kubernetes.io/hostname: door.example.com}}, spec: {ports: [{port: 80}]}}",
			says: []string{"with warnings", "external-dns", "/door (door.example.com)"}},
		"namespace differs": {source: plain, labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
			reason: "NamespaceDiffers", says: []string{"pod-security.kubernetes.io/enforce"}},
		"no such namespace": {source: plain, change: func(e *kube.Env) { e.Plan().Namespaces[0].Name = "never-was" },
			reason: "NamespaceNotFoundOnSourceCluster", says: []string{"never-was", "cluster old"}},
		"one cluster": {source: plain, change: func(e *kube.Env) { e.Target = e.Source }, reason: "InvalidDestinationCluster", says: []string{"one and the same"}},
		"no Velero": {source: plain, change: func(e *kube.Env) { e.Target.VeleroNamespace = "default" },
			reason: "VeleroNotReady", says: []string{"namespace default", "spec.veleroNamespace", "docs/install.md"}},
		"no bucket": {source: plain, change: func(e *kube.Env) { e.Run.Spec.Closure.Repository.Spec.Bucket = "never-was" },
			reason: "BucketMissing", says: []string{"never-was", "ReplicationRepository main"}},
		"wrong credentials": {source: plain, change: func(e *kube.Env) { e.Run.Spec.Closure.Repository.Spec.Credentials = &spec.SecretRef{From: "wrong"} },
			reason: "BackupStorageProviderTestFailed", says: []string{"refuses the credentials of secret wrong"}},
		"untrusted store": {source: plain, change: func(e *kube.Env) { e.Run.Spec.Closure.Repository.Spec.CABundle = "" },
			reason: "BackupStorageProviderTestFailed", says: []string{"not trusted", "caBundle"}},
		"too many namespaces": {source: plain, change: func(e *kube.Env) {
			e.Settings.Limits.Namespaces = 1
			e.Plan().Namespaces = append(e.Plan().Namespaces, spec.NamespaceMapping{Name: "default", TargetName: e.Plan().Namespaces[0].TargetName + "-b"})
		}, reason: "NamespaceLimitExceeded", says: []string{"2 namespaces", "limit is 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			id := fmt.Sprint(time.Now().UnixNano() % 1e8)
			from, to := "asked-"+id, "asks-"+id
			e := bedtest.Env(t, "asked-"+id, from, to)
			bedtest.Namespace(t, e.Source, from, nil)
			bedtest.Put(t, e.Source, from, c.source)
			if c.labels != nil {
				bedtest.Namespace(t, e.Target, to, c.labels)
			}
			if c.target != "" {
				bedtest.Put(t, e.Target, to, c.target)
			}
			if c.change != nil {
				c.change(e)
			}
			o := bedtest.Drive(t, e, preflight.Verbs(), "preflight", preflight.Check, 1)
			if c.reason == "" {
				if o.Seen != reconciler.Succeeded || o.Facts.SourceUID == "" || o.Facts.SourceUID == o.Facts.TargetUID {
					t.Errorf("got %+v", o)
				}
				for _, want := range c.warnings {
					if !strings.Contains(o.Message, want) {
						t.Errorf("%q does not say %q", o.Message, want)
					}
				}
				return
			}
			if o.Seen != reconciler.Broken || o.Reason != c.reason {
				t.Fatalf("got %s %s", o.Reason, o.Message)
			}
			for _, want := range c.says {
				if !strings.Contains(o.Message, want) {
					t.Errorf("%q does not say %q", o.Message, want)
				}
			}
			if strings.Contains(o.Message, "X-Amz") {
				t.Errorf("%q shows a signed link", o.Message)
			}
		})
	}
}

// TestBedGovernedObject: a custom resource's children are refused by name.
func TestBedGovernedObject(t *testing.T) {
	id := fmt.Sprint(time.Now().UnixNano() % 1e8)
	e := bedtest.Env(t, "governed-"+id, "governed-"+id, "governed-"+id)
	bedtest.Namespace(t, e.Source, "governed-"+id, nil)
	snapshots := schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
	owner := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
		"metadata": map[string]any{"name": "owner"}, "spec": map[string]any{"source": map[string]any{"persistentVolumeClaimName": "none"}}}}
	made, err := e.Source.Dynamic.Resource(snapshots).Namespace("governed-"+id).Create(t.Context(), owner, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bedtest.Put(t, e.Source, "governed-"+id, "{apiVersion: v1, kind: Secret, metadata: {name: child, ownerReferences: [{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, name: owner, uid: "+string(made.GetUID())+", controller: true}]}}")
	o := bedtest.Drive(t, e, preflight.Verbs(), "preflight", preflight.Check, 1)
	if o.Reason != "UnsupportedWorkload" || !strings.Contains(o.Message, "child (of VolumeSnapshot owner)") {
		t.Errorf("got %s %s", o.Reason, o.Message)
	}
}
