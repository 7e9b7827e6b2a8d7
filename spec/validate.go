package spec

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// checker gathers what is wrong with one document.
type checker struct {
	add func(path, message string)
}

func (c checker) addf(path, format string, args ...any) { c.add(path, fmt.Sprintf(format, args...)) }

// fill decodes and validates a document into an object of its kind. A field
// that could not be decoded is not reported as missing on top.
func (d *Document) fill(root *yaml.Node, object any) {
	s := &strictDecoder{budget: maxValues, offset: d.offset}
	s.decode(root, object)
	for _, p := range s.problems {
		d.Problems = append(d.Problems, Problem{File: d.File, Line: p.line, Path: p.path, Message: p.message})
	}
	validate(d.Kind, object, func(path, message string) {
		if !slices.ContainsFunc(s.problems, func(f fault) bool { return !f.extra && within(path, f.path) }) {
			d.add(root, path, message)
		}
	})
	slices.SortStableFunc(d.Problems, compareProblems)
	d.name(documentKey(d.Kind, d.Name))
}

// compareProblems orders problems as a reader meets them.
func compareProblems(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
}

func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[' || outer == "")
}

func validate(kind string, object any, add func(path, message string)) {
	c := checker{add: add}
	walk(object, func(l leaf) { c.field(rules[kind][l.Pattern], l) })
	crossRules[kind](c, object)
}

// crossRules are the rules about several fields of one document.
var crossRules = map[string]func(checker, any){
	KindCluster:               func(c checker, o any) { c.cluster(&o.(*Cluster).Spec) },
	KindReplicationRepository: func(c checker, o any) { c.repository(&o.(*ReplicationRepository).Spec) },
	KindHook:                  func(c checker, o any) { c.hook(&o.(*Hook).Spec) },
	KindMigrationPlan:         func(c checker, o any) { c.plan(o.(*MigrationPlan)) },
	KindDaemonConfig:          func(c checker, o any) { c.config(&o.(*DaemonConfig).Spec) },
}

// field applies the rules about a single field.
func (c checker) field(r rule, l leaf) {
	if d, ok := l.Value.Interface().(*metav1.Duration); ok && d != nil && d.Duration <= 0 {
		c.addf(l.Path, "%s must be longer than zero, not %s", leafName(l.Path), d.Duration)
	}
	if v := l.Value; v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 {
		if r.need != "" {
			c.addf(l.Path, "%s is missing: write %s", leafName(l.Path), r.need)
		} else if strings.HasSuffix(l.Pattern, "[]") && (r.name != nil || r.enum != nil) {
			c.addf(l.Path, "%s is empty: write a value, or remove the entry", leafName(l.Path))
		}
		return
	}
	if l.Value.Kind() == reflect.String {
		c.text(l.Path, l.Value.String(), r)
	}
}

func (c checker) text(path, s string, r rule) {
	if r.enum != nil && !slices.Contains(r.enum, s) {
		c.addf(path, "%s %s is not known%s", leafName(path), quote(s), meant(s, r.enum))
	}
	if r.name != nil && (len(s) > r.name.max || !r.name.re.MatchString(s)) {
		c.addf(path, "%s must be %s, not %s", leafName(path), r.name.say, quote(s))
	}
}

// tls checks the pair of fields by which a self-signed endpoint is trusted (F-102).
func (c checker) tls(bundle string, insecure bool) {
	if bundle != "" && insecure {
		c.addf("spec.insecureSkipTLSVerify", "caBundle and insecureSkipTLSVerify exclude each other: keep caBundle, which is safe")
	}
	if bundle != "" {
		c.certificates("spec.caBundle", bundle)
	}
}

// certificates checks PEM text. CAM takes the bundle Base64-encoded (F-123),
// so that a copied one gets its own sentence.
func (c checker) certificates(path, text string) {
	if !strings.Contains(text, "-----BEGIN") {
		c.addf(path, "caBundle must be PEM text, which starts with -----BEGIN CERTIFICATE-----; if this is Base64 of it, decode it first (base64 -d)")
		return
	}
	rest := []byte(text)
	for n := 1; len(strings.TrimSpace(string(rest))) > 0; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			c.addf(path, "caBundle: what follows certificate %d is not PEM text: remove it, or repair its BEGIN and END lines", n-1)
			return
		}
		if block.Type != "CERTIFICATE" {
			c.addf(path, "caBundle holds a block %s: only certificates belong there, and a private key never belongs into Git", quote(block.Type))
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			c.addf(path, "caBundle: certificate %d cannot be read: %v", n, err)
			return
		}
	}
}

// https checks the URL of a service: TLS only, and nothing secret in it.
func (c checker) https(path, s, example string) *url.URL {
	u, err := url.Parse(s)
	name := leafName(path)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		c.addf(path, "%s must be a URL such as %s, not %s", name, example, quote(redactURL(s)))
		return nil
	case u.User != nil:
		c.addf(path, "%s must not hold a user or password: put them into a Secret", name)
	case u.Scheme != "https":
		c.addf(path, "%s must start with https://, such as %s, not %s", name, example, quote(s))
	case u.RawQuery != "" || u.Fragment != "":
		c.addf(path, "%s must end before '?' and '#', such as %s", name, example)
	}
	return u
}

// redactURL drops what may be a password: sentences go to logs and to Git.
func redactURL(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "...@" + s[i+1:]
	}
	return s
}
