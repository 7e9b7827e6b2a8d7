package gitsource

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
)

// parts are a value without surrounding white space and what of it stands for
// itself: the words of a value of several lines (keys, kubeconfigs), and the
// texts in a JSON document (the credentials of registries).
func parts(v []byte) []string {
	whole := strings.TrimSpace(string(v))
	if len(whole) < minSecret {
		return nil
	}
	out := []string{whole}
	var doc any
	if strings.HasPrefix(whole, "{") && json.Unmarshal([]byte(whole), &doc) == nil {
		return append(out, leaves(doc)...)
	}
	if !strings.Contains(whole, "\n") {
		return out
	}
	for _, word := range strings.FieldsFunc(whole, func(r rune) bool { return strings.ContainsRune(" \t\r\n\"',", r) }) {
		if len(word) >= 24 {
			out = append(out, word)
		}
	}
	return out
}

func leaves(doc any) []string {
	var out []string
	switch x := doc.(type) {
	case string:
		if x = strings.TrimSpace(x); WorthRedacting([]byte(x)) {
			out = append(out, x)
		}
	case []any:
		for _, y := range x {
			out = append(out, leaves(y)...)
		}
	case map[string]any:
		for _, y := range x {
			out = append(out, leaves(y)...)
		}
	}
	return out
}

// spellings lists how a value may be written, apart from line breaks in it.
func spellings(v string) []string {
	forms := append(quoted(v), escaped(v)...)
	forms = append(forms, hex.EncodeToString([]byte(v)), strings.ToUpper(hex.EncodeToString([]byte(v))),
		base64.StdEncoding.EncodeToString([]byte(v)), base64.URLEncoding.EncodeToString([]byte(v)))
	// Inside something longer, such as base64(user:password), a value starts at
	// one of three places of a base64 group. Only the characters that depend on
	// the value alone are looked for.
	for shift, skip := range []int{0, 2, 3} {
		padded := append(make([]byte, shift), v...)
		end := len(padded) * 8 / 6
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			forms = append(forms, enc.EncodeToString(padded)[skip:end])
		}
	}
	return forms
}

// escaped are the spellings in URLs and in JSON, also in JSON inside JSON. YAML's
// double quotes and those of programs that print text follow the same rules.
func escaped(v string) []string {
	query := url.QueryEscape(v)
	forms := []string{url.PathEscape(v), query, strings.ReplaceAll(query, "+", "%20")}
	for _, f := range forms {
		forms = append(forms, lowerHex(f))
	}
	for _, html := range []bool{true, false} {
		once := jsonText(v, html)
		forms = append(forms, once, strings.ReplaceAll(once, "/", `\/`), jsonText(once, html))
	}
	return forms
}

func jsonText(v string, html bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(html)
	if e.Encode(v) != nil { // a text always has a JSON form
		return v
	}
	s := strings.TrimSuffix(b.String(), "\n")
	return s[1 : len(s)-1]
}

// lowerHex writes %3A as %3a.
func lowerHex(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '%' && i+2 < len(b) {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// quoted are the spellings between the quotes of shells and YAML.
func quoted(v string) []string {
	var back, double strings.Builder
	for _, r := range v {
		if strings.ContainsRune("\\\"$`", r) {
			double.WriteByte('\\')
		}
		if strings.ContainsRune(" \\\"'$`!&|;()<>*?[]{}~#^", r) {
			back.WriteByte('\\')
		}
		double.WriteRune(r)
		back.WriteRune(r)
	}
	return []string{v, double.String(), back.String(), strings.ReplaceAll(v, "'", "''"), strings.ReplaceAll(v, "'", `'\''`), strings.ReplaceAll(v, "'", `'"'"'`)}
}
