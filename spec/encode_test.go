package spec

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// record is one kind of record with its two functions.
type record struct {
	name   string
	empty  func() any
	encode func(any) ([]byte, error)
	decode func([]byte) (any, error)
}

var records = []record{
	{"run", func() any { return &Run{} }, func(o any) ([]byte, error) { return EncodeRun(o.(*Run)) }, func(b []byte) (any, error) { return DecodeRun(b) }},
	{"status", func() any { return &PlanStatus{} }, func(o any) ([]byte, error) { return EncodeStatus(o.(*PlanStatus)) }, func(b []byte) (any, error) { return DecodeStatus(b) }},
	{"daemonstatus", func() any { return &DaemonStatus{} }, func(o any) ([]byte, error) { return EncodeDaemonStatus(o.(*DaemonStatus)) }, func(b []byte) (any, error) { return DecodeDaemonStatus(b) }},
}

func TestRecordsSurviveTheirFile(t *testing.T) {
	for _, r := range records {
		t.Run(r.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				o := r.empty()
				draw(t, reflect.ValueOf(o).Elem())
				first, err := r.encode(o)
				if err != nil {
					t.Fatal(err)
				}
				back, err := r.decode(first)
				if err != nil {
					t.Fatalf("%v\n%s", err, first)
				}
				if run, ok := o.(*Run); ok && back.(*Run).Spec.Closure.Digest() != run.Spec.Closure.Digest() {
					t.Fatalf("the record changes the digest of its closure:\n%s", first)
				}
				second, err := r.encode(back)
				if err != nil || !bytes.Equal(first, second) {
					t.Fatalf("%v\n%s\nbecame\n%s", err, first, second)
				}
			})
		})
	}
}

// The files of each format version are kept for ever: this release reads them
// and, while the version is its own, writes the same bytes.
func TestRecordsOfReleasedFormats(t *testing.T) {
	for _, r := range records {
		path := filepath.Join("v1alpha1", r.name+".yaml")
		if _, err := os.Stat(filepath.Join("testdata", path)); err != nil && *update {
			o := r.empty()
			fill(reflect.ValueOf(o).Elem(), 1)
			data, err := r.encode(o)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, path, string(data))
		}
		data, err := os.ReadFile(filepath.Join("testdata", path))
		if err != nil {
			t.Fatal(err)
		}
		o, err := r.decode(data)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if again, err := r.encode(o); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s: %v, written anew it is\n%s", path, err, again)
		}
	}
}

// goldenDocuments are documents of the released format with every field.
func goldenDocuments(t *testing.T) []File {
	t.Helper()
	data, err := os.ReadFile("testdata/v1alpha1/documents.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return []File{{Path: "documents.yaml", Data: data}}
}

func TestDocumentsOfReleasedFormats(t *testing.T) {
	for _, f := range goldenDocuments(t) {
		docs, ps := Decode(f)
		if len(docs) != 7 || len(ps) > 0 {
			t.Errorf("%d documents, problems\n%s", len(docs), lines(ps))
		}
	}
}

func TestRecordsThatWeDidNotWriteAreRefused(t *testing.T) {
	good, err := EncodeRun(&Run{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, old, new, say string
		newer               bool
	}{
		{"newer", "v1alpha1", "v1alpha2", "upgrade the daemon", true},
		{"much newer", "v1alpha1", "v2", "upgrade the daemon", true},
		{"older than all", "v1alpha1", "v1alpha0", "none of Tranship's", false},
		{"somebody else's", "tranship.dev/v1alpha1", "example.com/v9", "none of Tranship's", false},
		{"other kind", "kind: Run", "kind: PlanStatus", `of kind "PlanStatus"`, false},
		{"edited", "steps:", "stesp:", `"stesp" is not known`, false},
		{"twice", "kind: Run", "kind: Run\nsteps: []", "written twice", false},
		{"merge conflict", "kind: Run", "<<<<<<< HEAD\nkind: Run", "no valid YAML", false},
		{"wrong type", "phase: \"\"", "phase: []", "must be text", false},
	} {
		text := strings.Replace(string(good), tc.old, tc.new, 1)
		if text == string(good) {
			t.Fatalf("%s changes nothing:\n%s", tc.name, good)
		}
		r, err := DecodeRun([]byte(text))
		if r != nil || err == nil || !strings.Contains(err.Error(), tc.say) || errors.Is(err, ErrNewerFormat) != tc.newer {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	for _, text := range []string{"", "\n", "a: [", "- x", "text"} {
		if _, err := DecodeStatus([]byte(text)); err == nil {
			t.Errorf("%q is no status", text)
		}
	}
	if _, err := DecodeDaemonStatus(bytes.Repeat([]byte("#"), maxRecordBytes+1)); err == nil {
		t.Error("a record without end was read")
	}
}
