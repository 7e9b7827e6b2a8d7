package gitsource

import (
	"iter"
	"maps"
)

// maxEdits is how many edits a table keeps apart before it takes them in.
const maxEdits = 128

// table is a map of which an edited copy costs what was edited and not what it
// holds: a commit changes a few of ten thousand files, and a snapshot of each is kept. Once
// it was copied it must not change any more. Many may read it at once.
type table[V any] struct {
	base   map[string]V  // of all copies, where it is shared
	edits  map[string]*V // newer than base; nil: gone
	shared bool
}

func newTable[V any](m map[string]V) *table[V] { return &table[V]{base: m} }

func (t *table[V]) copy() *table[V] {
	out := &table[V]{base: t.base, edits: maps.Clone(t.edits), shared: true}
	if out.edits == nil {
		out.edits = map[string]*V{}
	}
	return out
}

// settled is the table for others to copy: with few edits, for each copy has them all,
// and those that were edited would be kept beside what they are now.
func (t *table[V]) settled() *table[V] {
	if len(t.edits) < maxEdits {
		return t
	}
	return newTable(maps.Collect(t.all()))
}

// get returns the zero value for what is not there.
func (t *table[V]) get(key string) V {
	v, _ := t.find(key)
	return v
}

func (t *table[V]) find(key string) (v V, there bool) {
	if edit, edited := t.edits[key]; edited {
		if edit == nil {
			return v, false
		}
		return *edit, true
	}
	v, there = t.base[key]
	return v, there
}

func (t *table[V]) set(key string, v V) {
	if t.shared {
		t.edits[key] = &v
		return
	}
	t.base[key] = v
}

func (t *table[V]) delete(key string) {
	if t.shared {
		t.edits[key] = nil
		return
	}
	delete(t.base, key)
}

// all goes through the table in no order.
func (t *table[V]) all() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for key, v := range t.base {
			if _, edited := t.edits[key]; !edited && !yield(key, v) {
				return
			}
		}
		for key, v := range t.edits {
			if v != nil && !yield(key, *v) {
				return
			}
		}
	}
}
