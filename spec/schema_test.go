package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestSchemaIsWrittenDown(t *testing.T) {
	golden(t, "schema.json", string(Schema()))
}

// The schema accepts every example and every base document, and refuses a
// document with an unknown field, a missing one, or a wrong word.
func TestSchemaAgreesWithTheDecoder(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	check := func(text string) error {
		var doc map[string]any
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			return err
		}
		s, ok := root["$defs"].(map[string]any)[fmt.Sprint(doc["kind"])].(map[string]any)
		if !ok {
			return fmt.Errorf("no kind %v", doc["kind"])
		}
		return conforms(doc, s, "")
	}
	files, config := exampleFiles(t)
	for _, f := range append(append(files, config), goldenDocuments(t)...) {
		for _, c := range split(f.Data) {
			if root, _ := parse(c.text); root == nil {
				continue
			}
			if err := check(string(c.text)); err != nil {
				t.Errorf("%s:%d: %v", f.Path, c.offset, err)
			}
		}
	}
	for _, tc := range rightCases {
		if err := check(with(t, baseYAML[tc.kind], tc.sets...)); err != nil {
			t.Errorf("%v: %v", tc.sets, err)
		}
	}
	for kind, sets := range map[string][]string{KindCluster: {"spec.tokne", "{from: x}"}, KindMigrationPlan: {"spec.state", "-"}, KindHook: {"spec", "-"},
		KindReplicationRepository: {"spec.provider", "s3"}, KindDaemonConfig: {"spec.source", "{}"}} {
		if check(with(t, baseYAML[kind], sets...)) == nil {
			t.Errorf("%s with %v conforms", kind, sets)
		}
	}
}

// conforms checks the few words of JSON Schema that Schema uses.
func conforms(v any, s map[string]any, path string) error {
	if c, ok := s["const"]; ok && c != v {
		return fmt.Errorf("%s: %v is not %v", path, v, c)
	}
	switch s["type"] {
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: %v is no object", path, v)
		}
		properties, _ := s["properties"].(map[string]any)
		required, _ := s["required"].([]any)
		for _, r := range required {
			if _, ok := m[r.(string)]; !ok {
				return fmt.Errorf("%s: %v is missing", path, r)
			}
		}
		for k, item := range m {
			sub, ok := properties[k].(map[string]any)
			if !ok {
				sub, ok = s["additionalProperties"].(map[string]any)
			}
			if !ok {
				return fmt.Errorf("%s: unknown field %s", path, k)
			}
			if err := conforms(item, sub, path+"."+k); err != nil {
				return err
			}
		}
	case "array":
		l, ok := v.([]any)
		if least, _ := s["minItems"].(float64); !ok || len(l) < int(least) {
			return fmt.Errorf("%s: %v is no such list", path, v)
		}
		for i, item := range l {
			if err := conforms(item, s["items"].(map[string]any), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case "string":
		text, ok := v.(string)
		enum, _ := s["enum"].([]any)
		pattern, _ := s["pattern"].(string)
		if !ok || enum != nil && !slices.Contains(enum, any(text)) || !regexp.MustCompile(pattern).MatchString(text) {
			return fmt.Errorf("%s: %v is no such text", path, v)
		}
	case "boolean":
		if reflect.ValueOf(v).Kind() != reflect.Bool {
			return fmt.Errorf("%s: %v is no boolean", path, v)
		}
	case "integer":
		if f, ok := v.(float64); !ok || f != float64(int64(f)) {
			return fmt.Errorf("%s: %v is no integer", path, v)
		}
	}
	return nil
}
