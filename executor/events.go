package executor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

const (
	// eventsAfter is how long a step has waited before it is asked what happened
	// to the object in the way: most waits are over by then.
	eventsAfter = 5 * time.Second
	eventsAgain = 15 * time.Second
	eventsWait  = 3 * time.Second // a wait must not wait for its explanation
	eventsShown = 3
)

// diary remembers what was last read of an object's events. Safe for concurrent use.
type diary struct {
	mu   sync.Mutex
	read map[page]lines
}

type page struct{ run, object string }

type lines struct {
	at   time.Time
	text []string
}

// tell adds the last events of the object that a step waits for (safety property 9).
func (d *diary) tell(ctx context.Context, e *kube.Env, o *reconciler.Observation) {
	side, object, ok := subject(o.Object)
	since := begun(&e.Step)
	if o.Seen != reconciler.Working || !ok || e.On(side) == nil || since.IsZero() || time.Since(since) < eventsAfter {
		return
	}
	key := page{e.Run.Metadata.Name, o.Object}
	d.mu.Lock()
	was := d.read[key]
	d.mu.Unlock()
	if time.Since(was.at) > eventsAgain {
		ctx, stop := context.WithTimeout(ctx, eventsWait)
		defer stop()
		was = lines{time.Now(), lastEvents(ctx, e.On(side), object)}
		d.mu.Lock()
		if d.read == nil || len(d.read) > 1000 { // of runs that are over, most of them
			d.read = map[page]lines{}
		}
		d.read[key] = was
		d.mu.Unlock()
	}
	o.Events = was.text
}

// begun is when the attempt at hand began, forwards or backwards.
func begun(s *spec.Step) time.Time {
	switch {
	case s.Undid != nil && s.Undid.Started != nil:
		return s.Undid.Started.Time
	case s.Started != nil:
		return s.Started.Time
	}
	return time.Time{}
}

// subject reads "source Pod shop/web-1".
func subject(object string) (spec.Side, corev1.ObjectReference, bool) {
	f := strings.Fields(object)
	if len(f) != 3 {
		return "", corev1.ObjectReference{}, false
	}
	namespace, name, ok := strings.Cut(f[2], "/")
	if !ok {
		namespace, name = "", f[2]
	}
	return spec.Side(f[0]), corev1.ObjectReference{Kind: f[1], Namespace: namespace, Name: name}, true
}

// lastEvents are the newest of an object, the newest first; none when the cluster
// does not say. Those of objects without a namespace are in "default".
func lastEvents(ctx context.Context, c *kube.Cluster, o corev1.ObjectReference) []string {
	in := o.Namespace
	if in == "" {
		in = metav1.NamespaceDefault
	}
	list, err := c.Kube.CoreV1().Events(in).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.kind": o.Kind, "involvedObject.name": o.Name, "involvedObject.namespace": o.Namespace}.String()})
	if err != nil {
		return nil
	}
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return kube.EventTime(&b).Compare(kube.EventTime(&a).Time) })
	var text []string
	for n := range list.Items[:min(eventsShown, len(list.Items))] {
		text = append(text, sentence(&list.Items[n]))
	}
	return text
}

// sentence is one line, and whole: what is cut may be half a secret, which nobody
// finds any more. The API has no longer messages than 1 KiB.
func sentence(ev *corev1.Event) string {
	return fmt.Sprintf("%s %s: %s", kube.EventTime(ev).UTC().Format(time.RFC3339), ev.Reason, strings.Join(strings.Fields(ev.Message), " "))
}
