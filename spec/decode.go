package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of what is read from Git. They keep a hostile or broken file from
// taking the daemon's memory or time; real documents are far below them.
const (
	MaxFileBytes     = 1 << 20 // of one file of documents
	MaxDocuments     = 1000    // in one file
	maxDepth         = 64      // of nested lists and mappings
	maxValues        = 20_000  // of one document, aliases expanded
	maxRecordBytes   = 32 << 20
	maxRecordValues  = 2_000_000
	maxProblems      = 100 // reported of one document
	maxQuoted        = 80  // bytes of a value that an error sentence repeats
	documentsAreHere = "this folder is only for Tranship documents (" + APIVersion + ")"
)

// File is one file of an accepted commit. Blob is its Git object ID and is
// only carried along, so that callers can skip files that did not change.
type File struct {
	Path string
	Blob string
	Data []byte
}

// Document is one YAML document of a File. Object is a *Cluster,
// *ReplicationRepository, *Hook or *MigrationPlan, and nil when the document
// has a problem. A document whose kind or name cannot be read has an empty
// Kind: it may hide any document; with a Name, it may hide the plan of that name
// (Shard.Divide). See Hides.
type Document struct {
	Kind, Name, File string
	Line             int // of the document's first field, from 1
	Object           any
	Problems         []Problem

	// Elsewhere: the plan of another shard. Only its name counts.
	Elsewhere bool

	partial any    // decoded as far as possible; only for finding references
	text    []byte // of this document
	offset  int    // lines of the file before text
}

// Decode reads every document of a file: strictly, so that an unknown field, a
// field that is written twice and a value of the wrong kind are problems, and
// all of them are found at once. A broken document does not hide its
// neighbours. The problems returned are those that the documents carry, in the
// order of the file; Assemble reports them again. Decode never panics.
func Decode(f File) ([]Document, []Problem) {
	docs := decodeAll(f)
	var problems []Problem
	for _, d := range docs {
		problems = append(problems, d.Problems...)
	}
	return docs, problems
}

func decodeAll(f File) []Document {
	if len(f.Data) > MaxFileBytes {
		return []Document{unreadable(f.Path, 1, fmt.Sprintf("the file has %d bytes, more than the %d that are read: split it", len(f.Data), MaxFileBytes))}
	}
	if !utf8.Valid(f.Data) {
		return []Document{unreadable(f.Path, 1, "the file is not UTF-8 text: save it as UTF-8, or move it out of this folder")}
	}
	chunks := split(f.Data)
	if len(chunks) > MaxDocuments {
		return []Document{unreadable(f.Path, 1, fmt.Sprintf("the file has %d documents, more than the %d that are read: split it", len(chunks), MaxDocuments))}
	}
	var docs []Document
	for _, c := range chunks {
		if d := decodeChunk(f.Path, c); d != nil {
			docs = append(docs, *d)
		}
	}
	return docs
}

// unreadable stands for whatever a file may hold that cannot be read.
func unreadable(file string, line int, message string) Document {
	return Document{File: file, Line: line, Problems: []Problem{{File: file, Line: line, Message: message}}}
}

// Hides says whether a problem may hide a plan: one of text whose kind or name
// cannot be read, which may hide any, or of a plan of that name. A plan that is
// missing from a commit must then not be taken for removed. The problems are those
// that belong to no plan.
func Hides(problems []Problem, plan string) bool { return len(Hiding(problems, plan)) > 0 }

// Hiding lists the problems that may hide a plan, at most five: more help nobody.
func Hiding(problems []Problem, plan string) (out []Problem) {
	for _, p := range problems {
		if len(out) < 5 && (p.Document == "" || p.Document == documentKey(KindMigrationPlan, plan)) {
			out = append(out, p)
		}
	}
	return out
}

type chunk struct {
	text   []byte
	offset int // lines before it
}

// split cuts a stream at its document markers, which YAML allows in the first
// column only. Each document is then parsed on its own: a syntax error in one
// does not take the others with it.
func split(data []byte) []chunk {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var chunks []chunk
	start, offset, line := 0, 0, 0
	for pos := 0; pos < len(data); line++ {
		end := bytes.IndexByte(data[pos:], '\n')
		if end < 0 {
			end = len(data)
		} else {
			end += pos + 1
		}
		if isMarker(data[pos:end]) && pos > start {
			chunks = append(chunks, chunk{text: data[start:pos], offset: offset})
			start, offset = pos, line
		}
		pos = end
	}
	return append(chunks, chunk{text: data[start:], offset: offset})
}

func isMarker(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("---")) {
		return false
	}
	return len(line) == 3 || bytes.IndexByte([]byte(" \t\r\n"), line[3]) >= 0
}

// decodeChunk returns nil for a document without content.
func decodeChunk(file string, c chunk) *Document {
	root, err := parse(c.text)
	if err != nil {
		return brokenDocument(file, c, err)
	}
	if root == nil {
		return nil
	}
	d := &Document{File: file, Line: root.Line + c.offset, text: c.text, offset: c.offset}
	h := readHead(root)
	if p := h.problem(); p != nil {
		d.add(root, p.Path, p.Message)
		d.name(p.Document)
		if p.Document != "" && newObject[h.kind] != nil {
			d.Kind, d.Name = h.kind, h.name
		}
		return d
	}
	d.Kind, d.Name = h.kind, h.name
	object := newObject[h.kind]()
	d.fill(root, object)
	d.partial = object
	if len(d.Problems) == 0 {
		d.Object = object
	}
	if h.name == "" { // a problem has said so; nobody knows which document this is
		d.Kind = ""
	}
	return d
}

