package executor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// learnEvery is how often the Secrets of a run's namespaces are read again.
	learnEvery = 10 * time.Minute
	// A cluster that does not answer must not hold up the looks of a run.
	learnWait  = 5 * time.Second
	learnAgain = time.Minute
	// maxLearned bounds a value; releases of package managers are larger.
	maxLearned = 64 << 10
	// learnable leaves those releases out: they are compressed, and no secret.
	learnable = "type!=helm.sh/release.v1"
)

// Learner is told the values of all Secrets in a plan's namespaces on one side,
// in place of those it was told before, so that no record shows one of them.
type Learner func(plan string, side spec.Side, values [][]byte)

// Tell sets who learns; before the first call of Look.
func (x *Executor) Tell(l Learner) { x.knowledge.tell = l }

// knowledge remembers whose Secrets were read, and when. Safe for concurrent use.
type knowledge struct {
	tell Learner

	mu sync.Mutex
	at map[learned]lesson
}

// lesson is how the newest attempt went.
type lesson struct {
	next  time.Time // when to read again
	known bool      // an earlier attempt succeeded
	err   error
}

type learned struct {
	plan string
	side spec.Side
}

// refresh reads the Secrets of the run's namespaces, where that was not done
// lately. The error says that the values of a side were never learned.
func (k *knowledge) refresh(ctx context.Context, e *kube.Env) error {
	if k.tell == nil {
		return nil
	}
	var never error
	for _, side := range bothSides {
		c := e.On(side)
		if c == nil { // the verb does without that cluster
			continue
		}
		key := learned{e.Run.Spec.Plan, side}
		k.mu.Lock()
		was := k.at[key]
		k.mu.Unlock()
		if time.Now().After(was.next) {
			was = k.read(ctx, e, c, key, was.known)
		}
		if !was.known {
			never = was.err
		}
	}
	return never
}

func (k *knowledge) read(ctx context.Context, e *kube.Env, c *kube.Cluster, key learned, known bool) lesson {
	now := lesson{next: time.Now().Add(learnEvery), known: true}
	values, err := secretValues(ctx, c, e.Namespaces(key.side))
	if err == nil {
		k.tell(key.plan, key.side, values)
	} else {
		now = lesson{next: time.Now().Add(learnAgain), known: known, err: fmt.Errorf("cluster %s: %w", c.Name, err)}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at == nil {
		k.at = map[learned]lesson{}
	}
	k.at[key] = now
	return now
}

func secretValues(ctx context.Context, c *kube.Cluster, namespaces []string) ([][]byte, error) {
	ctx, stop := context.WithTimeout(ctx, learnWait)
	defer stop()
	var values [][]byte
	for _, ns := range namespaces {
		list, err := c.Kube.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{FieldSelector: learnable})
		if err != nil {
			return nil, fmt.Errorf("the Secrets of namespace %s cannot be listed: %w", ns, err)
		}
		for i := range list.Items {
			for _, v := range list.Items[i].Data {
				if len(v) <= maxLearned {
					values = append(values, v)
				}
			}
		}
	}
	return values, nil
}

// withheld drops a log that nobody can redact.
func withheld(o reconciler.Observation, unknown error) reconciler.Observation {
	if unknown != nil && o.Log != "" {
		o.Log = fmt.Sprintf("<dropped: %d bytes; they may hold values of Secrets that are not known here: %v>\n", len(o.Log), unknown)
	}
	return o
}
