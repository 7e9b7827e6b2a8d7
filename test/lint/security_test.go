package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
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

// proofs are the files that compare what a caller sent with a secret, and how often
// they do that: by a function whose time does not depend on what is equal.
var proofs = map[string]map[string]int{
	"cmd/tranship/webhookformats.go": {"hmac.Equal": 1, "subtle.ConstantTimeCompare": 1},
	"cmd/tranship/server.go":         {"subtle.ConstantTimeCompare": 1},
}

// hasty are functions that compare, and end at the first difference.
var hasty = []string{"bytes.Equal", "bytes.Compare", "bytes.HasPrefix", "bytes.EqualFold", "bytes.Contains", "strings.Compare", "strings.EqualFold", "strings.HasPrefix", "strings.HasSuffix",
	"slices.Equal", "slices.Compare", "slices.Contains", "slices.Index", "reflect.DeepEqual", "maps.Equal", "cmp.Compare"}

// TestSecretsAreComparedInConstantTime: how long an answer takes says nothing about a
// signature, a token or a secret.
func TestSecretsAreComparedInConstantTime(t *testing.T) {
	for path, want := range proofs {
		f, err := parser.ParseFile(token.NewFileSet(), "../../"+path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		found, wrong := comparisons(f)
		for _, w := range wrong {
			t.Errorf("%s: %s: compare by hmac.Equal or subtle.ConstantTimeCompare", path, w)
		}
		if !maps.Equal(found, want) {
			t.Errorf("%s compares by %v, want %v: adjust the list, and look whether a secret is compared elsewhere", path, found, want)
		}
	}
	// A webhook's secret is not looked at anywhere else.
	sources(t, func(path string, f *ast.File) {
		if path != "cmd/tranship/webhooks.go" {
			return
		}
		uses, given := 0, 0
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "secret" {
				uses++
			}
			if c, ok := n.(*ast.CallExpr); ok && len(c.Args) > 0 {
				verify, ok1 := c.Fun.(*ast.SelectorExpr)
				secret, ok2 := c.Args[0].(*ast.SelectorExpr)
				if ok1 && ok2 && verify.Sel.Name == "verify" && secret.Sel.Name == "secret" {
					given++
				}
			}
			return true
		})
		if uses != 1 || given != 1 {
			t.Errorf("%s uses a webhook's secret %d times, %d of them to verify; want once, to verify", path, uses, given)
		}
	})
}

// comparisons are the calls of a file that compare in constant time, and everything
// that compares two values of which none is written in the source.
func comparisons(f *ast.File) (found map[string]int, wrong []string) {
	found = map[string]int{}
	plain := func(e ast.Expr) bool {
		switch e := e.(type) {
		case *ast.BasicLit:
			return true
		case *ast.Ident:
			return e.Name == "nil"
		}
		return false
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if (n.Op == token.EQL || n.Op == token.NEQ) && !plain(n.X) && !plain(n.Y) {
				wrong = append(wrong, "two values with "+n.Op.String())
			}
		case *ast.SwitchStmt:
			if n.Tag != nil {
				wrong = append(wrong, "a switch over a value")
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok {
				break
			}
			switch name := x.Name + "." + n.Sel.Name; {
			case slices.Contains(hasty, name):
				wrong = append(wrong, name)
			case x.Name == "subtle", name == "hmac.Equal":
				found[name]++
			}
		}
		return true
	})
	return found, wrong
}

// TestHastyComparisonsAreFound: what TestSecretsAreComparedInConstantTime looks for.
func TestHastyComparisonsAreFound(t *testing.T) {
	for body, want := range map[string]int{
		"return hmac.Equal(given, want)": 0, "return string(given) == string(want)": 1, "return !(given != want)": 1, "return bytes.Equal(given, want)": 1,
		"return slices.Equal(given, want)": 1, "switch given { case want: return true }": 1, "return err == nil && given != \"\"": 0,
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "", "package p\nfunc f() bool {\n"+body+"\n}", 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, wrong := comparisons(f); len(wrong) != want {
			t.Errorf("%s: %v", body, wrong)
		}
	}
}
