package spec

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// withoutSentences is what a record must hold whatever its size is.
func withoutSentences(r *Run) *Run {
	for i := range r.Steps {
		r.Steps[i].Message = ""
		if u := r.Steps[i].Undid; u != nil {
			u.Message = ""
		}
	}
	r.Status.Message, r.Status.Warnings, r.Cut = "", nil, nil
	if r.Status.Ended != nil {
		r.Facts.Changes, r.Facts.Skipped = nil, nil
	}
	r.Facts.Volumes = bareVolumes(r.Facts.Volumes)
	return r
}

func bareVolumes(volumes []Volume) []Volume {
	for i := range volumes {
		v := &volumes[i]
		v.TransferReason, v.Warnings, v.Notes = "", nil, nil
		if v.Verified != nil {
			v.Verified.First = nil
		}
	}
	return volumes
}

func bareStatus(s *PlanStatus) *PlanStatus {
	s.LastFailure, s.Problems, s.Cut, s.Volumes = "", nil, nil, bareVolumes(s.Volumes)
	for i := range s.Conditions {
		s.Conditions[i].Message = ""
	}
	if s.WaitsFor != nil {
		s.WaitsFor.Message = ""
	}
	return s
}

// longText is a text of up to most bytes, with runes of several bytes in it.
func longText(t *rapid.T, most int) string {
	word := rapid.SampledFrom([]string{"x", "cannot reach ", "ü→", "a: b\n", "\x7f", cutMark, "\""}).Draw(t, "word")
	return strings.Repeat(word, rapid.IntRange(0, most).Draw(t, "bytes")/len(word))
}

// huge makes the sentences of a record long and many, at random places.
func huge(t *rapid.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			if e := v.Type().Elem(); e != reflect.TypeFor[Verified]() && e != reflect.TypeFor[Undid]() && e != reflect.TypeFor[Waiting]() {
				return
			}
			v.Set(reflect.New(v.Type().Elem()))
		}
		huge(t, v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			huge(t, v.Index(i))
		}
	case reflect.Struct:
		if _, timed := v.Addr().Interface().(interface{ IsZero() bool }); timed {
			return
		}
		for i := range v.NumField() {
			f := v.Field(i)
			switch name := v.Type().Field(i).Name; {
			case !f.CanSet():
			case f.Kind() == reflect.String && (strings.HasSuffix(name, "Message") || name == "TransferReason" || name == "LastFailure"):
				f.SetString(longText(t, 6000))
			case f.Kind() == reflect.String && name == "Reason": // not to be cut, however long
				f.SetString(longText(t, 500))
			case name == "Warnings" || name == "Notes" || name == "First":
				f.Set(reflect.ValueOf(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return longText(t, 300) }), 0, 40).Draw(t, name)))
			case name != "Spec" && name != "Recorded" && name != "Scope" && name != "ApprovedScope" && name != "Covers":
				huge(t, f)
			}
		}
	}
}

// checkCut holds for each record: it has its size or says why not, can be read,
// keeps all that is needed, is cut no further, and no less when it was cut before.
func checkCut[T any](t *rapid.T, record *T, limit int, write, encode func(*T) ([]byte, error), read func([]byte) (*T, error), bare func(*T) *T, field func(*T) *Cut) {
	whole, err := encode(record)
	if err != nil {
		t.Fatal(err)
	}
	data, err := write(record)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := encode(record); err != nil || !bytes.Equal(again, whole) {
		t.Fatal("the record itself was changed")
	}
	got, err := read(data)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := write(got); err != nil || !bytes.Equal(again, data) {
		t.Fatalf("cut once more: %v, %d of %d bytes became %d: %+v", err, len(data), len(whole), len(again), field(got))
	}
	cut := field(got)
	if len(whole) <= limit && !bytes.Equal(data, whole) {
		t.Fatal("a record within its size was changed")
	}
	if len(whole) > limit && (cut == nil || cut.Over == "" && (len(data) > limit || cut.Bytes == 0)) {
		t.Fatalf("%d bytes of %d: %+v", len(data), len(whole), cut)
	}
	all, err := read(whole)
	if err != nil {
		t.Fatal(err)
	}
	want, err1 := encode(bare(all))
	left, err2 := encode(bare(got))
	if err1 != nil || err2 != nil || !bytes.Equal(want, left) {
		t.Fatalf("something that is needed was cut: %v %v\n%s\nbecame\n%s", err1, err2, want, left)
	}
	if cut != nil && cut.Over != "" && (len(want) < limit-32<<10 || len(data) > len(want)+cutRoom+32<<10) {
		t.Fatalf("%d bytes, of which %d are needed: %+v", len(data), len(want), cut)
	}
}

