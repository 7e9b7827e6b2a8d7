package gitsource

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// A table says what a map would, whatever was edited and copied, and no copy sees
// what was edited in another.
func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		key := rapid.StringMatching(`[a-d]{1,5}`)
		now, want := newTable(map[string]int{}), map[string]int{}
		type old struct {
			got  *table[int]
			want map[string]int
		}
		var kept []old
		for i := range rapid.IntRange(1, 400).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0:
				kept = append(kept, old{now, maps.Clone(want)})
				now = now.settled().copy()
			case 1:
				k := key.Draw(rt, "gone")
				now.delete(k)
				delete(want, k)
			default:
				k := key.Draw(rt, "key")
				now.set(k, i)
				want[k] = i
			}
			k := key.Draw(rt, "find")
			v, there := now.find(k)
			if w, is := want[k]; v != w || there != is || now.get(k) != w {
				rt.Fatalf("%s is %d %v, not %d %v", k, v, there, w, is)
			}
		}
		for _, o := range append(kept, old{now, want}) {
			if got := maps.Collect(o.got.all()); !maps.Equal(got, o.want) {
				rt.Fatalf("got %v, want %v", got, o.want)
			}
			n := 0
			for range o.got.all() {
				n++
			}
			if n != len(o.want) {
				rt.Fatalf("%d of %d", n, len(o.want))
			}
			for range o.got.all() {
				break
			}
		}
	})
}
