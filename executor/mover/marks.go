package mover

import (
	"fmt"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A mark says what a claim on the target holds (safety property 13). It is
// written on the claim, and on its volume while that is between two claims:
//
//	clean S              it holds snapshot S completely
//	writing S→T          a Job is, or was, turning S into T
//	live since TIME      the application owns it; we never write to it
//	dirty                nothing may be assumed
//
// The moves between them are the only ones there are:
//
//	(none), clean, writing, dirty → writing → clean → live → dirty
//	writing → dirty
//	(none) → live, of a moved volume, which nobody copies
type mark struct {
	kind  spec.Mark
	held  string // clean: what it holds; writing: what it held before, "" if unknown
	next  string // writing: what it will hold
	since string // live
}

const unknownSnapshot = "-"

func (m mark) String() string {
	switch m.kind {
	case spec.MarkClean:
		return "clean " + m.held
	case spec.MarkWriting:
		held := m.held
		if held == "" {
			held = unknownSnapshot
		}
		return "writing " + held + "→" + m.next
	case spec.MarkLive:
		return "live since " + m.since
	}
	return string(m.kind)
}

// parseMark refuses what it does not know: an unknown mark may mean that the
// application owns the volume.
func parseMark(s string) (mark, error) {
	word, rest, _ := strings.Cut(s, " ")
	switch spec.Mark(word) {
	case spec.MarkNone:
		return mark{}, nil
	case spec.MarkDirty:
		return mark{kind: spec.MarkDirty}, nil
	case spec.MarkClean:
		if rest != "" {
			return mark{kind: spec.MarkClean, held: rest}, nil
		}
	case spec.MarkWriting:
		held, next, ok := strings.Cut(rest, "→")
		if held == unknownSnapshot {
			held = ""
		}
		if ok && next != "" {
			return mark{kind: spec.MarkWriting, held: held, next: next}, nil
		}
	case spec.MarkLive:
		if since, ok := strings.CutPrefix(rest, "since "); ok {
			return mark{kind: spec.MarkLive, since: since}, nil
		}
	}
	return mark{}, fmt.Errorf("its mark %q is not one that this version knows", s)
}

// markOf reads the mark of a claim or a volume.
func markOf(o metav1.Object) (mark, error) { return parseMark(o.GetAnnotations()[kube.AnnotationMark]) }

// holds says that the claim holds the snapshot completely.
func (m mark) holds(snapshot string) bool {
	return m.kind == spec.MarkClean && m.held == snapshot && snapshot != ""
}

// writing is the mark before a Job turns the claim into next, or an error if
// nothing may be written there.
func (m mark) writing(next string) (mark, error) {
	if m.kind == spec.MarkLive {
		return m, fmt.Errorf("it is marked %q: it belongs to the application", m)
	}
	held := ""
	if m.kind == spec.MarkClean {
		held = m.held
	}
	return mark{kind: spec.MarkWriting, held: held, next: next}, nil
}

// written is the mark after a Job reported that it made the claim equal to
// snapshot.
func (m mark) written(snapshot string) (mark, error) {
	if m.kind != spec.MarkWriting || m.next != snapshot {
		return m, fmt.Errorf("it is marked %q and not on the way to %s", m, snapshot)
	}
	return mark{kind: spec.MarkClean, held: snapshot}, nil
}

// arrived is the mark after a Job reported that it made the claim equal to a
// snapshot that was not known yet when the Job began, and was called next.
func (m mark) arrived(next, snapshot string) (mark, error) {
	if m.kind != spec.MarkWriting || m.next != next {
		return m, fmt.Errorf("it is marked %q and not on the way to %s", m, next)
	}
	return mark{kind: spec.MarkClean, held: snapshot}, nil
}

// live is the mark from before the first pod of the application may start.
func (m mark) live(snapshot string, now time.Time) (mark, error) {
	if m.kind == spec.MarkLive {
		return m, nil
	}
	if !m.holds(snapshot) {
		return m, fmt.Errorf("it is marked %q and does not hold snapshot %s completely", m, snapshot)
	}
	return mark{kind: spec.MarkLive, since: now.UTC().Format(time.RFC3339)}, nil
}

// trusted says that what the mark says about the content may be relied on;
// otherwise the next copy compares every file by content.
func (m mark) trusted() bool { return m.kind == spec.MarkNone || m.kind == spec.MarkClean }

// record copies the mark into the ledger's view of the volume.
func (m mark) record(v *spec.Volume) {
	v.Mark = m.kind
	v.Held = ""
	if m.kind == spec.MarkClean {
		v.Held = m.held
	}
}
