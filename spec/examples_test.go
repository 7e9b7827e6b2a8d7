package spec

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// exampleFiles reads ../examples, the daemon's configuration apart.
func exampleFiles(t *testing.T) (files []File, config File) {
	t.Helper()
	root := os.DirFS("../examples")
	err := fs.WalkDir(root, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		data, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		if f := (File{Path: path, Data: data}); path == "daemon.yaml" {
			config = f
		} else {
			files = append(files, f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, config
}

func decodeFiles(files []File) (docs []Document) {
	for _, f := range files {
		d, _ := Decode(f)
		docs = append(docs, d...)
	}
	return docs
}

// Every example must load, validate and be supported, unless its plan's name
// begins with "later-".
func TestExamplesHoldNoProblem(t *testing.T) {
	files, config := exampleFiles(t)
	closures, problems, other, counts := Assemble(decodeFiles(files))
	for plan, ps := range problems {
		t.Errorf("plan %s: %v", plan, ps)
	}
	if len(other) > 0 {
		t.Errorf("other problems: %v", other)
	}
	if len(closures) < 3 || counts[KindCluster] < 2 || counts[KindReplicationRepository] < 1 || counts[KindHook] < 2 {
		t.Errorf("the examples have become thin: %v", counts)
	}
	for name, c := range closures {
		if ps := NotSupported(c); len(ps) > 0 && !strings.HasPrefix(name, "later-") {
			t.Errorf("plan %s is not supported: %v", name, ps)
		}
	}
	c, ps := DecodeConfig(config.Path, config.Data)
	if c == nil || len(ps) > 0 {
		t.Errorf("daemon.yaml: %v", ps)
	}
}
