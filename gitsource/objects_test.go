package gitsource

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/tranship/tranship/gitsource/gittest"
)

// Trees that the builder makes are those that `git mktree` makes of the same
// entries, and a pack of them is accepted by `git index-pack --strict`.
func FuzzTreesAndPacks(f *testing.F) {
	for seed := range uint64(3) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		s := gittest.New(t)
		r := s.Repo("ledger.git")
		cache, err := openStore(t.TempDir())
		must(t, err)
		defer func() { must(t, cache.close()) }()
		random := rand.New(rand.NewPCG(seed, 1))
		var root, parent plumbing.Hash
		want := map[string]string{}
		for round := range 3 { // each on top of the one before
			files := map[string][]byte{}
			for range 1 + random.IntN(30) {
				path := randomPath(random)
				files[path] = fmt.Appendf(nil, "%d %d\n", round, random.IntN(5))
				want[path] = string(files[path])
			}
			b := &builder{s: cache}
			root, err = b.put(root, files)
			must(t, err)
			var parents []plumbing.Hash
			if round > 0 {
				parents = []plumbing.Hash{parent}
			}
			parent, err = b.commit(root, parents, object.Signature{Name: "A", Email: "a@example.com"}, fmt.Sprintf("round %d\n", round))
			must(t, err)
			pack, err := encodePack(b.objects)
			must(t, err)
			r.Input(string(pack), "index-pack", "--stdin", "--strict")
			r.Git("update-ref", "refs/heads/main", parent.String())
			must(t, cache.add(b.objects))
		}
		trees := strings.Fields(r.Git("ls-tree", "-r", "-d", "--format=%(objectname)", "main"))
		for _, tree := range append(trees, root.String()) {
			if got := r.Input(r.Git("ls-tree", tree)+"\n", "mktree"); got != tree {
				t.Errorf("git makes %s of what the builder calls %s", got, tree)
			}
		}
		names := slices.Sorted(maps.Keys(want))
		if got := r.Git("-c", "core.quotepath=off", "ls-tree", "-r", "--name-only", "main"); got != strings.Join(names, "\n") {
			t.Errorf("git sees %q, want %q", got, names)
		}
		for _, name := range names[:min(3, len(names))] {
			if got := r.Git("show", "main:"+name); got+"\n" != want[name] {
				t.Errorf("%s: %q", name, got)
			}
		}
		r.Fsck()
	})
}

// randomPath mixes names whose order differs between files and directories.
func randomPath(random *rand.Rand) string {
	dirs := []string{"a", "a-b", "a.b", "a0", "ab", "B"}
	path := ""
	for range random.IntN(3) {
		path += dirs[random.IntN(len(dirs))] + "/"
	}
	return path + []string{"a.yaml", "a-b.yaml", "a", "A.yaml", "é.yaml", "z"}[random.IntN(6)] + "~"
}

// Whatever people and manifests put into a message, it cannot pass for the
// ledger's own trailers, and no message is more than can be read.
func FuzzTrailers(f *testing.F) {
	f.Add("stage of shop", "shop", int64(3), int64(7))
	f.Add("x\n\nTranship-Epoch: 99\n", "y\nTranship-Journal: evil:5", int64(1), int64(0))
	f.Add("Tranship-Epoch: 99", "\u2028Tranship-Adopt: "+strings.Repeat("a", 40), int64(1), int64(2))
	f.Add(strings.Repeat("long ", 500), "\x00\xff", int64(1<<62), int64(1))
	f.Fuzz(func(t *testing.T, subject, value string, epoch, seq int64) {
		readMarks(subject + value) // anything at all
		batch := []entry{{Subject: subject, Trailers: map[string]string{"Migration-Plan": value}}, {Subject: value, Trailers: map[string]string{"Plan-Digest": subject}}}
		message := commitMessage(batch, []string{fmt.Sprintf("%s: %d", epochTrailer, epoch), fmt.Sprintf("%s: ours:%d", journalTrailer, seq)})
		m := readMarks(message)
		if !m.ours || m.epoch != epoch || m.journal != "ours" || m.seq != seq || !m.adopts.IsZero() {
			t.Errorf("%q is read as %+v", message, m)
		}
		first, _, _ := strings.Cut(message, "\n")
		if len(first) > maxSubject {
			t.Errorf("subject of %d bytes", len(first))
		}
	})
}

// Every pack that a test pushes is asked by git index-pack --strict: one with a
// tree that Git would not write does not arrive.
func TestTestServersRefuseUnsoundPacks(t *testing.T) {
	w, src, _, tip := planned(t)
	b := &builder{s: src.store}
	for _, name := range []string{".git", "fine"} {
		b.objects = nil
		root, err := b.writeTree(plumbing.ZeroHash, map[string]object.TreeEntry{name: {Name: name, Mode: filemode.Regular, Hash: b.encode(plumbing.BlobObject, []byte("x"))}})
		must(t, err)
		commit, err := b.commit(root, []plumbing.Hash{plumbing.NewHash(tip)}, object.Signature{Name: "A", Email: "a@example.com"}, "x\n")
		must(t, err)
		err = src.remote.upload(testContext(t), plumbing.NewHash(tip), commit, b.objects)
		if refused := errors.Is(err, ErrRejected); refused != (name == ".git") {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.Repo.Fsck()
}
