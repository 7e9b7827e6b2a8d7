package build

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestEnsureKeepsPrograms(t *testing.T) {
	source := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(source, "mod", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("go.mod", "module example.test/mod\n\ngo 1.24\n")
	put("main.go", "package main\n\nfunc main() {}\n")
	var reports int
	c := Cache{Dir: t.TempDir(), Source: source, Report: func(string) { reports++ }}
	m := Module{Dir: "mod", Programs: []string{"."}}

	first := ensure(t, c, m)
	if _, err := os.Stat(filepath.Join(first, "mod")); err != nil {
		t.Fatal(err)
	}
	built := reports
	if again := ensure(t, c, m); again != first || reports != built {
		t.Errorf("built again: %s, then %s", first, again)
	}
	put("main_test.go", "package main\n")
	if again := ensure(t, c, m); again != first {
		t.Error("a test file changed the key")
	}
	put("main.go", "package main\n\nfunc main() { println() }\n")
	if changed := ensure(t, c, m); changed == first {
		t.Error("a changed source has the same key")
	}
}

func ensure(t *testing.T, c Cache, m Module) string {
	t.Helper()
	dir, err := c.Ensure(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
