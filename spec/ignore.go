package spec

import (
	"path"
	"strings"
)

// IgnoreFile is the name of the files in a repository of plans that say, in
// the syntax of gitignore, which documents below their folder are not read.
const IgnoreFile = ".transhipignore"

// PatternProblem says what is wrong with a pattern in the syntax of gitignore,
// or "" for one that can be matched.
func PatternProblem(pattern string) string {
	plain := strings.Trim(strings.TrimPrefix(pattern, "!"), "/ ")
	switch {
	case plain == "" || strings.ContainsAny(pattern, "\r\n\x00"):
		return "this is no pattern: write one such as /examples/ or *.draft.yaml"
	case strings.HasPrefix(pattern, "#"):
		return `this is a comment: write \# for a name that begins with #`
	}
	for name := range strings.SplitSeq(plain, "/") {
		if _, err := path.Match(name, ""); err != nil {
			return quote(name) + " cannot be matched: close its bracket, or write a backslash in front of it"
		}
		if name != "**" && strings.Contains(name, "**") {
			return quote(name) + " cannot be matched: ** stands alone between slashes"
		}
	}
	return ""
}
