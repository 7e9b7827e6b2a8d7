package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSafetyNamesTestsThatExist reads docs/safety.md: a test that is renamed
// or removed must not leave a promise without its proof.
func TestSafetyNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../../docs/safety.md")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	define := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range define.FindAllStringSubmatch(string(text), -1) {
			have[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 13 {
		t.Fatalf("the page names %d tests", len(named))
	}
	for _, m := range named {
		if !have[m[1]] {
			t.Errorf("docs/safety.md names %s, which does not exist", m[1])
		}
	}
	for i, line := range strings.Split(string(page), "\n") {
		if strings.HasPrefix(line, "|") && regexp.MustCompile(`\|\s*\|`).MatchString(line) {
			t.Errorf("docs/safety.md:%d has an empty cell", i+1)
		}
	}
}
