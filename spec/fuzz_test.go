package spec

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// Whatever is merged, Decode answers: with documents or problems, each with a
// file, a sentence and a line inside the file.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"", planYAML, clusterYAML, repositoryYAML, hookYAML, "a: &a [*a]", "--- ---\n", "? ?", "a: !!binary x", "%YAML 1.2\n---\n", "\"\\ud800\""} {
		f.Add([]byte(seed))
	}
	for _, path := range []string{"testdata/problems/typos.yaml", "testdata/problems/syntax.yaml", "testdata/problems/foreign.yaml", "testdata/v1alpha1/documents.yaml"} {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, problems := Decode(File{Path: "x.yaml", Data: data})
		last := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + bytes.Count(data, []byte("\u0085")) + bytes.Count(data, []byte("\u2028")) + bytes.Count(data, []byte("\u2029")) + 2
		for _, p := range problems {
			if p.File != "x.yaml" || p.Message == "" || p.Line < 1 || p.Line > last {
				t.Errorf("bad problem %+v of %d lines", p, last)
			}
		}
		for _, d := range docs {
			if (d.Object != nil) != (len(d.Problems) == 0) || d.Object != nil && (d.Kind == "" || d.Name == "") {
				t.Errorf("document %s %q: object %v, problems %v", d.Kind, d.Name, d.Object, d.Problems)
			}
		}
		closures, _, _, _ := Assemble(docs)
		for _, c := range closures {
			c.Digest()
			NotSupported(c)
		}
	})
}

func FuzzDecodeConfig(f *testing.F) {
	f.Add([]byte(configYAML))
	f.Add([]byte("kind: DaemonConfig"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, ps := DecodeConfig("c.yaml", data); (c != nil) != (len(ps) == 0) {
			t.Errorf("config %v, problems %v", c, ps)
		}
	})
}

// A record that is read can be written, and is then the same for ever.
func FuzzDecodeRun(f *testing.F) {
	data, err := os.ReadFile("testdata/v1alpha1/run.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRun(data)
		if err != nil {
			return
		}
		first, err := EncodeRun(r)
		if err != nil {
			t.Skip(err) // years that JSON cannot write
		}
		again, err := DecodeRun(first)
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		if second, err := EncodeRun(again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%v\n%s\nbecame\n%s", err, first, second)
		}
	})
}

// So it is with a status; and a record of any size can be cut to its own.
func FuzzDecodeStatus(f *testing.F) {
	for _, name := range []string{"status.yaml", "status-unapproved.yaml"} {
		data, err := os.ReadFile("testdata/v1alpha1/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := DecodeStatus(data)
		if err != nil {
			return
		}
		first, err := EncodeStatus(s)
		if err != nil {
			t.Skip(err) // years that JSON cannot write
		}
		again, err := DecodeStatus(first)
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		if second, err := EncodeStatus(again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%v\n%s\nbecame\n%s", err, first, second)
		}
		cut, err := CapStatus(s)
		if err != nil || len(first) <= MaxStatusBytes && !bytes.Equal(cut, first) {
			t.Fatalf("cut: %v", err)
		}
		if _, err := DecodeStatus(cut); err != nil {
			t.Errorf("%v\n%s", err, cut)
		}
	})
}

func FuzzParseSchedule(f *testing.F) {
	for _, seed := range []string{"0 1 * * *", "*/5 */2 1-7 jan mon", "TZ=0", "0 0 29 2 ?", "@daily"} {
		f.Add(seed, "Europe/Berlin", int64(1774746000))
	}
	f.Fuzz(func(t *testing.T, expr, zone string, unix int64) {
		s, err := ParseSchedule(expr, zone)
		if err != nil {
			return
		}
		from := time.Unix(unix%4e9, 0)
		if next := s.Next(from); !next.After(from) {
			t.Errorf("%s after %s: %s", s, from, next)
		}
	})
}
