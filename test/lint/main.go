// Lint holds the house rules that no common linter knows: the import arrows
// cmd -> {gitsource, executor} -> reconciler -> spec, and the size budgets of
// CONTRIBUTING.md. It prints every breach as file:line and exits 1.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const module = "github.com/tranship/tranship/"

// arrows lists what a folder may import of ours; a longer prefix wins.
var arrows = map[string][]string{
	"spec":       {},
	"reconciler": {"spec"},
	"gitsource":  {"spec", "reconciler", "gitsource"},
	"executor":   {"spec", "reconciler", "executor"},
	"cmd":        {"spec", "reconciler", "gitsource", "executor", "cmd"},
	"test":       {"spec", "reconciler", "gitsource", "executor", "test"},
}

// pure folders may not reach the world: no client, no I/O. The shell of the
// core is named, file by file.
var (
	pure      = []string{"spec", "reconciler"}
	forbidden = []string{"net/http", "os", "os/exec", "k8s.io/client-go", "github.com/go-git/go-git", "github.com/kopia/kopia"}
)

const (
	maxFunction  = 60
	maxFile      = 400
	maxInterface = 4
	maxParams    = 4 // of a New function; beyond that a Config struct is wanted
)

type linter struct {
	fset     *token.FileSet
	breaches []string
}

func main() {
	l := &linter{fset: token.NewFileSet()}
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != root && (strings.HasPrefix(n, ".") || n == "build" || n == "testdata" || n == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, ".go") {
			return l.file(path)
		}
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(2)
	}
	for _, b := range l.breaches {
		fmt.Println(b)
	}
	if len(l.breaches) > 0 {
		os.Exit(1)
	}
}

func (l *linter) breach(pos token.Pos, format string, args ...any) {
	p := l.fset.Position(pos)
	l.breaches = append(l.breaches, fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, fmt.Sprintf(format, args...)))
}

func (l *linter) file(path string) error {
	f, err := parser.ParseFile(l.fset, path, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	test := strings.HasSuffix(path, "_test.go")
	if n := l.fset.Position(f.End()).Line; n > maxFile && !test {
		l.breach(f.Package, "the file has %d lines, %d are allowed: split it", n, maxFile)
	}
	l.imports(path, f, test)
	if test {
		return nil
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			l.function(fn)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if i, ok := n.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxInterface {
			l.breach(i.Pos(), "the interface has %d methods, %d are allowed", i.Methods.NumFields(), maxInterface)
		}
		return true
	})
	return nil
}

func (l *linter) imports(path string, f *ast.File, test bool) {
	folder, _, _ := strings.Cut(filepath.ToSlash(filepath.Clean(path)), "/")
	allowed, known := arrows[folder]
	for _, i := range f.Imports {
		name := strings.Trim(i.Path.Value, `"`)
		if own, ok := strings.CutPrefix(name, module); ok && known {
			to, _, _ := strings.Cut(own, "/")
			if !slices.Contains(allowed, to) {
				l.breach(i.Pos(), "%s may not import %s: arrows go cmd -> {gitsource, executor} -> reconciler -> spec", folder, to)
			}
		}
		if slices.Contains(pure, folder) && !test {
			for _, bad := range forbidden {
				if name == bad || strings.HasPrefix(name, bad+"/") {
					l.breach(i.Pos(), "%s is pure and may not import %s", folder, name)
				}
			}
		}
	}
}

func (l *linter) function(fn *ast.FuncDecl) {
	lines := l.fset.Position(fn.End()).Line - l.fset.Position(fn.Pos()).Line + 1
	if lines > maxFunction {
		l.breach(fn.Pos(), "func %s has %d lines, %d are allowed", fn.Name.Name, lines, maxFunction)
	}
	if fn.Name.Name == "init" && fn.Recv == nil {
		l.breach(fn.Pos(), "no init: wire things by hand in New or main")
	}
	if strings.HasPrefix(fn.Name.Name, "New") && fn.Type.Params.NumFields() > maxParams {
		l.breach(fn.Pos(), "%s takes %d arguments: take a Config struct", fn.Name.Name, fn.Type.Params.NumFields())
	}
	if fn.Name.IsExported() && fn.Doc == nil && (fn.Recv == nil || exportedReceiver(fn)) {
		l.breach(fn.Pos(), "func %s is exported and has no doc comment", fn.Name.Name)
	}
}

func exportedReceiver(fn *ast.FuncDecl) bool {
	t := fn.Recv.List[0].Type
	if s, ok := t.(*ast.StarExpr); ok {
		t = s.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}