// newObject makes an empty document of each kind that people write.
var newObject = map[string]func() any{
	KindCluster:               func() any { return &Cluster{} },
	KindReplicationRepository: func() any { return &ReplicationRepository{} },
	KindHook:                  func() any { return &Hook{} },
	KindMigrationPlan:         func() any { return &MigrationPlan{} },
}

func documentKey(kind, name string) string {
	if kind == "" || name == "" {
		return ""
	}
	return kind + "/" + name
}

// add records a problem at a field path. More than maxProblems of one document
// help nobody.
func (d *Document) add(root *yaml.Node, path, message string) {
	p := Problem{File: d.File, Line: d.Line, Path: path, Message: message}
	if root != nil {
		p.Line = lineOf(root, path) + d.offset
	}
	d.Problems = append(d.Problems, p)
}

func (d *Document) name(key string) {
	if len(d.Problems) > maxProblems {
		rest := len(d.Problems) - maxProblems
		d.Problems = append(d.Problems[:maxProblems:maxProblems],
			Problem{File: d.File, Line: d.Line, Message: fmt.Sprintf("and at least %d more problems in this document", rest)})
	}
	for i := range d.Problems {
		d.Problems[i].Document = key
	}
}

// LineOf is the line of the file on which a field is written, or the line of
// the nearest field around it when the path is not written out.
func (d *Document) LineOf(path string) int {
	root, err := parse(d.text)
	if err != nil || root == nil {
		return d.Line
	}
	return lineOf(root, path) + d.offset
}

// parse returns the root of one document, or nil when there is only white
// space and comments.
func parse(text []byte) (root *yaml.Node, err error) {
	// The parser turns its own panics into errors. A bug in it must not take
	// the daemon down with somebody's running cutover.
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, fmt.Errorf("yaml: the parser failed: %v", r)
		}
	}()
	var doc, next yaml.Node
	stream := yaml.NewDecoder(bytes.NewReader(text))
	if err := stream.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("yaml: line %d: another document follows this one: write a line \"---\" between them", max(1, doc.Line))
	}
	if doc.Kind == 0 || len(doc.Content) == 0 {
		return nil, nil
	}
	root = doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return nil, nil
	}
	if deeperThan(root, maxDepth) {
		return nil, fmt.Errorf("yaml: line %d: lists and mappings are nested deeper than %d levels", root.Line, maxDepth)
	}
	return root, nil
}

// deeperThan does not follow aliases: an alias is followed only into a field
// that exists, so the types bound its depth.
func deeperThan(n *yaml.Node, levels int) bool {
	if levels == 0 {
		return true
	}
	for _, c := range n.Content {
		if deeperThan(c, levels-1) {
			return true
		}
	}
	return false
}

var (
	yamlLine = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)
	headKind = regexp.MustCompile(`(?m)^kind:[ \t]*["']?([A-Za-z]+)["']?[ \t]*(?:#.*)?\r?$`)
	// metadata in one line, and in lines of its own: then its first field says how
	// far the others are indented.
	headFlow  = regexp.MustCompile(`(?m)^metadata:[ \t]*\{[ \t]*name:[ \t]*["']?([-a-z0-9.]+)["']?[ \t]*(?:\}|,|#|\r?$)`)
	headBlock = regexp.MustCompile(`(?m)^metadata:[ \t]*(?:#.*)?\r?\n((?:(?:[ \t].*|#.*)?\r?\n)+)`)
	headField = regexp.MustCompile(`(?m)^([ \t]+)[^ \t\r\n#]`)
	headName  = regexp.MustCompile(`(?m)^([ \t]+)name:[ \t]*["']?([-a-z0-9.]+)["']?[ \t]*(?:#.*)?\r?$`)
)

// legibleName is the name of a document that is no valid YAML, "" where the text
// does not say clearly which it is.
func legibleName(text []byte) string {
	text = append(slices.Clip(text), '\n')
	flow, block := headFlow.FindAllSubmatch(text, -1), headBlock.FindAllSubmatch(text, -1)
	if len(flow) == 1 && len(block) == 0 {
		return string(flow[0][1])
	}
	if len(flow) > 0 || len(block) != 1 {
		return ""
	}
	name, first := "", headField.FindSubmatch(block[0][1])
	for _, m := range headName.FindAllSubmatch(block[0][1], -1) {
		if !bytes.Equal(m[1], first[1]) {
			continue
		}
		if name != "" {
			return ""
		}
		name = string(m[2])
	}
	return name
}

// brokenDocument reports a syntax error. The head is usually still legible as
// text, and then only that document is held.
func brokenDocument(file string, c chunk, err error) *Document {
	line, message := 1, err.Error()
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		message = m[2]
		if m[1] != "" {
			_, _ = fmt.Sscanf(m[1], "%d", &line)
		}
	}
	d := unreadable(file, line+c.offset, "this is not valid YAML: "+message)
	kinds, name := headKind.FindAllSubmatch(c.text, -1), legibleName(c.text)
	if len(kinds) == 1 && name != "" && newObject[string(kinds[0][1])] != nil {
		d.Kind, d.Name = string(kinds[0][1]), name
	}
	d.name(documentKey(d.Kind, d.Name))
	return &d
}

// quote repeats a value of the user's in a sentence, cut to a sane length.
func quote(s string) string {
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}
