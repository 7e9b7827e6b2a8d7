package gitsource

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tranship/tranship/gitsource/gittest"
)

const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// entry is one of a tree as Git stores it.
func treeEntry(mode, name, hash string) string {
	raw, err := hex.DecodeString(hash)
	if err != nil {
		panic(err) // of the test's own text
	}
	return mode + " " + name + "\x00" + string(raw)
}

// What git fsck refuses is refused by its path, wherever it lies, and what was
// accepted before stays.
func TestTreesThatGitRefuses(t *testing.T) {
	w, src, _, tip := planned(t)
	r := w.Repo
	blob := r.Git("rev-parse", "main:plans/shop.yaml")
	file := func(name string) string { return treeEntry("100644", name, blob) }
	dir := func(name string) string { return treeEntry("40000", name, emptyTree) }
	r.Input("", "hash-object", "-t", "tree", "-w", "--stdin")
	cases := map[string]struct{ tree, says string }{
		"dot":            {file("."), `"plans/.": this name leaves`},
		"dot dot":        {dir(".."), `"plans/..": this name leaves`},
		"slash":          {file("../x.yaml"), `"plans/../x.yaml": this name has a slash`},
		"line break":     {file("a\nb.yaml"), `"plans/a\nb.yaml": this name has a control`},
		"escape":         {file("a\x1b[2J.yaml"), `this name has a control`},
		"git":            {dir(".git"), `"plans/.git": this name stands for Git's`},
		"case":           {dir(".GiT"), `stands for Git's`},
		"HFS+":           {dir(".g\u200cit"), `"plans/.g\u200cit": this name stands for Git's`},
		"NTFS dots":      {dir(".git. ."), `stands for Git's`},
		"NTFS stream":    {dir(".git::$INDEX_ALLOCATION"), `stands for Git's`},
		"NTFS short":     {dir("GIT~1"), `stands for Git's`},
		"NTFS backslash": {file(`.git\config`), `stands for Git's`},
		"twice":          {file("a.yaml") + file("a.yaml"), `"plans/a.yaml": this name comes twice`},
		"file and dir":   {file("a") + file("a.yaml") + dir("a"), `"plans/a": this name comes twice`},
		"order":          {file("b.yaml") + file("a.yaml"), `"plans/a.yaml": this name is not in Git's order`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			defer r.Git("update-ref", "refs/heads/main", tip)
			commitTree(r, r.Input(r.Git("ls-tree", tip, "common.yaml")+"\n040000 tree "+r.OddTree(c.tree)+"\tplans\n", "mktree"))
			_, err := src.Read(testContext(t), tip)
			if !errors.Is(err, ErrBadTree) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
	if d := read(t, src, tip); len(d.Closures) != 2 {
		t.Errorf("%+v", d)
	}
}

// Names that only look like those are read.
func TestTreesThatLookOdd(t *testing.T) {
	w, src, _, tip := planned(t)
	for _, name := range []string{".gitignore", ".gitx.yaml", "git~2.yaml", "...yaml", "a b.yaml", "é.yaml", "a/.yaml", "a.b", "a-b/c", "a0"} {
		w.Write("odd/"+name, "x: 1")
	}
	w.Push("odd")
	if d := read(t, src, tip); len(d.Closures) != 2 || d.Other[0].File != "odd/...yaml" {
		t.Errorf("%+v", d.Other)
	}
}

// nested is a tree in so many folders.
func nested(r *gittest.Repo, inner string, folders int) string {
	for range folders {
		inner = r.Input("040000 tree "+inner+"\td\n", "mktree")
	}
	return inner
}

func commitTree(r *gittest.Repo, tree string) {
	r.Git("update-ref", "refs/heads/main", r.Git("commit-tree", "-p", "main", "-m", "trees", tree))
}

func TestFoldersInFolders(t *testing.T) {
	w, src, _, tip := planned(t)
	r := w.Repo
	root := r.Git("rev-parse", "main^{tree}")
	commitTree(r, nested(r, root, maxDepth-1)) // plans/ is one more
	if d := read(t, src, tip); len(d.Closures) != 2 {
		t.Errorf("%d folders: %+v", maxDepth, d)
	}
	commitTree(r, nested(r, root, maxDepth))
	if _, err := src.Read(testContext(t), tip); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), `d/d/plans/": it lies in more than 32 folders`) {
		t.Errorf("got %v", err)
	}
}

// A few objects that stand for a hundred million folders, without any file.
func TestTreeBomb(t *testing.T) {
	w, src, _, tip := planned(t)
	r := w.Repo
	level := r.Input("", "mktree")
	for range 8 {
		var b strings.Builder
		for i := range 10 {
			fmt.Fprintf(&b, "040000 tree %s\t%d\n", level, i)
		}
		level = r.Input(b.String(), "mktree")
	}
	commitTree(r, r.Input("040000 tree "+level+"\tbomb\n", "mktree"))
	if _, err := src.Read(testContext(t), tip); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), `cannot read folder "bomb/`) {
		t.Errorf("got %v", err)
	}
}

// docs/git.md says 50,000 files.
func TestSoManyFilesAreRead(t *testing.T) {
	w, src, _, tip := planned(t)
	r := w.Repo
	blob := r.Git("rev-parse", "main:README.md")
	full := func(files int) { // in folders of 1,000
		root := r.Git("ls-tree", tip) + "\n"
		for at := 0; at < files; at += 1000 {
			var b strings.Builder
			for i := range min(1000, files-at) {
				fmt.Fprintf(&b, "100644 blob %s\tf%d\n", blob, i)
			}
			root += "040000 tree " + r.Input(b.String(), "mktree") + fmt.Sprintf("\tx%d\n", at)
		}
		commitTree(r, r.Input(root, "mktree"))
	}
	full(maxEntries - 4) // with the four that are there
	if d := read(t, src, tip); len(d.Closures) != 2 {
		t.Errorf("%+v", d)
	}
	full(maxEntries - 3)
	if _, err := src.Read(testContext(t), tip); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "more than 50000 files") {
		t.Errorf("got %v", err)
	}
}
