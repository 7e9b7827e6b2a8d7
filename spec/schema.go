package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Schema is the JSON Schema (draft 2020-12) of every document that people
// write, for editors and for CI. It is made from the types and from the table
// of rules. A document that it accepts may still have problems: rules about
// several fields are not in it.
func Schema() []byte {
	defs := map[string]any{}
	var alternatives []any
	for _, kind := range append(kinds(), KindDaemonConfig) {
		t := reflect.TypeFor[DaemonConfig]()
		if f := newObject[kind]; f != nil {
			t = reflect.TypeOf(f()).Elem()
		}
		s := schemaOf(t, rules[kind], "")
		properties := s["properties"].(map[string]any)
		properties["apiVersion"] = map[string]any{"const": APIVersion}
		properties["kind"] = map[string]any{"const": kind}
		s["required"] = slices.Compact(slices.Sorted(slices.Values(append(s["required"].([]string), "apiVersion", "kind", "spec"))))
		defs[kind] = s
		alternatives = append(alternatives, map[string]any{"$ref": "#/$defs/" + kind})
	}
	out, err := json.MarshalIndent(map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:tranship:" + APIVersion,
		"title": "Documents of Tranship, " + APIVersion, "oneOf": alternatives, "$defs": defs,
	}, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("spec: schema: %v", err)) // maps, lists and text only
	}
	return append(out, '\n')
}

// durationPattern is what time.ParseDuration reads, without a sign.
const durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`

var textSchemas = map[reflect.Type]map[string]any{
	reflect.TypeFor[metav1.Duration](): {"type": "string", "pattern": durationPattern},
	reflect.TypeFor[metav1.Time]():     {"type": "string", "format": "date-time"},
}

// schemaOf describes a type; table and pattern find the rules of its fields.
func schemaOf(t reflect.Type, table map[string]rule, pattern string) map[string]any {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s := textSchemas[t]; s != nil {
		return s
	}
	switch t.Kind() {
	case reflect.Struct:
		return objectSchema(t, table, pattern)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), table, pattern+"[]")}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), table, pattern)}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.String:
		return textSchema(table[pattern])
	}
	panic(fmt.Sprintf("spec: no schema for %s at %s", t, pattern)) // the golden test walks every type
}

func textSchema(r rule) map[string]any {
	// The decoder takes plain numbers and booleans for text, so that a bucket
	// may be called 2026. Editors may well ask for quotes.
	s := map[string]any{"type": "string"}
	if r.enum != nil {
		s["enum"] = r.enum
	}
	if r.name != nil {
		s["pattern"], s["maxLength"] = r.name.re.String(), r.name.max
	}
	if r.need != "" {
		s["minLength"] = 1
	}
	return s
}

func objectSchema(t reflect.Type, table map[string]rule, pattern string) map[string]any {
	properties, required := map[string]any{}, []string{}
	f := fieldsOf(t)
	for _, name := range f.inOrder {
		at := join(pattern, name)
		s := schemaOf(t.FieldByIndex(f.index[name]).Type, table, at)
		if s["type"] == "array" && table[at].need != "" {
			s["minItems"] = 1
		}
		properties[name] = s
		if table[at].need != "" || needsInside(t.FieldByIndex(f.index[name]).Type, table, at) {
			required = append(required, name)
		}
	}
	slices.Sort(required)
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties, "required": required}
}

// needsInside says whether an object must be there because a field of it must.
func needsInside(t reflect.Type, table map[string]rule, pattern string) bool {
	if t.Kind() != reflect.Struct || whole[t] {
		return false
	}
	for at, r := range table {
		if rest, ok := strings.CutPrefix(at, pattern+"."); ok && r.need != "" && !strings.ContainsAny(rest, ".[") {
			return true
		}
	}
	return false
}
