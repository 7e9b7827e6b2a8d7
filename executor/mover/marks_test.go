package mover

import (
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

func TestMarksReadBack(t *testing.T) {
	for _, text := range []string{"", "clean s1", "writing s1→s2", "writing -→s2", "live since 2026-12-01T10:00:00Z", "dirty"} {
		m, err := parseMark(text)
		if err != nil || m.String() != text {
			t.Errorf("%q became %q: %v", text, m, err)
		}
	}
	for _, text := range []string{"clean", "writing s1", "writing s1→", "live", "live s1", "lively", "CLEAN s1"} {
		if m, err := parseMark(text); err == nil {
			t.Errorf("%q was taken for %q", text, m)
		}
	}
}

// Every mark against every transition: what is not in the table is refused.
func TestMarkTransitions(t *testing.T) {
	marks := []mark{{}, {kind: spec.MarkClean, held: "s1"}, {kind: spec.MarkWriting, held: "s1", next: "s2"}, {kind: spec.MarkLive, since: "x"}, {kind: spec.MarkDirty}}
	now := time.Date(2026, 12, 1, 10, 0, 0, 0, time.UTC)
	moves := map[string]struct {
		do   func(mark) (mark, error)
		want []string // by mark; "-" is a refusal
	}{
		"writing s2": {func(m mark) (mark, error) { return m.writing("s2") }, []string{"writing -→s2", "writing s1→s2", "writing -→s2", "-", "writing -→s2"}},
		"written s2": {func(m mark) (mark, error) { return m.written("s2") }, []string{"-", "-", "clean s2", "-", "-"}},
		"written s3": {func(m mark) (mark, error) { return m.written("s3") }, []string{"-", "-", "-", "-", "-"}},
		"live s1":    {func(m mark) (mark, error) { return m.live("s1", now) }, []string{"-", "live since 2026-12-01T10:00:00Z", "-", "live since x", "-"}},
		"live s2":    {func(m mark) (mark, error) { return m.live("s2", now) }, []string{"-", "-", "-", "live since x", "-"}},
	}
	for name, c := range moves {
		for i, m := range marks {
			got, err := c.do(m)
			text := got.String()
			if err != nil {
				text = "-"
			}
			if text != c.want[i] {
				t.Errorf("%s on %q: %q, want %q", name, m, text, c.want[i])
			}
		}
	}
}
