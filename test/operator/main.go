// Command operator is a small, real operator for the tests end to end: it makes a
// StatefulSet, a Service and a Secret of each Database of a namespace, keeps them
// so, and says in the status how far it is. What it made goes with the Database,
// by garbage collection; the claims stay.
//
//	operator run NAMESPACE
//	operator patch GROUP/VERSION/RESOURCE NAME PATCH REPLICAS
//
// The second is what its users' hooks run: it patches an object of the pod's own
// namespace, and waits until its status has that many replicas, all of them ready.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	manager = "database-operator"
	pause   = 300 * time.Millisecond
	// namespaceFile is where every pod finds its own namespace.
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

func main() {
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatalln("this runs in a pod only:", err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		log.Fatalln(err)
	}
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "run":
		operate(context.Background(), client, args[1])
	case len(args) == 5 && args[0] == "patch":
		if err := patch(context.Background(), client, args[1:]); err != nil {
			log.Fatalln(err)
		}
	default:
		log.Fatalln("operator run NAMESPACE | operator patch GROUP/VERSION/RESOURCE NAME PATCH REPLICAS")
	}
}

// operate never ends. What fails is done in the next turn.
func operate(ctx context.Context, client dynamic.Interface, namespace string) {
	o := &operator{client: client, namespace: namespace, idle: map[types.UID]time.Time{}}
	for ; ; time.Sleep(pause) {
		list, err := o.of(databases).List(ctx, metav1.ListOptions{})
		if err != nil {
			log.Println(err)
			continue
		}
		for i := range list.Items {
			if db := &list.Items[i]; db.GetDeletionTimestamp() == nil {
				if err := o.reconcile(ctx, db); err != nil {
					log.Println(db.GetName(), err)
				}
			}
		}
	}
}

func patch(ctx context.Context, client dynamic.Interface, args []string) error {
	namespace, err := os.ReadFile(namespaceFile)
	if err != nil {
		return fmt.Errorf("cannot find the pod's namespace: %w", err)
	}
	want, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return fmt.Errorf("%s is no number of replicas", args[3])
	}
	parts := strings.Split(args[0], "/")
	if len(parts) != 3 {
		return fmt.Errorf("%s is not GROUP/VERSION/RESOURCE", args[0])
	}
	objects := client.Resource(schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]}).Namespace(string(namespace))
	o, err := objects.Patch(ctx, args[1], types.MergePatchType, []byte(args[2]), metav1.PatchOptions{FieldManager: "hook"})
	for ; err == nil; o, err = objects.Get(ctx, args[1], metav1.GetOptions{}) {
		seen, replicas, ready := number(o, "status", "observedGeneration"), number(o, "status", "replicas"), number(o, "status", "readyReplicas")
		if seen == o.GetGeneration() && replicas == want && ready == want {
			fmt.Printf("%s %s has %d replicas\n", o.GetKind(), o.GetName(), want)
			return nil
		}
		time.Sleep(pause)
	}
	return err
}

func number(o *unstructured.Unstructured, path ...string) int64 {
	n, _, _ := unstructured.NestedInt64(o.Object, path...)
	return n
}
