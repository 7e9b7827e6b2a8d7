package gitsource

import (
	"cmp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// Limits of the folders of a commit.
const (
	maxDepth  = 32      // folders in one another
	maxWalked = 200_000 // files and folders, each as often as it is met: a few objects may stand for any number
)

// folder reads a tree, whose path ends in a slash, and refuses what git fsck does:
// Git would write no such tree, and every reader takes it for something else.
func (s *store) folder(path string, h plumbing.Hash) ([]object.TreeEntry, error) {
	entries, err := s.tree(h)
	if err != nil {
		return nil, err
	}
	if strings.Count(path, "/") > maxDepth {
		return nil, fail(ErrTooBig, nil, "cannot read folder %q: it lies in more than %d folders; move it up", oneLine(path, 200), maxDepth)
	}
	for i, e := range entries {
		why := wrongName(e.Name)
		switch {
		case why != "":
		case i > 0 && sortKey(entries[i-1]) == sortKey(e), e.Mode == filemode.Dir && fileCalled(entries[:i], e.Name):
			why = "comes twice"
		case i > 0 && sortKey(entries[i-1]) > sortKey(e):
			why = "is not in Git's order"
		default:
			continue
		}
		return nil, fail(ErrBadTree, nil, "cannot read %q: this name %s, which no Git program writes; ask who pushed it, take it out of the branch and its history, and run `tranship acknowledge`", cut(path+e.Name), why)
	}
	return entries, nil
}

// cut shortens a path that is quoted, so that nothing of it is made plain.
func cut(path string) string {
	if len(path) > 200 {
		return path[:200] + "…"
	}
	return path
}

// fileCalled says whether sorted entries have a file of that name.
func fileCalled(entries []object.TreeEntry, name string) bool {
	_, found := slices.BinarySearchFunc(entries, name, func(e object.TreeEntry, name string) int { return cmp.Compare(sortKey(e), name) })
	return found
}

// wrongName says what is wrong with an entry's name, or "".
func wrongName(name string) string {
	switch {
	case name == "." || name == "..":
		return "leaves its folder"
	case strings.Contains(name, "/"):
		return "has a slash in it"
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "has a control character in it"
	case isGitFolder(name):
		return "stands for Git's own folder on some system"
	}
	return ""
}

// isGitFolder knows .git as HFS+ and NTFS do: whatever the case, with characters
// that HFS+ ignores, with dots, blanks or a stream behind it, and by its short name.
func isGitFolder(name string) bool {
	plain := strings.ToLower(strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name))
	if i := strings.IndexAny(plain, `:\`); i >= 0 {
		plain = plain[:i]
	}
	plain = strings.TrimRight(plain, " .")
	return plain == ".git" || plain == "git~1"
}
