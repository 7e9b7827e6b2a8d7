package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sources calls see with every file of the product that is not a test's.
func sources(t *testing.T, see func(path string, f *ast.File)) {
	t.Helper()
	n := 0
	for _, top := range []string{"cmd", "executor", "gitsource", "reconciler", "spec"} {
		err := filepath.WalkDir(filepath.Join("../..", top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/gittest/") || strings.Contains(path, "/bedtest/") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err == nil {
				n++
				see(strings.TrimPrefix(path, "../../"), f)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 100 {
		t.Fatalf("only %d files were looked at", n)
	}
}

func imports(f *ast.File, path string) bool {
	return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"`+path+`"` })
}

// TestProductRunsNoProgram: neither a shell nor kubectl nor git is ever run, so
// that nothing that stands in Git or a cluster becomes part of a command line
// (CVE-2021-41254).
func TestProductRunsNoProgram(t *testing.T) {
	sources(t, func(path string, f *ast.File) {
		if imports(f, "os/exec") || imports(f, "plugin") {
			t.Errorf("%s runs programs", path)
		}
	})
}

// spread holds the files that may use a weak source of chance, for pauses only.
var spread = []string{"gitsource/config.go", "gitsource/flush.go"}

// TestChanceIsStrong: no key, name or token comes from a weak source.
func TestChanceIsStrong(t *testing.T) {
	sources(t, func(path string, f *ast.File) {
		if (imports(f, "math/rand") || imports(f, "math/rand/v2")) && !slices.Contains(spread, path) {
			t.Errorf("%s uses math/rand; only pauses may, in %v", path, spread)
		}
	})
}

// forbiddenCalls are ways to talk to a server without knowing it, or without an
// end.
var forbiddenCalls = map[string]string{
	"ssh.InsecureIgnoreHostKey": "host keys are always checked",
	"http.DefaultClient":        "it has no time limit, and is shared",
	"http.Get":                  "it has no time limit",
	"http.Post":                 "it has no time limit",
	"http.PostForm":             "it has no time limit",
}

func TestServersAreKnownAndCallsEnd(t *testing.T) {
	sources(t, func(path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok {
					if why, found := forbiddenCalls[x.Name+"."+s.Sel.Name]; found {
						t.Errorf("%s uses %s.%s: %s", path, x.Name, s.Sel.Name, why)
					}
				}
			}
			return true
		})
	})
}

// TestCertificatesAreSkippedOnlyByDocument: a server's certificate is believed
// unseen only where a ReplicationRepository asks for that by name (F-102, F-122).
func TestCertificatesAreSkippedOnlyByDocument(t *testing.T) {
	n := 0
	sources(t, func(path string, f *ast.File) {
		ast.Inspect(f, func(node ast.Node) bool {
			var value ast.Expr
			switch x := node.(type) {
			case *ast.KeyValueExpr:
				if k, ok := x.Key.(*ast.Ident); ok && k.Name == "InsecureSkipVerify" {
					value = x.Value
				}
			case *ast.AssignStmt:
				for i, l := range x.Lhs {
					if s, ok := l.(*ast.SelectorExpr); ok && (s.Sel.Name == "InsecureSkipVerify" || s.Sel.Name == "Insecure") {
						value = x.Rhs[min(i, len(x.Rhs)-1)]
					}
				}
			}
			if value == nil {
				return true
			}
			n++
			if s, ok := value.(*ast.SelectorExpr); !ok || s.Sel.Name != "InsecureSkipTLSVerify" {
				t.Errorf("%s skips certificates of a server that no document names", path)
			}
			return true
		})
	})
	if n == 0 {
		t.Fatal("no place was found; look for another spelling")
	}
}

// TestContainersOfOursAreConfined: each says what it may do, but for those of
// hooks, which are their authors'.
func TestContainersOfOursAreConfined(t *testing.T) {
	n := 0
	sources(t, func(path string, f *ast.File) {
		if strings.HasPrefix(path, "executor/hook/") {
			return
		}
		ast.Inspect(f, func(node ast.Node) bool {
			c, ok := node.(*ast.CompositeLit)
			if !ok {
				return true
			}
			containers := []ast.Expr{c}
			if list, ok := c.Type.(*ast.ArrayType); ok && named(list.Elt, "corev1", "Container") {
				containers = c.Elts
			} else if !named(c.Type, "corev1", "Container") {
				return true
			}
			for _, e := range containers {
				lit, ok := e.(*ast.CompositeLit)
				if !ok {
					continue // a variable, which is looked at where it is made
				}
				n++
				if !slices.ContainsFunc(lit.Elts, func(e ast.Expr) bool {
					kv, ok := e.(*ast.KeyValueExpr)
					return ok && kv.Key.(*ast.Ident).Name == "SecurityContext"
				}) {
					t.Errorf("%s makes a container without a SecurityContext", path)
				}
			}
			return true
		})
	})
	if n < 3 {
		t.Fatalf("only %d containers were found", n)
	}
}

func named(e ast.Expr, pkg, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg && s.Sel.Name == name
}
