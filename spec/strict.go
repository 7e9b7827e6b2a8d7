package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// strictDecoder fills a value from a YAML tree and finds every problem on the
// way, each with its line. It stands in for a decoder over encoding/json,
// because that one matches field names without regard to case, stops at the
// first wrong type, knows no lines, and reads YAML 1.1 ("no" is false there).
type strictDecoder struct {
	problems []fault
	offset   int  // lines of the file before the tree
	budget   int  // values left
	null     bool // records: null means the zero value, and "<<" is a key like others
}

type fault struct {
	line          int
	path, message string
	extra         bool // about something that should not be there at all
}

func (s *strictDecoder) decode(root *yaml.Node, object any) {
	s.value(root, "", reflect.ValueOf(object).Elem())
}

// full ends the search: a document with so many problems is another thing
// altogether, and looking for what each field may have meant takes time.
func (s *strictDecoder) full() bool { return len(s.problems) > maxProblems }

func (s *strictDecoder) fail(n *yaml.Node, path, format string, args ...any) {
	s.problems = append(s.problems, fault{line: n.Line + s.offset, path: path, message: fmt.Sprintf(format, args...)})
}

// surplus reports what has no field to go to.
func (s *strictDecoder) surplus(n *yaml.Node, path, format string, args ...any) {
	s.fail(n, path, format, args...)
	s.problems[len(s.problems)-1].extra = true
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			return n
		}
		n = n.Alias
	}
	return n
}

var plainTags = map[string]bool{
	"": true, "!!str": true, "!!int": true, "!!float": true, "!!bool": true, "!!null": true,
	"!!map": true, "!!seq": true, "!!timestamp": true, "!!merge": true,
}

func (s *strictDecoder) value(n *yaml.Node, path string, v reflect.Value) {
	n = resolve(n)
	if s.budget--; s.budget <= 0 {
		if s.budget == 0 {
			s.fail(n, "", "the document has too many values, once its aliases (*name) are expanded: write fewer of them")
		}
		return
	}
	if !plainTags[n.ShortTag()] {
		s.fail(n, path, "the tag %s is not understood: write the value without it", quote(n.Tag))
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		if !s.null {
			s.fail(n, path, "%s has no value: write one, or remove the field", leafName(path))
		}
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		s.text(n, path, u)
		return
	}
	s.byKind(n, path, v)
}

func (s *strictDecoder) byKind(n *yaml.Node, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		s.object(n, path, v)
	case reflect.Slice:
		s.list(n, path, v)
	case reflect.Map:
		s.mapping(n, path, v)
	case reflect.String:
		s.str(n, path, v)
	case reflect.Bool:
		s.boolean(n, path, v)
	case reflect.Int, reflect.Int32, reflect.Int64:
		s.integer(n, path, v)
	case reflect.Float64:
		s.float(n, path, v)
	default: // a new field of a kind that nobody has taught the decoder
		s.fail(n, path, "%s cannot be set in a document", leafName(path))
	}
}

var nodeKinds = map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list"}

// found names what stands where something else should.
func found(n *yaml.Node) string {
	if k, ok := nodeKinds[n.Kind]; ok {
		return k
	}
	return quote(n.Value)
}

// scalar is true when n is one value and not a list or mapping.
func (s *strictDecoder) scalar(n *yaml.Node, path, want string) bool {
	if n.Kind != yaml.ScalarNode {
		s.fail(n, path, "%s must be %s, not %s", leafName(path), want, found(n))
		return false
	}
	return true
}

// text hands a scalar to a type that reads itself: times and durations.
func (s *strictDecoder) text(n *yaml.Node, path string, u json.Unmarshaler) {
	want := "a value"
	switch u.(type) {
	case *metav1.Duration:
		want = "a duration such as 30s, 10m or 1h30m"
	case *metav1.Time, *metav1.MicroTime:
		want = "a time such as 2026-12-01T10:00:00Z or 2026-12-01T11:00:00+01:00"
	}
	if !s.scalar(n, path, want) {
		return
	}
	quoted, err := json.Marshal(n.Value)
	if err == nil {
		err = u.UnmarshalJSON(quoted)
	}
	if err != nil {
		s.fail(n, path, "%s must be %s, not %s", leafName(path), want, quote(n.Value))
	}
}

