package kube

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// refuse makes a cluster answer some requests for databases with an error.
func refuse(c *Cluster, verb string, err error) {
	c.Dynamic.(*dynamicfake.FakeDynamicClient).PrependReactor(verb, "databases", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, err })
}

var deadWebhook = apierrors.NewInternalError(errors.New("failed calling webhook: connection refused"))

// turn is a look and what follows it, as the loop does.
func turn(t *testing.T, e *Env, verb string) (o reconciler.Observation, lookErr, effect error) {
	t.Helper()
	v := Verbs()[verb]
	o, err := v.Look(t.Context(), e)
	if err == nil && o.Seen == reconciler.Absent {
		effect = v.Ensure(t.Context(), e)
	}
	return o, err, effect
}

// What cannot be put back, for whatever reason, is tried, and keeps the source's
// workloads down no longer than a broken operator does.
func TestWhatCannotBePutBackIsNotTriedForEver(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, e *Env){
		"a dead webhook":            func(t *testing.T, e *Env) { changed(t, e.Source, suspend); refuse(e.Source, "update", deadWebhook) },
		"a dead conversion webhook": func(_ *testing.T, e *Env) { refuse(e.Source, "get", deadWebhook) },
		"a kind that is gone": func(_ *testing.T, e *Env) {
			gone := apierrors.NewGenericServerResponse(404, "get", databaseKind.GroupResource(), "", "404 page not found", 0, true)
			refuse(e.Source, "get", gone)
			refuse(e.Source, "create", gone)
		},
		"an edited Secret": func(t *testing.T, e *Env) {
			all, err := e.kept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s := all[0].secret.DeepCopy()
			s.Data[formerKey] = []byte("something else")
			if _, err := e.Source.Kube.CoreV1().Secrets(s.Namespace).Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for way, begun := range undoBegun {
			t.Run(name+", "+way, func(t *testing.T) {
				e := oneDatabase(t)
				spoil(t, e)
				begun(e, 2*operandsWait) // the daemon was away
				if o, err, effect := turn(t, e, "kube.keep-undo"); err != nil || o.Seen != reconciler.Absent || effect == nil {
					t.Fatalf("it was not tried: %+v, %v, %v", o, err, effect)
				}
				if o, err, _ := turn(t, e, "kube.keep-undo"); err != nil || o.Seen != reconciler.Absent || o.Message == "" {
					t.Fatalf("it is not tried again: %+v, %v", o, err)
				}
				triedAt(t, e, time.Now().Add(-operandsWait-time.Minute))
				o, err, _ := turn(t, e, "kube.keep-undo")
				if err != nil || o.Seen != reconciler.Succeeded || o.Reason != reconciler.ReasonNotPutBack || !strings.Contains(o.Message, "Secret ours/") {
					t.Errorf("%+v, %v", o, err)
				}
				if l, err := e.everyKept(t.Context()); err != nil || len(l) != 1 {
					t.Errorf("%d Secrets are left (%v)", len(l), err)
				}
			})
		}
	}
}

// triedAt makes the first try one of another time.
func triedAt(t *testing.T, e *Env, at time.Time) {
	t.Helper()
	all, err := e.everyKept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := range all {
		if e.tried(all[n]).IsZero() {
			t.Fatalf("Secret %s does not say that it was tried", all[n].secret.Name)
		}
		if err := e.note(t.Context(), &all[n], annotationTried, e.RunLabel()+" "+at.Format(time.RFC3339Nano)); err != nil {
			t.Fatal(err)
		}
	}
}

// A source that does not answer is no answer.
func TestASilentSourceIsNotGivenUp(t *testing.T) {
	e := oneDatabase(t)
	undoBegun["a rollback"](e, 2*operandsWait)
	refuse(e.Source, "get", errors.New("connection refused"))
	if o, err, _ := turn(t, e, "kube.keep-undo"); err == nil {
		t.Errorf("%+v", o)
	}
}

// What another run tried counts for that run.
func TestATryIsOfItsRun(t *testing.T) {
	e := oneDatabase(t)
	changed(t, e.Source, suspend)
	refuse(e.Source, "update", deadWebhook)
	undoBegun["a rollback"](e, time.Second)
	_, _, _ = turn(t, e, "kube.keep-undo")
	triedAt(t, e, time.Now().Add(-time.Hour))
	e.Run.Spec.Number++
	if o, err, effect := turn(t, e, "kube.keep-undo"); err != nil || o.Seen != reconciler.Absent || effect == nil {
		t.Errorf("%+v, %v, %v", o, err, effect)
	}
}

