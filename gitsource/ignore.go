package gitsource

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"github.com/tranship/tranship/spec"
)

// Limits of what the ignore files of a commit may hold: every file of the
// commit is compared with every pattern.
const (
	maxIgnoreFile = 64 << 10 // bytes
	maxPatterns   = 1000
)

// ignoring says which documents are not read (ADR 36). Not safe for concurrent
// use; nil ignores nothing.
type ignoring struct {
	patterns []pattern // the last one that matches has the word
	folders  map[string]bool
	problems map[string][]spec.Document // of ignore files, by their path
}

// newIgnoring puts the patterns of a repository's ignore files, outer folders
// first, in front of those of the configuration.
func newIgnoring(files map[string][]byte, configured []string) *ignoring {
	g := &ignoring{folders: map[string]bool{}, problems: map[string][]spec.Document{}}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		g.add(file, files[file])
	}
	for _, line := range configured {
		g.patterns = append(g.patterns, parsePattern(line, nil))
	}
	return g
}

// refuse says why an ignore file, or a line of it, does not count. Like any file
// that cannot be read it keeps missing plans from being taken for removed ones.
func (g *ignoring) refuse(file string, line int, message string) {
	d := refused(file, message)
	d[0].Line, d[0].Problems[0].Line = line, line
	g.problems[file] = append(g.problems[file], d...)
}

func (g *ignoring) add(file string, data []byte) {
	if len(data) > maxIgnoreFile {
		g.refuse(file, 1, fmt.Sprintf("the file has %d bytes, more than the %d that are read, so that none of it counts: shorten it", len(data), maxIgnoreFile))
		return
	}
	domain := splitPath(path.Dir(file))
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) {
		n++
		text := strings.TrimRight(string(line), "\r\n")
		if strings.HasPrefix(text, "#") || strings.TrimSpace(text) == "" {
			continue
		}
		if problem := spec.PatternProblem(text); problem != "" {
			g.refuse(file, n, problem)
			continue
		}
		if len(g.patterns) == maxPatterns {
			g.refuse(file, n, fmt.Sprintf("this is the pattern after the first %d of the repository, which are all that count: write fewer", maxPatterns))
			return
		}
		g.patterns = append(g.patterns, parsePattern(text, domain))
	}
}

// ignores says that a file is not read. As with gitignore nothing in an ignored
// folder can be brought back.
func (g *ignoring) ignores(file string) bool {
	if g == nil || len(g.patterns) == 0 {
		return false
	}
	parts := strings.Split(file, "/")
	return g.folder(parts[:len(parts)-1]) || g.match(parts, false)
}

func (g *ignoring) folder(parts []string) bool {
	if len(parts) == 0 {
		return false
	}
	name := strings.Join(parts, "/")
	known, ok := g.folders[name]
	if !ok {
		known = g.folder(parts[:len(parts)-1]) || g.match(parts, true)
		g.folders[name] = known
	}
	return known
}

func (g *ignoring) match(parts []string, folder bool) bool {
	for _, p := range slices.Backward(g.patterns) {
		if m := p.match(parts, folder); m != gitignore.NoMatch {
			return m == gitignore.Exclude
		}
	}
	return false
}

// pattern is one of go-git's, which match whatever lies below what they name as
// well. gitignore asks of each folder by itself, so that is kept from them.
type pattern struct {
	gitignore.Pattern
	domain []string
	any    bool // it names no folder: only the last name counts
	names  int  // that a path has which it matches; 0: any number, for it has "**"
}

var negated = regexp.MustCompile(`(^|[^\\])\[!`)

func parsePattern(line string, domain []string) pattern {
	text := negated.ReplaceAllString(line, "$1[^") // go-git matches as package path does
	plain := strings.Trim(strings.TrimPrefix(text, "!"), " ")
	p := pattern{domain: domain}
	name := strings.TrimSuffix(plain, "/")
	for strings.HasPrefix(name, "**/") && !strings.Contains(name[3:], "/") {
		name, text = name[3:], strings.Replace(text, "**/", "", 1) // "**/x" is "x"
	}
	switch {
	case !strings.Contains(name, "/"):
		p.any = true
	case strings.HasSuffix(plain, "/**"):
		text = strings.TrimRight(text, " ") + "/*" // what lies in the folder, and not the folder
	case !strings.Contains(name, "**"):
		p.names = len(splitPath(name))
	}
	p.Pattern = gitignore.ParsePattern(text, nil)
	return p
}

func (p pattern) match(parts []string, folder bool) gitignore.MatchResult {
	if len(parts) <= len(p.domain) || !slices.Equal(parts[:len(p.domain)], p.domain) {
		return gitignore.NoMatch
	}
	below := parts[len(p.domain):]
	if p.any {
		below = below[len(below)-1:]
	}
	if p.names > 0 && len(below) != p.names {
		return gitignore.NoMatch
	}
	return p.Match(below, folder)
}

// ignoreFile says that an entry of a tree is one of spec.IgnoreFile.
func ignoreFile(c change) bool { return path.Base(c.path) == spec.IgnoreFile }

// ignoringOf reads the ignore files among the entries of a whole tree.
func (s *Source) ignoringOf(entries []change) (*ignoring, error) {
	files, links := map[string][]byte{}, []string{}
	for _, c := range entries {
		if !ignoreFile(c) || c.new.Hash.IsZero() {
			continue
		}
		if c.new.Mode == filemode.Symlink || c.new.Mode == filemode.Submodule {
			links = append(links, c.path)
			continue
		}
		n, err := s.store.size(c.new.Hash)
		if err != nil {
			return nil, err
		}
		if n > maxFile {
			files[c.path] = make([]byte, maxIgnoreFile+1) // add refuses it
			continue
		}
		if files[c.path], err = s.store.blob(c.new.Hash); err != nil {
			return nil, err
		}
	}
	g := newIgnoring(files, s.ignore)
	for _, file := range links {
		g.refuse(file, 1, "this is a link, which is not followed: put the file itself here")
	}
	return g, nil
}