func TestCutRecords(t *testing.T) {
	t.Run("run", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			r := &Run{}
			draw(t, reflect.ValueOf(r).Elem())
			r.Cut = nil
			for range rapid.SampledFrom([]int{0, 0, 400}).Draw(t, "objects") {
				r.Facts.Created = append(r.Facts.Created, Object{Kind: "ConfigMap", Namespace: "shop", Name: strings.Repeat("n", 60)})
			}
			huge(t, reflect.ValueOf(r).Elem())
			checkCut(t, r, MaxRunBytes, CapRun, EncodeRun, DecodeRun, withoutSentences, func(r *Run) *Cut { return r.Cut })
		})
	})
	t.Run("status", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			s := &PlanStatus{}
			draw(t, reflect.ValueOf(s).Elem())
			s.Cut = nil
			huge(t, reflect.ValueOf(s).Elem())
			checkCut(t, s, MaxStatusBytes, CapStatus, EncodeStatus, DecodeStatus, bareStatus, func(s *PlanStatus) *Cut { return s.Cut })
		})
	})
}

// An application with more objects than fit into a record: all of them are
// needed by the undo, and some sentences stay beside them.
func TestWhatTheUndoNeedsIsNeverCut(t *testing.T) {
	r := &Run{Steps: []Step{{Name: "restore", Message: strings.Repeat("y", 100_000)}, {Name: "start", Message: "it has started"}}}
	for range 1000 {
		r.Facts.Created = append(r.Facts.Created, Object{Side: Target, APIVersion: "v1", Kind: "ConfigMap", Namespace: "shop", Name: strings.Repeat("n", 50)})
	}
	data, err := CapRun(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRun(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Facts.Created) != 1000 || got.Steps[1].Message != r.Steps[1].Message {
		t.Errorf("%d objects, %q", len(got.Facts.Created), got.Steps[1].Message)
	}
	if c := got.Cut; c == nil || c.Over == "" || c.Messages != 1 || c.Bytes != 100_000-4096 || !strings.HasSuffix(got.Steps[0].Message, cutMark) {
		t.Errorf("%+v", c)
	}
	r.Steps[0].Message = ""
	if data, err = CapRun(r); err == nil {
		got, err = DecodeRun(data)
	}
	if err != nil || got.Cut == nil || got.Cut.Over == "" || got.Cut.Messages != 0 || got.Steps[1].Message != r.Steps[1].Message {
		t.Errorf("nothing but objects: %+v, %v", got.Cut, err)
	}
}

func TestWhatIsCut(t *testing.T) {
	now := metav1.NewMicroTime(time.Unix(1_767_225_600, 0).UTC())
	many := func(n int) (out []string) {
		for i := range n {
			out = append(out, strings.Repeat(string(rune('a'+i%26)), 100))
		}
		return out
	}
	for _, c := range []struct {
		name string
		run  Run
		want func(*Run) bool
		cut  Cut
	}{
		{"the longest text", Run{Steps: []Step{{Message: strings.Repeat("x", 70_000)}, {Message: strings.Repeat("y", 3000)}}},
			func(r *Run) bool {
				return len(r.Steps[0].Message) == 4096+len(cutMark) && len(r.Steps[1].Message) == 3000
			}, Cut{Messages: 1, Bytes: 70_000 - 4096}},
		{"between runes", Run{Status: RunStatus{Message: "x" + strings.Repeat("ü", 40_000)}},
			func(r *Run) bool { return utf8.ValidString(r.Status.Message) }, Cut{Messages: 1, Bytes: 80_001 - 4095}},
		{"the oldest warnings", Run{Status: RunStatus{Warnings: many(1000)}},
			func(r *Run) bool {
				return len(r.Status.Warnings) == 100 && r.Status.Warnings[99] == many(1000)[999]
			}, Cut{Entries: 900, Bytes: 90_000}},
		{"changes when it has ended", Run{Facts: Facts{Changes: make([]Change, 3000)}, Status: RunStatus{Ended: &now}},
			func(r *Run) bool { return len(r.Facts.Changes) == 100 }, Cut{Entries: 2900, Bytes: 2900 * len(`{"field":"","objects":null}`)}},
		{"no changes before", Run{Facts: Facts{Changes: make([]Change, 3000)}},
			func(r *Run) bool { return len(r.Facts.Changes) == 3000 }, Cut{Over: "larger than 65536 bytes: what is left is needed to go on or to undo"}},
	} {
		data, err := CapRun(&c.run)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeRun(data)
		if err != nil {
			t.Fatal(err)
		}
		if got.Cut == nil || *got.Cut != c.cut || !c.want(got) {
			t.Errorf("%s: %+v", c.name, got.Cut)
		}
	}
}
