package spec

import (
	"fmt"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// leaf is one field of a document. Pattern is its path without indices, as
// tables name it: spec.namespaces[].name.
type leaf struct {
	Path, Pattern string
	Value         reflect.Value
}

// whole lists the struct types that tables treat as one field.
var whole = map[reflect.Type]bool{
	reflect.TypeFor[metav1.Duration]():      true,
	reflect.TypeFor[metav1.Time]():          true,
	reflect.TypeFor[metav1.MicroTime]():     true,
	reflect.TypeFor[metav1.LabelSelector](): true,
}

func isLeaf(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() != reflect.Struct && t.Kind() != reflect.Slice || whole[t]
}

// walk visits every field of a document, set or not, in the order of its type.
// Lists are visited once as a whole and once an entry; pointers to structs are
// entered when they are set.
func walk(object any, visit func(leaf)) {
	walkStruct(reflect.ValueOf(object).Elem(), "", "", visit)
}

func walkStruct(v reflect.Value, path, pattern string, visit func(leaf)) {
	f := fieldsOf(v.Type())
	for _, name := range f.inOrder {
		fv := v.FieldByIndex(f.index[name])
		walkValue(leaf{Path: join(path, name), Pattern: join(pattern, name), Value: fv}, visit)
	}
}

func walkValue(l leaf, visit func(leaf)) {
	visit(l)
	v := l.Value
	if isLeaf(v.Type()) {
		return
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if v.Kind() == reflect.Slice {
		for i := range v.Len() {
			walkValue(leaf{Path: fmt.Sprintf("%s[%d]", l.Path, i), Pattern: l.Pattern + "[]", Value: v.Index(i)}, visit)
		}
		return
	}
	walkStruct(v, l.Path, l.Pattern, visit)
}

// patterns lists every field that a type can hold, leaves only.
func patterns(t reflect.Type) []string {
	var out []string
	var visit func(t reflect.Type, pattern string)
	visit = func(t reflect.Type, pattern string) {
		if isLeaf(t) {
			out = append(out, strings.TrimPrefix(pattern, "."))
			return
		}
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() == reflect.Slice {
			visit(t.Elem(), pattern+"[]")
			return
		}
		f := fieldsOf(t)
		for _, name := range f.inOrder {
			visit(t.FieldByIndex(f.index[name]).Type, pattern+"."+name)
		}
	}
	visit(t, "")
	return out
}
