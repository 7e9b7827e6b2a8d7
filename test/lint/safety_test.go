package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSafetyNamesTestsThatExist reads the pages that promise something: a test
// that is renamed or removed must not leave a promise without its proof.
func TestSafetyNamesTestsThatExist(t *testing.T) {
	have, skipped := map[string]bool{}, map[string]bool{}
	define := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	// What only a machine without a hurry runs. (The engine's long asks for -short.)
	skips := regexp.MustCompile(`(?ms)^func (Test\w+)\([^)]*\) \{\n(?:\tif os.Getenv\("TRANSHIP_LONG"\) == ""|\tlong\(t\)$)`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range define.FindAllStringSubmatch(string(text), -1) {
			have[m[1]] = true
		}
		if filepath.Base(filepath.Dir(path)) == "engine" {
			return err
		}
		for _, m := range skips.FindAllStringSubmatch(string(text), -1) {
			skipped[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(skipped) < 3 {
		t.Fatalf("only %v are found to be skipped", skipped)
	}
	for _, page := range []string{"safety.md", "security.md", "git.md"} {
		text, err := os.ReadFile("../../docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`( \\(long\\))?").FindAllStringSubmatch(string(text), -1)
		if len(named) < 13 {
			t.Fatalf("%s names %d tests", page, len(named))
		}
		for _, m := range named {
			if !have[m[1]] {
				t.Errorf("docs/%s names %s, which does not exist", page, m[1])
			}
			if skipped[m[1]] != (m[2] != "") {
				t.Errorf("docs/%s names %s, and make test skips it: %t; (long) must say so", page, m[1], skipped[m[1]])
			}
		}
		for i, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(line, "|") && regexp.MustCompile(`\|\s*\|`).MatchString(line) {
				t.Errorf("docs/%s:%d has an empty cell", page, i+1)
			}
		}
	}
}
