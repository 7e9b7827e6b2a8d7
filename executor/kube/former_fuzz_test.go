package kube

import (
	"bytes"
	"compress/gzip"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// What is remembered of an object lies in a Secret of the target, where anybody
// with rights there may have put something else: it is an object or an error.
func FuzzUnpack(f *testing.F) {
	for _, text := range []string{oursAtSource, theirDoor} {
		object, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(`{"resource":"configmaps","object":`+string(object)+`}`), true)
	}
	for _, text := range []string{`{"resource":"x"}`, `{"object":null}`, `{"object":{"apiVersion":"a/b/c","kind":"List","items":[]}}`, `[]`, `{"object":{"kind":"X","metadata":7}}`} {
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, plain bool) {
		if plain {
			var err error
			if data, err = zipped(data); err != nil {
				t.Fatal(err)
			}
		}
		i, err := unpack(data)
		if err != nil {
			return
		}
		_, _, _ = i.GetName(), i.GetAnnotations(), i.GetManagedFields()
		again, err := pack(i)
		if err != nil {
			t.Fatal(err)
		}
		back, err := unpack(again)
		if err != nil || back.GVR != i.GVR || !reflect.DeepEqual(back.Object, i.Object) {
			t.Errorf("%v: %v became %v", err, i, back)
		}
	})
}

func zipped(data []byte) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	if err == nil {
		err = z.Close()
	}
	return b.Bytes(), err
}

// A Secret of 1 MiB may hold a gigabyte of zeros.
func TestUnpackIsBounded(t *testing.T) {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"a": string(bytes.Repeat([]byte{'x'}, maxUnpacked))}}}
	packed, err := pack(Item{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, u})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(packed); err == nil {
		t.Errorf("%d bytes became more than %d", len(packed), maxUnpacked)
	}
}