// What is being deleted is not written into: it would be lost with it. It is made
// anew when it has gone.
func TestACustomResourceThatIsBeingDeletedIsNotWrittenInto(t *testing.T) {
	e := oneDatabase(t)
	changed(t, e.Source, func(u *unstructured.Unstructured) {
		suspend(u)
		now := metav1.Now()
		u.SetDeletionTimestamp(&now)
		u.SetFinalizers([]string{"example.com/slow"})
	})
	undoBegun["a failed cutover"](e, time.Second)
	for range 3 {
		o, err, effect := turn(t, e, "kube.keep-undo")
		if err != nil || effect != nil || o.Seen == reconciler.Succeeded || !strings.Contains(o.Message, "example.com/slow") {
			t.Fatalf("%+v, %v, %v", o, err, effect)
		}
	}
	changed(t, e.Source, func(u *unstructured.Unstructured) {
		if u.GetAnnotations()["example.com/paused"] == "" {
			t.Error("it was written into")
		}
	})
	if err := e.Source.Dynamic.Resource(databaseKind).Namespace("shop").Delete(t.Context(), "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	drive(t, e, "kube.keep-undo")
	changed(t, e.Source, func(u *unstructured.Unstructured) {
		if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); n != 2 {
			t.Errorf("it is %v", u.Object)
		}
	})
}

// One that cannot be put back keeps none of the others from it.
func TestTheOthersArePutBack(t *testing.T) {
	e := cutover(1, operated(t, spec.Source, "shop", nil, strings.ReplaceAll(database, "name: db, namespace: shop, uid: d", "name: a, namespace: shop, uid: a"), database), operated(t, spec.Target, "store", nil))
	e.Run.Spec.Closure.Plan.Spec.Hooks = []spec.PlanHook{{Hook: "stop", Phase: spec.PreBackup, Undo: "start"}}
	drive(t, e, "kube.keep")
	for _, name := range []string{"a", "db"} {
		u, err := e.Source.Dynamic.Resource(databaseKind).Namespace("shop").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		suspend(u)
		if _, err := e.Source.Dynamic.Resource(databaseKind).Namespace("shop").Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e.Source.Dynamic.(*dynamicfake.FakeDynamicClient).PrependReactor("update", "databases", func(a clienttesting.Action) (bool, runtime.Object, error) {
		raw, err := json.Marshal(a.(clienttesting.UpdateAction).GetObject())
		return err == nil && strings.Contains(string(raw), `"name":"a"`), nil, deadWebhook
	})
	undoBegun["a failed cutover"](e, time.Second)
	if o, err, effect := turn(t, e, "kube.keep-undo"); err != nil || effect == nil {
		t.Fatalf("%+v, %v, %v", o, err, effect)
	}
	changed(t, e.Source, func(u *unstructured.Unstructured) {
		if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); n != 2 {
			t.Errorf("db is %v", u.Object)
		}
	})
}

// A target that refuses to let a custom resource go is told as that, and keeps the
// source down only as long as a pod below it runs or may run.
func TestACustomResourceThatMayNotBeDeleted(t *testing.T) {
	set := strings.ReplaceAll(databaseSet, "namespace: shop", "namespace: store")
	for name, verb := range map[string]string{"a dead webhook": "delete", "a dead conversion webhook": "get"} {
		for way, begun := range undoBegun {
			t.Run(name+", "+way, func(t *testing.T) {
				e := oneDatabase(t)
				ours := strings.NewReplacer("namespace: shop", "namespace: store", "uid: d", "uid: d, annotations: {"+AnnotationPlan+": shop, "+AnnotationRun+": "+e.Origin()+"}").Replace(database)
				e.Target = operated(t, spec.Target, "store", []string{"db-0"}, ours, set)
				refuse(e.Target, verb, deadWebhook)
				begun(e, 2*operandsWait)
				for range 2 {
					if o, err, effect := turn(t, e, "kube.custom-undo"); err != nil || o.Seen != reconciler.Absent || effect == nil || !strings.Contains(effect.Error(), "Database store/db") {
						t.Fatalf("%+v, %v, %v", o, err, effect)
					}
				}
				for what := range e.Target.fails.since {
					e.Target.fails.since[what] = time.Now().Add(-2 * operandsWait)
				}
				if o, err, effect := turn(t, e, "kube.custom-undo"); err != nil || o.Seen == reconciler.Succeeded || effect == nil {
					t.Fatalf("with a pod: %+v, %v, %v", o, err, effect)
				}
				podsOf(t, e.Target, "store")
				if o, err, _ := turn(t, e, "kube.custom-undo"); err != nil || o.Seen != reconciler.Succeeded || o.Reason != reconciler.ReasonNotRemoved || !strings.Contains(o.Message, "target Database store/db") {
					t.Errorf("%+v, %v", o, err)
				}
			})
		}
	}
}

// Without a foreground finalizer a custom resource goes before its pods do.
func TestPodsAreWaitedForAfterTheirCustomResource(t *testing.T) {
	e := oneDatabase(t)
	e.Run.Facts.Created = []spec.Object{{Side: spec.Target, APIVersion: "example.com/v1", Kind: "Database", Resource: "databases", Namespace: "store", Name: "db", UID: "d"}}
	e.Target = operated(t, spec.Target, "store", []string{"db-0"}, strings.ReplaceAll(databaseSet, "namespace: shop", "namespace: store"))
	undoBegun["a rollback"](e, time.Second)
	if o, err, _ := turn(t, e, "kube.custom-undo"); err != nil || o.Seen != reconciler.Working || !strings.Contains(o.Message, "store/db-0") {
		t.Errorf("%+v, %v", o, err)
	}
	podsOf(t, e.Target, "store")
	if o, err, _ := turn(t, e, "kube.custom-undo"); err != nil || o.Seen != reconciler.Succeeded {
		t.Errorf("%+v, %v", o, err)
	}
}

