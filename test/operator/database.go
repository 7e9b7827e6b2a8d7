package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

var (
	databases = schema.GroupVersionResource{Group: "test.tranship.dev", Version: "v1", Resource: "databases"}
	sets      = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}
	services  = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	secrets   = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// operator keeps what Databases of a namespace ask for.
type operator struct {
	client    dynamic.Interface
	namespace string
	idle      map[types.UID]time.Time // since when a Database that comes back has no pod
}

func (o *operator) of(r schema.GroupVersionResource) dynamic.ResourceInterface {
	return o.client.Resource(r).Namespace(o.namespace)
}

// reconcile makes what is missing, scales what is there unless it is paused, and
// says how far it is.
func (o *operator) reconcile(ctx context.Context, db *unstructured.Unstructured) error {
	name := db.GetName()
	for _, child := range []struct {
		resource schema.GroupVersionResource
		name     string
		fields   string
	}{
		{secrets, name + "-password", fmt.Sprintf(`{"kind":"Secret","apiVersion":"v1","stringData":{"password":%q}}`, rand.Text())},
		{services, name, fmt.Sprintf(`{"kind":"Service","apiVersion":"v1","spec":{"clusterIP":"None","selector":{"database":%q},"ports":[{"port":8080}]}}`, name)},
		{sets, name, statefulSet(db)},
	} {
		if err := o.make(ctx, db, child.resource, child.name, child.fields); err != nil {
			return err
		}
	}
	set, err := o.of(sets).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if paused, _, _ := unstructured.NestedBool(db.Object, "spec", "paused"); paused {
		return o.tell(ctx, db, set, number(set, "spec", "replicas"))
	}
	want := o.replicas(db, set)
	if number(set, "spec", "replicas") != want {
		patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, want)
		if set, err = o.of(sets).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: manager}); err != nil {
			return err
		}
	}
	return o.tell(ctx, db, set, want)
}

// replicas is how many there are to be. One that comes back does not heed for long
// that it was suspended: that is a defect which operators have.
func (o *operator) replicas(db, set *unstructured.Unstructured) int64 {
	want := number(db, "spec", "replicas")
	suspended, _, _ := unstructured.NestedBool(db.Object, "spec", "suspended")
	comesBack, _, _ := unstructured.NestedBool(db.Object, "spec", "comesBack")
	if !suspended {
		delete(o.idle, db.GetUID())
		return want
	}
	if !comesBack {
		return 0
	}
	if number(set, "status", "replicas") > 0 && o.idle[db.GetUID()].IsZero() {
		return 0
	}
	if o.idle[db.GetUID()].IsZero() {
		o.idle[db.GetUID()] = time.Now()
	}
	if time.Since(o.idle[db.GetUID()]) < 3*time.Second {
		return 0
	}
	return want
}

// make creates an object of a Database that is not there.
func (o *operator) make(ctx context.Context, db *unstructured.Unstructured, r schema.GroupVersionResource, name, fields string) error {
	_, err := o.of(r).Get(ctx, name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	child := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(fields), &child.Object); err != nil {
		return err
	}
	child.SetName(name)
	child.SetNamespace(o.namespace)
	child.SetLabels(labels(db))
	if orphans, _, _ := unstructured.NestedBool(db.Object, "spec", "orphans"); !orphans { // as old operators make them
		child.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(db, db.GroupVersionKind())})
	}
	_, err = o.of(r).Create(ctx, child, metav1.CreateOptions{FieldManager: manager})
	return err
}

// tell writes the status where it says something else.
func (o *operator) tell(ctx context.Context, db, set *unstructured.Unstructured, want int64) error {
	replicas, ready := number(set, "status", "replicas"), number(set, "status", "readyReplicas")
	truth, reason := "False", "Progressing"
	if number(set, "status", "observedGeneration") == set.GetGeneration() && replicas == want && ready == want {
		truth, reason = "True", "AsWanted"
	}
	status := map[string]any{"observedGeneration": db.GetGeneration(), "replicas": replicas, "readyReplicas": ready,
		"conditions": []any{map[string]any{"type": "Ready", "status": truth, "reason": reason, "message": fmt.Sprintf("%d of %d are ready", ready, want)}}}
	old, _ := json.Marshal(db.Object["status"])
	if now, _ := json.Marshal(status); string(now) == string(old) {
		return nil
	}
	db.Object["status"] = status
	_, err := o.of(databases).UpdateStatus(ctx, db, metav1.UpdateOptions{FieldManager: manager})
	return err
}

// labels are those of everything that is made, its claims too.
func labels(db *unstructured.Unstructured) map[string]string {
	m, _, _ := unstructured.NestedStringMap(db.Object, "spec", "labels")
	return m
}

// statefulSet is the database: it notes where it was born, and counts.
func statefulSet(db *unstructured.Unstructured) string {
	image, _, _ := unstructured.NestedString(db.Object, "spec", "image")
	class, _, _ := unstructured.NestedString(db.Object, "spec", "storageClassName")
	name := db.GetName()
	all, _ := json.Marshal(labels(db))
	return fmt.Sprintf(`{"kind":"StatefulSet","apiVersion":"apps/v1","spec":{
		"replicas":0,"serviceName":%[1]q,"podManagementPolicy":"Parallel","selector":{"matchLabels":{"database":%[1]q}},
		"template":{"metadata":{"labels":{"database":%[1]q}},"spec":{
			"terminationGracePeriodSeconds":1,"securityContext":{"runAsUser":999,"runAsGroup":999,"fsGroup":999},
			"containers":[{"name":"db","image":%[2]q,
				"command":["/bin/sh","-c","test -e /data/born || echo $HOSTNAME on $CLUSTER > /data/born; mkdir -p /data/www; httpd -p 8080 -h /data/www; while true; do echo $CLUSTER >> /data/journal; cp /data/born /data/www/index.html; sleep 1; done"],
				"env":[{"name":"CLUSTER","value":%[4]q},{"name":"PASSWORD","valueFrom":{"secretKeyRef":{"name":%[5]q,"key":"password"}}}],
				"readinessProbe":{"exec":{"command":["test","-e","/data/born"]},"periodSeconds":1,"timeoutSeconds":30},
				"volumeMounts":[{"name":"data","mountPath":"/data"}]}]}},
		"volumeClaimTemplates":[{"metadata":{"name":"data","labels":%[6]s},"spec":{"accessModes":["ReadWriteOnce"],"storageClassName":%[3]q,"resources":{"requests":{"storage":"64Mi"}}}}]}}`,
		name, image, class, os.Getenv("CLUSTER"), name+"-password", all)
}
