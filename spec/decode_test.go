package spec

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testdata/problems holds broken files and, beside each, every sentence that
// is said about it. The sentences are the product: read the diff.
func TestProblemsOfBrokenFiles(t *testing.T) {
	paths, err := fs.Glob(os.DirFS("testdata/problems"), "*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata/problems", path))
			if err != nil {
				t.Fatal(err)
			}
			docs, ps := Decode(File{Path: path, Data: data})
			var b strings.Builder
			for _, p := range ps {
				fmt.Fprintf(&b, "%s\n", p)
				if p.Document != "" {
					fmt.Fprintf(&b, "    of %s\n", p.Document)
				}
			}
			for _, d := range docs {
				fmt.Fprintf(&b, "line %d: %s %s, %d problems, decoded %v\n", d.Line, d.Kind, d.Name, len(d.Problems), d.Object != nil)
			}
			golden(t, filepath.Join("problems", strings.TrimSuffix(path, ".yaml")+".golden"), b.String())
		})
	}
}

func TestDecodeReadsEveryDocumentOfAFile(t *testing.T) {
	text := "# a file\n---\n" + parts(t) + "---\n# nothing\n---\n" + planYAML + "---\n"
	for _, data := range []string{text, strings.ReplaceAll(text, "\n", "\r\n"), "\ufeff" + text, strings.TrimSuffix(text, "---\n")} {
		docs, ps := Decode(File{Path: "all.yaml", Data: []byte(data)})
		if len(docs) != 5 || len(ps) != 0 {
			t.Fatalf("%d documents, problems %v", len(docs), ps)
		}
		got := docs[4]
		if p, ok := got.Object.(*MigrationPlan); !ok || p.Spec.Namespaces[1].Target() != "shop-data" || got.Kind != KindMigrationPlan || got.Name != "shop" {
			t.Errorf("read %+v", got)
		}
		want := 1 + strings.Count(text[:strings.Index(text, "kind: MigrationPlan")], "\n")
		if got.Line != want-1 || got.LineOf("spec.namespaces[1].targetName") != want+2 || got.LineOf("spec.stage.schedule") != want+2 || got.LineOf("kind") != want {
			t.Errorf("lines %d %d %d, want %d", got.Line, got.LineOf("spec.namespaces[1].targetName"), got.LineOf("kind"), want)
		}
	}
}

func TestDecodeOfNothing(t *testing.T) {
	for _, text := range []string{"", "\n\n", "# only a comment\n", "---\n---\n", "---\n# x\n...\n", "null\n", "\ufeff"} {
		if docs, ps := Decode(File{Data: []byte(text)}); len(docs) != 0 || len(ps) != 0 {
			t.Errorf("%q: %v %v", text, docs, ps)
		}
	}
}

// A document that may be a plan must never look like a removed plan.
func TestHides(t *testing.T) {
	for text, want := range map[string]bool{
		planYAML: false,
		strings.Replace(planYAML, "Staged", "staged", 1):                                                                            false, // held
		strings.Replace(planYAML, "spec: {", "spec: {{", 1):                                                                         false, // broken, but its head is legible
		"x: {{{\n" + strings.Replace(planYAML, "{name: shop}", "{name: shop, labels: {a: b}}", 1):                                   false,
		"x: {{{\n" + strings.Replace(planYAML, "{name: shop}", "# tells\n\n  labels: # of it\n    name: x\n  name: shop # here", 1): false,
		"x: {{{\n" + strings.Replace(planYAML, "{name: shop}", "\r\n  labels:\r\n    a: b\r\n  name: 'shop'\r", 1):                  false,
		"x: {{{\n" + strings.Replace(planYAML, "{name: shop}", "\n  labels: {a: b}\n  name: shop\n  name: web", 1):                  true,
		"x: {{{\n" + strings.Replace(planYAML, "{name: shop}", "\n  labels:\n    name: shop", 1):                                    true,
		"x: {{{\n" + strings.Replace(planYAML, "{name: shop}", "\n  labels:\n    a: b\n   name: shop", 1):                           true,
		"kind: MigrationPlan\nx: {{{\nmetadata:\n  name: shop":                                                                      false,
		strings.Replace(planYAML, "{name: shop}", "{nmae: shop}", 1):                                                                true,
		strings.Replace(planYAML, "{name: shop}", "{name: sh op", 1):                                                                true,
		strings.Replace(planYAML, "MigrationPlan", "MigratonPlan", 1):                                                               true,
		strings.Replace(planYAML, "kind: MigrationPlan\n", "", 1):                                                                   true,
		strings.Replace(planYAML, "tranship.dev/v1alpha1", "transhp.dev", 1):                                                        false,
		strings.Replace(planYAML, "v1alpha1", "v1", 1):                                                                              false,
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n":                                                            false,
		"- a\n- b\n": true,
		"\x00":       true,
		"\xff\xfe":   true,
		strings.Repeat("# x\n", MaxFileBytes/4+1): true,
	} {
		_, ps := Decode(File{Path: "x.yaml", Data: []byte(text)})
		if got := Hides(ps, "web"); got != want {
			t.Errorf("%.120q: hidden %v, problems\n%s", text, got, lines(ps))
		}
		if want == false && text != planYAML && len(ps) == 0 {
			t.Errorf("%q has no problem", text)
		}
	}
}