// A Secret that is gone before its custom resource was found as it was leaves a
// warning; one that the undo itself removes does not.
func TestALostSecretIsNoSuccessOfTheUndo(t *testing.T) {
	e := oneDatabase(t)
	changed(t, e.Source, suspend)
	if err := e.Source.Kube.CoreV1().Secrets("ours").Delete(t.Context(), keptName(e, "d"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	undoBegun["a rollback"](e, time.Second)
	if o, err, _ := turn(t, e, "kube.keep-undo"); err != nil || o.Seen != reconciler.Succeeded || o.Reason != reconciler.ReasonKeptObjectGone || !strings.Contains(o.Message, "source Database shop/db") {
		t.Errorf("%+v, %v", o, err)
	}

	e = oneDatabase(t)
	undoBegun["a rollback"](e, time.Second)
	o, err, effect := turn(t, e, "kube.keep-undo")
	if err != nil || effect != nil || o.Facts == nil {
		t.Fatalf("%+v, %v, %v", o, err, effect)
	}
	if l, err := e.everyKept(t.Context()); err != nil || len(l) != 1 {
		t.Errorf("it was removed before that was on record (%v)", err)
	}
	if o := drive(t, e, "kube.keep-undo"); o.Seen != reconciler.Succeeded || o.Reason != "" {
		t.Errorf("%+v", o)
	}
	if l, err := e.everyKept(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%d Secrets are left (%v)", len(l), err)
	}
}

// A copy back that fails makes on the target again what the rollback removed there,
// as it ran, and asks no source, which may be why it failed.
func TestARemovedCustomResourceIsMadeAgainWithoutTheSource(t *testing.T) {
	e := oneDatabase(t)
	drive(t, e, "kube.custom")
	uid := types.UID("on-target")
	change := func(f func(u *unstructured.Unstructured)) *unstructured.Unstructured {
		u, err := e.Target.Dynamic.Resource(databaseKind).Namespace("store").Get(t.Context(), "db", metav1.GetOptions{})
		if err == nil {
			f(u)
			u, err = e.Target.Dynamic.Resource(databaseKind).Namespace("store").Update(t.Context(), u, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	change(func(u *unstructured.Unstructured) {
		u.SetUID(uid)
		_ = unstructured.SetNestedField(u.Object, int64(5), "spec", "replicas")
	})
	e.Run.Facts.Created[0].UID = string(uid)
	undoBegun["a rollback"](e, time.Second)
	e.Step.Undo = "kube.custom"
	if o := drive(t, e, "kube.custom-undo"); o.Seen != reconciler.Succeeded || o.Reason != "" {
		t.Fatalf("%+v", o)
	}
	e.Source, e.Undo = nil, true
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Created) != 1 {
		t.Fatalf("%+v, %+v", o, e.Run.Facts.Created)
	}
	u := change(func(*unstructured.Unstructured) {})
	if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); n != 5 || u.GetAnnotations()[AnnotationRun] != e.Origin() || u.GetUID() == uid {
		t.Errorf("the target has %v", u.Object)
	}
	if err := e.Target.Dynamic.Resource(databaseKind).Namespace("store").Delete(t.Context(), "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Target.Kube.CoreV1().Secrets("ours").Delete(t.Context(), removedName(e, uid), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Broken || o.Reason != reconciler.ReasonKeptObjectGone || !strings.Contains(o.Message, "target Database store/db") {
		t.Errorf("%+v", o)
	}
}

// A Secret that nobody can read, of a custom resource that nobody has touched, keeps
// no source down.
func TestAnEditedSecretOfAnUntouchedOneGoes(t *testing.T) {
	for name, untouched := range map[string]func(e *Env, k *keptResource) error{
		"no hook":  func(e *Env, _ *keptResource) error { e.Run.Spec.Closure.Plan.Spec.Hooks = nil; return nil },
		"put back": func(e *Env, k *keptResource) error { return e.note(t.Context(), k, annotationBack, "true") },
	} {
		for _, recorded := range []bool{true, false} {
			e := oneDatabase(t)
			all, err := e.kept(t.Context())
			if err == nil {
				all[0].secret.Data[formerKey] = []byte("something else")
				err = e.note(t.Context(), &all[0], annotationTried, "another run")
			}
			if err == nil {
				err = untouched(e, &all[0])
			}
			if err != nil {
				t.Fatal(err)
			}
			if !recorded {
				e.Run.Facts.Custom = nil
			}
			undoBegun["a rollback"](e, time.Second)
			if o := drive(t, e, "kube.keep-undo"); o.Seen != reconciler.Succeeded || o.Reason != "" {
				t.Errorf("%s: %+v", name, o)
			}
		}
	}
}
