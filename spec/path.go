package spec

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Field paths are written as in Kubernetes: spec.namespaces[0].name, and
// spec.labelSelector.matchLabels[app.kubernetes.io/name] for keys of a map.

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// leafName is the last field of a path, for sentences.
func leafName(path string) string {
	if path == "" {
		return "the document"
	}
	if i := strings.LastIndexByte(path, '.'); i >= 0 && !strings.HasSuffix(path, "]") {
		return path[i+1:]
	}
	return path
}

func place(path string) string {
	if path == "" {
		return "the document"
	}
	return path
}

// segments cuts a path: fields stay as they are, "[x]" keeps its bracket.
func segments(path string) []string {
	var out []string
	for path != "" {
		if path[0] == '[' {
			end := strings.IndexByte(path, ']')
			if end < 0 {
				return out
			}
			out, path = append(out, path[:end]), strings.TrimPrefix(path[end+1:], ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			return append(out, path)
		}
		out = append(out, path[:end])
		path = strings.TrimPrefix(path[end:], ".")
	}
	return out
}

// lineOf is the line on which a path is written. Where it is not, the line of
// the innermost field around it that is.
func lineOf(root *yaml.Node, path string) int {
	n, line := resolve(root), root.Line
	for _, seg := range segments(path) {
		name, bracket := strings.CutPrefix(seg, "[")
		var at, next *yaml.Node
		if n.Kind == yaml.SequenceNode && bracket {
			if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(n.Content) {
				at, next = n.Content[i], n.Content[i]
			}
		} else {
			at, next = entry(n, name)
		}
		if at == nil {
			return line
		}
		line, n = at.Line, resolve(next)
	}
	return line
}

// entry finds a key of a mapping, and nothing in anything else.
func entry(n *yaml.Node, name string) (key, value *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := resolve(n.Content[i]); k.Kind == yaml.ScalarNode && k.Value == name {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

func field(n *yaml.Node, name string) *yaml.Node {
	_, v := entry(n, name)
	if v == nil {
		return nil
	}
	return resolve(v)
}

// scalarField is the text of a field, or "" when it is missing, null, or no text.
func scalarField(n *yaml.Node, name string) string {
	v := field(n, name)
	if v == nil || v.Kind != yaml.ScalarNode || v.ShortTag() == "!!null" {
		return ""
	}
	return v.Value
}