// Hostile files cost little time and get one clear sentence.
func TestHostileFilesAreRefusedQuickly(t *testing.T) {
	bomb := "apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: {name: shop}\nx: &a {name: x}\ny: &b [" + strings.Repeat("*a, ", 500) + "]\nspec:\n  namespaces: &c [" + strings.Repeat("*a, ", 21000) + "]\n"
	self := "apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: &m {name: shop, x: *m}\nspec: &s {state: Staged, stage: *s}\n"
	for name, tc := range map[string]struct{ text, say string }{
		"deep flow":   {strings.Repeat("[", 9000), "not valid YAML"},
		"deep closed": {"a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "nested deeper than 64"},
		"deep blocks": {deepBlocks(900), "nested deeper than 64"},
		"aliases":     {bomb, "too many values"},
		"self":        {self, "not known"},
		"documents":   {strings.Repeat("---\na: 1\n", MaxDocuments+1), "documents, more than"},
		"comments":    {strings.Repeat("# c\n", 100000) + "a: 1\n", "apiVersion is missing"},
		"many fields": {"apiVersion: tranship.dev/v1alpha1\nkind: Hook\nmetadata: {name: a}\nspec:\n" + manyFields(20000), "not known"},
		"one line":    {"a: '" + strings.Repeat("x", MaxFileBytes-10) + "'", "apiVersion is missing"},
		"bytes":       {strings.Repeat("x", MaxFileBytes+1), "more than the"},
		"anchors":     {manyAnchors(10000), "apiVersion is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, ps := Decode(File{Path: "x.yaml", Data: []byte(tc.text)})
			if len(ps) == 0 || len(ps) > maxProblems+1 || !strings.Contains(lines(ps), tc.say) {
				t.Errorf("%d problems: %.300s", len(ps), lines(ps))
			}
			if d := time.Since(began); d > 30*time.Second { // far above what it takes: machines may be busy
				t.Errorf("took %s", d)
			}
		})
	}
}

func deepBlocks(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  f%d: 1\n", i)
	}
	return b.String()
}

func manyAnchors(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d: &a%d {x: *a%d}\n", i, i, max(0, i-1))
	}
	return b.String()
}

// Anchors are fine where they save typing.
func TestAliasesMeanWhatTheyStandFor(t *testing.T) {
	text := with(t, planYAML, "spec.cutover", "{}")
	text = strings.Replace(text, "cutover: {}", "cutover: {timeout: &d 2h, copyTimeout: *d}", 1)
	docs, ps := Decode(File{Data: []byte(text)})
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	if c := docs[0].Object.(*MigrationPlan).Spec.Cutover; c.CopyTimeout.Duration != 2*time.Hour {
		t.Errorf("read %+v", c)
	}
}

// YAML 1.1 takes "no" for false and 0400 for 256; people mean what they write.
func TestScalarsAreTakenAsWritten(t *testing.T) {
	for value, want := range map[string]string{"no": "no", "0400": "0400", "1e3": "1e3", "true": "true", "2026-01-02": "2026-01-02", `"x"`: "x", "!!str 5": "5"} {
		docs, ps := Decode(File{Data: []byte(strings.Replace(hookYAML, "[/freeze]", "[x, "+value+"]", 1))})
		if len(ps) > 0 {
			t.Errorf("%s: %v", value, ps)
			continue
		}
		if got := docs[0].Object.(*Hook).Spec.Command[1]; got != want {
			t.Errorf("%s became %q", value, got)
		}
	}
}

func TestDecodeConfigFillsDefaults(t *testing.T) {
	c, ps := DecodeConfig("c.yaml", []byte(configYAML))
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	s := c.Spec
	if s.Ledger.URL != s.Source.URL || s.Source.Branch != "main" || s.Ledger.Branch != "tranship/ledger" || s.Namespace != "tranship-system" ||
		s.Interval.Duration != 30*time.Second || s.Ledger.BatchInterval.Duration != 5*time.Second || s.GitOutage.Duration != 3*time.Minute ||
		s.Limits != (Limits{10, 100, 100, 20, 10}) || s.Concurrency != 10 || s.ConcurrencyPerPair != 5 || s.Mover.HolderImage != s.Mover.Image {
		t.Errorf("defaults: %+v", s)
	}
	c, _ = DecodeConfig("c.yaml", []byte(with(t, configYAML, "spec.ledger", "{url: 'https://x/ledger.git'}", "spec.source.credentials", "{from: a}", "spec.limits", "{pods: 5, moversPerPlan: 7}")))
	if c.Spec.Ledger.Credentials != nil || c.Spec.Limits != (Limits{10, 5, 100, 20, 7}) {
		t.Errorf("a ledger of its own got the credentials of the source: %+v", c.Spec)
	}
	c, _ = DecodeConfig("c.yaml", []byte(with(t, configYAML, "spec.source.credentials", "{from: a}")))
	if c.Spec.Ledger.Credentials == nil || c.Spec.Ledger.Credentials.From != "a" {
		t.Errorf("a ledger in the source's repository needs its credentials: %+v", c.Spec.Ledger)
	}
}

func TestDecodeConfigRefusesOtherFiles(t *testing.T) {
	for text, say := range map[string]string{
		"": "empty", "# x": "empty", "a: [": "not valid YAML", "- a": "no format of Tranship",
		planYAML: "document of kind DaemonConfig", strings.Replace(configYAML, "v1alpha1", "v1beta1", 1): "newer than",
		configYAML + "...\nb: 1\n": "another document follows", string(bytes.Repeat([]byte("x"), MaxFileBytes+1)): "more than",
	} {
		c, ps := DecodeConfig("c.yaml", []byte(text))
		if c != nil || len(ps) != 1 || !strings.Contains(ps[0].Message, say) {
			t.Errorf("%.40q: %v %v", text, c, ps)
		}
	}
}
