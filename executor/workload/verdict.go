package workload

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// verdict is what a Look says about one object. A verdict without an object
// or message counts, and says nothing.
type verdict struct {
	seen    reconciler.Seen
	reason  string
	message string
	object  spec.Object
	final   bool
}

// Orders in which verdicts win. Going forward a broken object ends the step
// before anything else is touched; going back everything that can run again
// is started before a person is called.
var (
	forward  = []reconciler.Seen{reconciler.Broken, reconciler.Absent, reconciler.Working, reconciler.Succeeded}
	backward = []reconciler.Seen{reconciler.Absent, reconciler.Working, reconciler.Broken, reconciler.Succeeded}
)

const named = 3 // objects named in one message

// fold sums verdicts up: the first class of order that occurs is the answer,
// and its first objects are named.
func fold(order []reconciler.Seen, verdicts []verdict) reconciler.Observation {
	for _, seen := range order {
		var messages []string
		o := reconciler.Observation{Seen: seen, Poll: poll}
		found := false
		for _, v := range verdicts {
			if v.seen != seen {
				continue
			}
			found = true
			o.Final = o.Final || v.final
			if v.message == "" {
				continue
			}
			if len(messages) == 0 {
				o.Reason = v.reason
				if v.object.Name != "" {
					o.Object = kube.Describe(v.object)
				}
			}
			messages = append(messages, v.message)
		}
		if found {
			o.Message = sentence(messages)
			return o
		}
	}
	return reconciler.Observation{Seen: reconciler.Succeeded}
}

// sentence joins messages and counts those that do not fit.
func sentence(messages []string) string {
	if more := len(messages) - named; more > 0 {
		messages = append(slices.Clone(messages[:named]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(messages, "; ")
}
