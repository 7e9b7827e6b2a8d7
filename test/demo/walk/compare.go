package walk

import (
	"errors"
	"fmt"
	"time"
)

// Summary is what was compared.
type Summary struct {
	Entries int
	Bytes   int64
}

// Compare walks both folders and returns a sentence a difference, at most limit.
func Compare(source, target string, limit int) (Summary, []string, error) {
	type result struct {
		entries []Entry
		err     error
	}
	other := make(chan result, 1)
	go func() {
		entries, err := Tree(target)
		other <- result{entries, err}
	}()
	want, err := Tree(source)
	got := <-other
	if err := errors.Join(err, got.err); err != nil {
		return Summary{}, nil, err
	}
	var s Summary
	for _, e := range want {
		s.Entries++
		s.Bytes += e.Size
	}
	return s, Differences(want, got.entries, limit), nil
}

// Differences tells how got differs from want; both are sorted by path.
func Differences(want, got []Entry, limit int) []string {
	var out []string
	add := func(format string, args ...any) {
		if len(out) < limit {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	for len(want) > 0 || len(got) > 0 {
		switch {
		case len(got) == 0 || len(want) > 0 && want[0].Path < got[0].Path:
			add("%q is missing on the target", want[0].Path)
			want = want[1:]
		case len(want) == 0 || got[0].Path < want[0].Path:
			add("%q is on the target only", got[0].Path)
			got = got[1:]
		default:
			for _, d := range differ(want[0], got[0]) {
				add("%q: %s", want[0].Path, d)
			}
			want, got = want[1:], got[1:]
		}
	}
	return out
}

func differ(a, b Entry) []string {
	var out []string
	check := func(what string, a, b any) {
		if a != b {
			out = append(out, fmt.Sprintf("%s is %v on the source and %v on the target", what, a, b))
		}
	}
	check("mode", fmt.Sprintf("%o", a.Mode), fmt.Sprintf("%o", b.Mode))
	check("owner", a.UID, b.UID)
	check("group", a.GID, b.GID)
	check("size", a.Size, b.Size)
	check("mtime", stamp(a.MTime), stamp(b.MTime))
	check("device number", a.Rdev, b.Rdev)
	check("link target", a.Link, b.Link)
	check("attributes", a.Attrs, b.Attrs)
	check("SHA-256", a.SHA256, b.SHA256)
	return out
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }
