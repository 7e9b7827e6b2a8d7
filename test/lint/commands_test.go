package main

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestSentencesNameCommandsThatExist: whoever is told to run something can run it.
func TestSentencesNameCommandsThatExist(t *testing.T) {
	have, told := map[string]bool{}, map[string]string{}
	named := regexp.MustCompile("`tranship ([a-z][a-z-]*)")
	sources(t, func(path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				key, ok := n.Key.(*ast.Ident)
				if text, literal := n.Value.(*ast.BasicLit); ok && literal && key.Name == "Use" {
					name, _, _ := strings.Cut(strings.Trim(text.Value, `"`), " ")
					have[name] = true
				}
			case *ast.BasicLit:
				if n.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(n.Value)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range named.FindAllStringSubmatch(text, -1) {
					told[m[1]] = path
				}
			}
			return true
		})
	})
	if len(told) < 3 || !have["run"] {
		t.Fatalf("commands %v, told %v: look for another spelling", have, told)
	}
	for name, path := range told {
		if !have[name] {
			t.Errorf("%s tells people to run `tranship %s`, which does not exist", path, name)
		}
	}
}
