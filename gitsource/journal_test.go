package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func journalWith(t *testing.T, n int) (*journal, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal", "main.jsonl")
	j, err := openJournal(path)
	must(t, err)
	for i := range n {
		must(t, j.append(entry{Subject: fmt.Sprint(i), Files: map[string]string{"status/x.yaml": "line\nline"}}))
	}
	return j, path
}

func subjects(j *journal) string {
	var out []string
	for _, e := range j.entries {
		out = append(out, e.Subject)
	}
	return strings.Join(out, " ")
}

// Every cut of the file keeps all lines before the cut, and writing goes on.
func TestTornJournalLine(t *testing.T) {
	j, path := journalWith(t, 3)
	must(t, j.close())
	whole, err := os.ReadFile(path)
	must(t, err)
	header := bytes.IndexByte(whole, '\n') + 1
	for cut := header; cut <= len(whole); cut += 7 {
		must(t, os.WriteFile(path, whole[:cut], 0o600))
		j, err := openJournal(path)
		must(t, err)
		if want := bytes.Count(whole[header:cut], []byte("\n")); len(j.entries) != want || j.note != "" {
			t.Fatalf("cut at %d: %d entries, want %d; %s", cut, len(j.entries), want, j.note)
		}
		must(t, j.append(entry{Subject: "next"}))
		must(t, j.close())
		j, err = openJournal(path)
		must(t, err)
		if !strings.HasSuffix(subjects(j), "next") {
			t.Fatalf("cut at %d: %s", cut, subjects(j))
		}
		must(t, j.close())
	}
}

// What a process that was killed had begun to write is no journal, and is not
// kept for ever.
func TestAKilledRewriteLeavesNothing(t *testing.T) {
	j, path := journalWith(t, 3)
	must(t, j.close())
	must(t, os.WriteFile(filepath.Join(filepath.Dir(path), ".journal-1234"), []byte("half"), 0o600))
	j, err := openJournal(path)
	must(t, err)
	must(t, j.close())
	all, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(all) != 1 || len(j.entries) != 3 {
		t.Errorf("%v %v, %d entries", all, err, len(j.entries))
	}
}

func TestDamagedJournalKeepsWhatIsReadable(t *testing.T) {
	j, path := journalWith(t, 3)
	must(t, j.close())
	whole, err := os.ReadFile(path)
	must(t, err)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	lines[2][20] ^= 1
	must(t, os.WriteFile(path, bytes.Join(lines, nil), 0o600))
	j, err = openJournal(path)
	must(t, err)
	if subjects(j) != "0 2" || j.note == "" || j.head.Next != 4 {
		t.Errorf("%s, next %d, %q", subjects(j), j.head.Next, j.note)
	}
	must(t, os.WriteFile(path, []byte("garbage\n"), 0o600))
	if j, err = openJournal(path); err != nil || j.note == "" || len(j.entries) != 0 {
		t.Errorf("a damaged head counts as a lost journal: %v %q", err, j.note)
	}
}

func TestJournalSettles(t *testing.T) {
	j, path := journalWith(t, 5)
	must(t, j.settle(3, func(h *journalHead) { h.Tip = "x" }))
	must(t, j.append(entry{Subject: "5"}))
	must(t, j.close())
	j, err := openJournal(path)
	must(t, err)
	if subjects(j) != "3 4 5" || j.head.Tip != "x" || j.entries[2].Seq != 6 {
		t.Errorf("%s %+v", subjects(j), j.head)
	}
	if m := stat(t, path).Mode().Perm(); m != 0o600 {
		t.Errorf("mode %o", m)
	}
	must(t, j.supersede())
	must(t, j.close())
	if j, err = openJournal(path); err != nil || len(j.entries) != 0 || !j.head.Superseded {
		t.Errorf("%v %+v", err, j)
	}
}

func TestNewerJournalIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	line, err := encodeLine(journalHead{Format: journalFormat + 1, ID: "x"})
	must(t, err)
	must(t, os.WriteFile(path, line, 0o600))
	if _, err := openJournal(path); !errors.Is(err, ErrFormat) {
		t.Errorf("%v", err)
	}
}

// Whatever is in the file, the journal opens, says what was wrong with it, and goes
// on: what is appended is there the next time, behind what could be read. Lines with
// a right checksum that nobody of us wrote are no exception.
func FuzzJournal(f *testing.F) {
	head, err := encodeLine(journalHead{Format: journalFormat, ID: "x", Next: 3, Held: map[string]heldTail{"logs/x.log": {Text: "s3cr", Out: 1}}})
	if err != nil {
		f.Fatal(err)
	}
	line, err := encodeLine(entry{Seq: 3, Files: map[string]string{"status/x.yaml": "line"}, Logs: []logPiece{{"logs/x.log", "text"}}, Held: map[string]heldTail{"logs/x.log": {}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, false)
	f.Add(append(bytes.Clone(head), line...), false)
	f.Add([]byte("{\"format\":1,\"id\":\"x\",\"next\":1}\n{\"seq\":9223372036854775807}\nnull\n{\"held\":{\"a\":{\"text\":\"b\",\"out\":7}}}\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, signed bool) {
		if signed {
			var out []byte
			for l := range bytes.Lines(data) {
				l = bytes.TrimSuffix(l, []byte("\n"))
				out = fmt.Appendf(out, "%08x %s\n", crc32.Checksum(l, castagnoli), l)
			}
			data = out
		}
		file := filepath.Join(t.TempDir(), "main.jsonl")
		must(t, os.WriteFile(file, data, 0o600))
		j, err := openJournal(file)
		if errors.Is(err, ErrFormat) {
			return
		}
		must(t, err)
		was := len(j.entries)
		must(t, j.append(entry{Subject: "next", Held: map[string]heldTail{"a": {Text: "b"}}}))
		held := j.held()
		must(t, j.close())
		j, err = openJournal(file)
		must(t, err)
		if n := len(j.entries); n != was+1 || j.entries[was].Subject != "next" || j.note != "" || held["a"].Text != "b" {
			t.Fatalf("%d entries and one became %d: %s, held %v", was, n, j.note, held)
		}
		last := j.entries[was].Seq
		for _, e := range j.entries[:was] {
			if e.Seq >= last {
				t.Fatalf("the entry after number %d has number %d", e.Seq, last)
			}
		}
		must(t, j.settle(last, nil))
		if len(j.entries) != 0 || j.head.Held["a"].Text != "b" {
			t.Fatalf("%d entries are left, held %v", len(j.entries), j.head.Held)
		}
		must(t, j.close())
	})
}
