package gitsource

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// huge puts a file of so many zeros into a commit; Git keeps it small.
func huge(t *testing.T, r *gittest.Repo, bytes int64) {
	t.Helper()
	zeros := filepath.Join(t.TempDir(), "zeros")
	must(t, os.WriteFile(zeros, nil, 0o600))
	must(t, os.Truncate(zeros, bytes))
	blob := r.Git("hash-object", "-w", zeros)
	commitTree(r, r.Input(r.Git("ls-tree", "main")+"\n100644 blob "+blob+"\tzeros.yaml\n", "mktree"))
}

// A gigabyte in a pack of one megabyte is refused by what it says of its size.
func TestHugeFileInASmallPack(t *testing.T) {
	w, src, _, tip := planned(t)
	huge(t, w.Repo, 1<<30)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := src.Read(testContext(t), tip)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "a file of 1073741824 bytes") {
		t.Errorf("got %v", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%d bytes were taken from memory to find that out", grown)
	}
	nothingIsLeft(t, src)
}

// nothingIsLeft of packs that were refused: each poll would leave one more.
func nothingIsLeft(t *testing.T, src *Source) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(src.store.dir, "objects", "pack", "tmp_*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A file below that limit is not read either, and what is beside it is.
func TestLargeFileIsRefusedByItself(t *testing.T) {
	w, src, _, tip := planned(t)
	huge(t, w.Repo, maxObject)
	d := read(t, src, tip)
	if len(d.Closures) != 2 || len(d.Other) != 1 || !strings.Contains(d.Other[0].String(), "zeros.yaml:1: the file has 33554432 bytes") {
		t.Errorf("%v", d.Other)
	}
}

// A pack of more than 256 MiB is refused.
func TestPackThatIsTooBig(t *testing.T) {
	w, src, _, tip := planned(t)
	r := w.Repo
	for _, quick := range []string{"core.compression", "pack.compression", "pack.window"} {
		r.Git("config", quick, "0")
	}
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 30<<20)
	root := r.Git("ls-tree", tip) + "\n"
	for i := range maxPack/len(data) + 1 {
		_, _ = random.Read(data) // it never fails
		root += "100644 blob " + r.Input(string(data), "hash-object", "-w", "--stdin") + fmt.Sprintf("\tz%d\n", i)
	}
	commitTree(r, r.Input(root, "mktree"))
	if _, err := src.Read(testContext(t), tip); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
	nothingIsLeft(t, src)
}

// A delta says in its own first bytes how large the object is that it makes.
func TestDeltasAreWeighed(t *testing.T) {
	for text, want := range map[string]int64{"": -1, "\x80": -1, "\x05": -1, "\x05\x07": 7, "\xff\x01\x80\x80\x80\x80\x04rest": 1 << 30} {
		var d deltaHead
		for i := range len(text) {
			_, err := d.Write([]byte{text[i]})
			must(t, err)
		}
		if got := d.target(); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	w, src, _, tip := planned(t)
	lines := make([]string, 20_000)
	for i := range lines {
		lines[i] = fmt.Sprint("# ", i)
	}
	w.Write("big.txt", strings.Join(lines, "\n")).Commit("base")
	w.Write("big.txt", strings.Join(slices.Insert(lines, 9, "# more"), "\n")).Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Push("delta")
	w.Repo.Git("repack", "-q", "-a", "-d", "-f")
	if n := w.Repo.Git("cat-file", "--batch-all-objects", "--batch-check=%(deltabase)"); strings.Count(n, strings.Repeat("0", 40)) == strings.Count(n, "\n")+1 {
		t.Fatal("the server has no delta")
	}
	expect(t, read(t, src, tip), "base: ; delta: shop=Migrated/1")
}

// Objects of all lengths that their heads tell apart arrive as they were, and one
// that is given twice is sent once.
func TestPacksOfAnySize(t *testing.T) {
	r := gittest.New(t).Repo("ledger.git")
	b := &builder{}
	want := map[string]string{}
	for _, size := range []int{0, 1, 15, 16, 2047, 2048, 1<<18 - 1, 1 << 18, 300_000} {
		text := strings.Repeat("x", size)
		want[b.encode(plumbing.BlobObject, []byte(text)).String()] = text
	}
	n := len(b.objects)
	pack, err := encodePack(append(b.objects, b.objects...))
	must(t, err)
	if got := binary.BigEndian.Uint32(pack[8:]); int(got) != n {
		t.Errorf("%d objects, want %d", got, n)
	}
	r.Input(string(pack), "index-pack", "--stdin", "--strict")
	for name, text := range want {
		if got := r.Git("cat-file", "blob", name); got != text {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(text))
		}
	}
}
