package workload

import (
	"encoding/json"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Anybody who may edit a workload may edit what is remembered in its annotation:
// it is read or refused, and what else it holds stays.
func FuzzPrevious(f *testing.F) {
	for _, text := range []string{"", "null", "{}", `{"replicas":3,"nodeSelector":{"a":"b"},"theirs":[1]}`, `{"replicas":"3"}`, "[]"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"annotations": map[string]any{kube.AnnotationPrevious: text}}}}
		i := item{kind: kinds[0], Unstructured: u}
		was, err := readPrevious(i)
		if err != nil {
			return
		}
		recall[int32](was, keyReplicas)
		recall[map[string]string](was, keyNodeSelector)
		recall[bool](was, keySuspend)
		now, err := remember(&kube.Env{Call: reconciler.Call{Run: &spec.Run{Spec: spec.RunSpec{Plan: "shop"}}}}, i, map[string]any{keyPods: 7})
		if err != nil {
			t.Fatal(err)
		}
		var got previous
		if err := json.Unmarshal([]byte(now[kube.AnnotationPrevious].(string)), &got); err != nil {
			t.Fatal(err)
		}
		if n, ok := recall[int](got, keyPods); !ok || n != 7 {
			t.Errorf("%q became %q", text, now[kube.AnnotationPrevious])
		}
		for k := range was {
			if _, ok := got[k]; !ok {
				t.Errorf("%q lost %q", text, k)
			}
		}
	})
}
