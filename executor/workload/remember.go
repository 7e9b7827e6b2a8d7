package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/tranship/tranship/executor/kube"
)

// Keys of the JSON in kube.AnnotationPrevious.
const (
	keyReplicas       = "replicas"
	keySuspend        = "suspend"
	keyNodeSelector   = "nodeSelector"
	keyPause          = "pause"
	keyReady          = "ready" // ready pods at the stop: was it healthy?
	keyPods           = "pods"  // pods at the stop
	keyClaimRetention = "claimRetention"
	keyReclaimPolicy  = "reclaimPolicy"
)

// previous is the content of kube.AnnotationPrevious: the old value of every
// field that is changed now. Keys of other verbs are kept as they are.
type previous map[string]json.RawMessage

func readPrevious(i item) (previous, error) {
	text := i.GetAnnotations()[kube.AnnotationPrevious]
	if text == "" {
		return previous{}, nil
	}
	p := previous{}
	err := json.Unmarshal([]byte(text), &p)
	if err == nil && p == nil { // "null"
		err = errors.New("it holds no values")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read annotation %s of %s %s/%s: it was edited by hand; put back its JSON: %w",
			kube.AnnotationPrevious, i.kind.name, i.GetNamespace(), i.GetName(), err)
	}
	return p, nil
}

// readOurs is what a run of this plan remembers on i; empty when none does.
func readOurs(e *kube.Env, i item) (previous, error) {
	if !ours(e, i) {
		return previous{}, nil
	}
	return readPrevious(i)
}

// recall reads one key; ok is false when it is absent or of another type.
func recall[T any](p previous, key string) (value T, ok bool) {
	raw, found := p[key]
	if !found {
		return value, false
	}
	return value, json.Unmarshal(raw, &value) == nil
}

// remember returns the annotations that keep old values beside those that are
// kept already.
func remember(e *kube.Env, i item, old map[string]any) (map[string]any, error) {
	p, err := readPrevious(i)
	if err != nil {
		return nil, err
	}
	for k, v := range old {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the old %s of %s %s: %w", k, i.kind.name, i.GetName(), err)
		}
		p[k] = raw
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("cannot encode what to remember of %s %s: %w", i.kind.name, i.GetName(), err)
	}
	return map[string]any{
		kube.AnnotationPrevious: string(text),
		kube.AnnotationRun:      e.RunLabel(),
		kube.AnnotationEpoch:    strconv.FormatInt(e.Settings.Epoch, 10),
	}, nil
}

// forget returns the annotations once keys are put back: nil deletes, and the
// last key takes all of ours with it.
func forget(i item, keys ...string) (map[string]any, error) {
	p, err := readPrevious(i)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		delete(p, k)
	}
	if len(p) == 0 {
		return map[string]any{kube.AnnotationPrevious: nil, kube.AnnotationRun: nil, kube.AnnotationEpoch: nil}, nil
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("cannot encode what to remember of %s %s: %w", i.kind.name, i.GetName(), err)
	}
	return map[string]any{kube.AnnotationPrevious: string(text)}, nil
}

// ours says whether i was changed by a run of this plan.
func ours(e *kube.Env, i item) bool { return kube.ChangedByPlan(e, i) }

// foreign returns the run of another plan that changed i and has not put it
// back; "" when there is none. Overwriting its memory would lose it.
func foreign(e *kube.Env, i item) string {
	a := i.GetAnnotations()
	if a[kube.AnnotationPrevious] == "" || ours(e, i) {
		return ""
	}
	if a[kube.AnnotationRun] == "" {
		return "an unknown run"
	}
	return a[kube.AnnotationRun]
}

// ownsField says whether a set of managed fields holds a field.
func ownsField(fields []byte, path []string) bool {
	for _, name := range path {
		var set map[string]json.RawMessage
		if json.Unmarshal(fields, &set) != nil {
			return false
		}
		if fields = set["f:"+name]; fields == nil {
			return false
		}
	}
	return true
}