// str takes plain numbers and booleans as they are written: a bucket may be
// called 2026 or true.
func (s *strictDecoder) str(n *yaml.Node, path string, v reflect.Value) {
	if s.scalar(n, path, "text") {
		v.SetString(n.Value)
	}
}

func (s *strictDecoder) boolean(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
		s.fail(n, path, "%s must be true or false, not %s", leafName(path), found(n))
		return
	}
	v.SetBool(strings.EqualFold(n.Value, "true"))
}

func (s *strictDecoder) integer(n *yaml.Node, path string, v reflect.Value) {
	i, err := strconv.ParseInt(n.Value, 10, v.Type().Bits())
	if err != nil || n.ShortTag() != "!!int" {
		s.fail(n, path, "%s must be a whole number, not %s", leafName(path), found(n))
		return
	}
	v.SetInt(i)
}

func (s *strictDecoder) float(n *yaml.Node, path string, v reflect.Value) {
	f, err := strconv.ParseFloat(n.Value, 64)
	if err != nil {
		s.fail(n, path, "%s must be a number, not %s", leafName(path), found(n))
		return
	}
	v.SetFloat(f)
}

func (s *strictDecoder) list(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		s.fail(n, path, "%s must be a list, not %s: write each entry on a line of its own behind \"- \"", leafName(path), found(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, min(len(n.Content), 64))
	for i, c := range n.Content {
		item := reflect.New(v.Type().Elem()).Elem()
		s.value(c, fmt.Sprintf("%s[%d]", path, i), item)
		out = reflect.Append(out, item)
		if s.budget <= 0 || s.full() {
			break
		}
	}
	v.Set(out)
}

func (s *strictDecoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	s.fields(n, path, func(key string, k, c *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		s.value(c, fmt.Sprintf("%s[%s]", path, key), item)
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), item)
	})
}

func (s *strictDecoder) object(n *yaml.Node, path string, v reflect.Value) {
	known := fieldsOf(v.Type())
	s.fields(n, path, func(key string, k, c *yaml.Node) {
		index, ok := known.index[key]
		if !ok {
			s.surplus(k, join(path, key), "field %s is not known in %s%s", quote(key), place(path), strings.Replace(meant(key, known.names), ": write ", ", which takes ", 1))
			return
		}
		s.value(c, join(path, key), v.FieldByIndex(index))
	})
}

// fields visits the entries of a mapping and reports those written twice.
func (s *strictDecoder) fields(n *yaml.Node, path string, visit func(key string, k, c *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		s.fail(n, path, "%s must be a mapping of fields, not %s", place(path), found(n))
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content) && !s.full(); i += 2 {
		k := resolve(n.Content[i])
		if k.Kind != yaml.ScalarNode {
			s.surplus(n.Content[i], path, "the name of a field in %s must be text, not %s", place(path), found(k))
			continue
		}
		if k.ShortTag() == "!!merge" && !s.null {
			s.surplus(k, path, "merge keys (<<) are not understood: write the fields of %s out", place(path))
			continue
		}
		if line, twice := first[k.Value]; twice {
			s.surplus(k, join(path, k.Value), "field %s is written twice in %s, first on line %d: remove one of them", quote(k.Value), place(path), line+s.offset)
			continue
		}
		first[k.Value] = k.Line
		visit(k.Value, k, n.Content[i+1])
	}
}

// structFields are the JSON names of a struct's fields, embedded ones included.
type structFields struct {
	names   []string // sorted
	inOrder []string // as declared
	index   map[string][]int
}

var fieldCache sync.Map // reflect.Type -> *structFields

func fieldsOf(t reflect.Type) *structFields {
	if f, ok := fieldCache.Load(t); ok {
		return f.(*structFields)
	}
	f := &structFields{index: map[string][]int{}}
	for _, sf := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if sf.Anonymous && name == "" || name == "-" || !sf.IsExported() {
			continue
		}
		f.inOrder = append(f.inOrder, name)
		f.index[name] = sf.Index
	}
	f.names = slices.Sorted(slices.Values(f.inOrder))
	fieldCache.Store(t, f)
	return f
}
