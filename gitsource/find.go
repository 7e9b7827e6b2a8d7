package gitsource

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"
)

// span is a part of a text, by its bytes.
type span struct{ from, to int }

// index finds any of many patterns in a text in one pass. Patterns are known by
// their first eight bytes, which all of them have (minSecret).
type index struct {
	byStart map[uint64][]string // the longest first
	byHead  map[uint32][]string // by the first minHeld bytes
	shorter map[string]bool     // the beginnings with fewer
	longest int
}

func newIndex(patterns map[string]bool) *index {
	x := &index{byStart: make(map[uint64][]string, len(patterns)), byHead: make(map[uint32][]string, len(patterns)), shorter: map[string]bool{}}
	for p := range patterns {
		if len(p) < minSecret {
			continue
		}
		key := binary.LittleEndian.Uint64([]byte(p))
		x.byStart[key] = append(x.byStart[key], p)
		x.byHead[uint32(key)] = append(x.byHead[uint32(key)], p)
		for n := minHeld - 1; n > 0 && !x.shorter[p[:n]]; n-- {
			x.shorter[p[:n]] = true
		}
		x.longest = max(x.longest, len(p))
	}
	for _, list := range x.byStart {
		slices.SortFunc(list, func(a, b string) int { return len(b) - len(a) })
	}
	return x
}

// reach is how far back from its end a secret may begin, with room for line breaks
// and indentation.
func (x *index) reach() int { return 2*x.longest + 1024 }

// find adds every match in text to out; at says where its bytes came from, and
// nil means from where they are.
func (x *index) find(text []byte, at []int, out []span) []span {
	for i := 0; i+minSecret <= len(text); i++ {
		for _, p := range x.byStart[binary.LittleEndian.Uint64(text[i:])] {
			if len(text)-i < len(p) || string(text[i:i+len(p)]) != p {
				continue
			}
			s := span{i, i + len(p)}
			if at != nil {
				s = span{at[s.from], at[s.to-1] + 1}
			}
			out = append(out, s)
			break
		}
	}
	return out
}

// A fold takes out of a text what may stand inside a secret that was broken
// into lines. skip says how many bytes at the start of rest go.
type fold func(rest string) (skip int)

// folds are looked at one by one, because what is white space to one of them
// may be the secret's own to another.
var folds = []fold{
	func(rest string) int { // a line break
		return len(rest) - len(strings.TrimLeft(rest, "\r\n"))
	},
	func(rest string) int { // a line break with the next line's indentation
		if rest[0] != '\n' && rest[0] != '\r' {
			return 0
		}
		return len(rest) - len(strings.TrimLeft(rest, "\r\n\t "))
	},
	func(rest string) int { // a line break inside JSON
		if strings.HasPrefix(rest, `\n`) || strings.HasPrefix(rest, `\r`) {
			return 2
		}
		return len(rest) - len(strings.TrimLeft(rest, "\r\n"))
	},
}

// without applies a fold. at gives for each byte that stays where it was; nil
// when nothing went.
func without(f fold, s string) (kept []byte, at []int) {
	if !strings.ContainsAny(s, "\n\r\\") {
		return []byte(s), nil
	}
	kept, at = make([]byte, 0, len(s)), make([]int, 0, len(s))
	for i := 0; i < len(s); {
		if c := s[i]; c == '\n' || c == '\r' || c == '\\' {
			if n := f(s[i:]); n > 0 {
				i += n
				continue
			}
		}
		kept, at = append(kept, s[i]), append(at, i)
		i++
	}
	return kept, at
}

// spans are the secrets in s, in order and joined where they overlap.
func (x *index) spans(s string) []span {
	all := x.find([]byte(s), nil, nil)
	for _, f := range folds {
		if kept, at := without(f, s); at != nil {
			all = x.find(kept, at, all)
		}
	}
	slices.SortFunc(all, func(a, b span) int { return a.from - b.from })
	var out []span
	for _, a := range all {
		if n := len(out); n > 0 && a.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, a.to)
			continue
		}
		out = append(out, a)
	}
	return out
}

// begun is where the end of a text begins that could be the beginning of a
// pattern; len(s) when nothing could, or when it is a whole pattern already. No
// pattern that is whole is cut in two there.
func (x *index) begun(s string) int {
	if n := len(s) - x.reach(); n > 0 {
		return n + x.begun(s[n:])
	}
	from, end := len(s), len(s)
	for _, f := range folds {
		// The line break in JSON may be cut in two as well.
		for _, text := range []string{s, strings.TrimSuffix(s, `\`)} {
			kept, at := without(f, text)
			i := x.head(kept)
			if i < 0 {
				continue
			}
			last := len(kept)
			if at != nil {
				i, last = at[i], at[len(at)-1]+1
			}
			if i < from {
				from, end = i, last
			}
		}
	}
	for _, whole := range x.spans(s) {
		switch {
		case whole.from <= from && whole.to >= end:
			return len(s)
		case whole.from < from && from < whole.to:
			from = whole.from
		}
	}
	for from > 0 && from < len(s) && !utf8.RuneStart(s[from]) {
		from--
	}
	return from
}

// head is where the longest end of a text begins that is the beginning of a
// pattern; -1 where none is.
func (x *index) head(text []byte) int {
	for i := max(0, len(text)-x.longest+1); i < len(text); i++ {
		if i+minHeld > len(text) {
			if x.shorter[string(text[i:])] {
				return i
			}
			continue
		}
		for _, p := range x.byHead[binary.LittleEndian.Uint32(text[i:])] {
			if rest := text[i:]; len(p) > len(rest) && p[:len(rest)] == string(rest) {
				return i
			}
		}
	}
	return -1
}
