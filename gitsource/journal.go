package gitsource

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"
)

// entry is one change: the files that it writes, as they are to stand in Git,
// and the pieces that it adds to logs. Everything in it is redacted but Held, which
// is what could be the beginning of a secret.
type entry struct {
	Seq      int64               `json:"seq"`
	Epoch    int64               `json:"epoch"`
	Files    map[string]string   `json:"files,omitempty"`
	Logs     []logPiece          `json:"logs,omitempty"`
	Subject  string              `json:"subject,omitempty"`
	Trailers map[string]string   `json:"trailers,omitempty"`
	Ends     []string            `json:"ends,omitempty"` // records among Files whose run has ended
	Held     map[string]heldTail `json:"held,omitempty"` // by log: its end from now on
}

type logPiece struct {
	Path string `json:"path"`
	Text string `json:"text"`
}

// heldTail is the end of a log that could be the beginning of a secret. The first
// Out bytes of it are in the log.
type heldTail struct {
	Text string `json:"text,omitempty"`
	Out  int    `json:"out,omitempty"`
}

// quiet entries hold nothing but the daemon's own status.
func (e *entry) quiet() bool {
	_, daemon := e.Files[daemonFile]
	return daemon && len(e.Files) == 1 && len(e.Logs) == 0
}

// journalHead is the first line: what this data directory knows of the ledger.
type journalHead struct {
	Format     int      `json:"format"`
	ID         string   `json:"id"`   // of this journal; in every commit made from it
	Next       int64    `json:"next"` // sequence number of the next entry
	Holder     string   `json:"holder,omitempty"`
	Epoch      int64    `json:"epoch,omitempty"`
	Tip        string   `json:"tip,omitempty"`        // last tip that we wrote or accepted
	Adopted    []string `json:"adopted,omitempty"`    // commits of `ledger adopt` that were seen
	Superseded bool     `json:"superseded,omitempty"` // by another daemon: never raise again by itself
	// Held are the ends of logs that entries before the first have held back.
	Held map[string]heldTail `json:"held,omitempty"`
}

const (
	journalFormat = 1
	maxSeq        = 1 << 60 // of an entry; no daemon gets there
	// unfinished are the names of a journal that is being written. One process
	// has the directory.
	unfinished = ".journal-*"
)

// journal is an append-only file of checksummed lines. Every append is on disk
// before it returns. Not safe for concurrent use: the Ledger guards it.
type journal struct {
	path    string
	head    journalHead
	entries []entry
	f       *os.File
	size    int64
	note    string // what was wrong with the file when it was opened
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal reads the journal, or begins a new one. A torn last line was
// never acknowledged and is dropped. Other damage is kept aside in a copy; the
// readable entries stay, because each of them is complete by itself.
func openJournal(path string) (*journal, error) {
	j := &journal{path: path}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, j.cannot(err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), unfinished)) // by a process that was killed; what is not found stays
	for _, file := range left {
		if err := os.Remove(file); err != nil {
			return nil, j.cannot(err)
		}
	}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, j.cannot(err)
	default:
		if err := j.parse(data); err != nil {
			return nil, err
		}
	}
	if j.head.ID == "" {
		id := make([]byte, 8)
		if _, err := rand.Read(id); err != nil {
			return nil, j.cannot(err)
		}
		j.head = journalHead{Format: journalFormat, ID: hex.EncodeToString(id), Next: 1}
	}
	return j, j.rewrite()
}

func (j *journal) cannot(err error) error {
	return fmt.Errorf("cannot use the journal %s: %w; check the data directory's disk and permissions", j.path, err)
}

func (j *journal) parse(data []byte) error {
	lines := bytes.SplitAfter(data, []byte("\n"))
	err := decodeLine(lines[0], &j.head)
	if err == nil && j.head.Format > journalFormat {
		return fail(ErrFormat, nil, "cannot use the journal %s: it was written by a newer release (format %d, this one knows %d); run that release", j.path, j.head.Format, journalFormat)
	}
	if err != nil || j.head.ID == "" || j.head.Next < 1 || j.head.Next > maxSeq {
		j.head = journalHead{}
		return j.setAside("its first line is damaged; it counts as lost")
	}
	damaged := 0
	for i, line := range lines[1:] {
		if len(line) == 0 {
			continue
		}
		var e entry
		if err := decodeLine(line, &e); err != nil {
			if i < len(lines)-2 { // not the last one
				damaged++
			}
			continue
		}
		if n := len(j.entries); e.Seq < 1 || e.Seq > maxSeq || n > 0 && e.Seq <= j.entries[n-1].Seq {
			damaged++ // its checksum is right, and yet no daemon wrote it there
			continue
		}
		j.entries = append(j.entries, e)
		j.head.Next = max(j.head.Next, e.Seq+1)
	}
	if damaged > 0 {
		return j.setAside(fmt.Sprintf("%d of its entries are damaged and left out", damaged))
	}
	return nil
}

// setAside keeps a copy of the file for people.
func (j *journal) setAside(why string) error {
	to := fmt.Sprintf("%s.damaged-%s", j.path, time.Now().UTC().Format("20060102T150405Z"))
	if err := os.Rename(j.path, to); err != nil {
		return j.cannot(err)
	}
	j.note = fmt.Sprintf("the journal was damaged: %s; the old file is %s", why, to)
	return nil
}

func encodeLine(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(data, castagnoli), data), nil
}

func decodeLine(line []byte, v any) error {
	if len(line) < 10 || line[8] != ' ' || line[len(line)-1] != '\n' {
		return errors.New("incomplete line")
	}
	data := line[9 : len(line)-1]
	if fmt.Sprintf("%08x", crc32.Checksum(data, castagnoli)) != string(line[:8]) {
		return errors.New("checksum differs")
	}
	return json.Unmarshal(data, v)
}

// append gives the entries their numbers and puts them on disk, with one sync.
// After an error the file is as before.
func (j *journal) append(entries ...entry) error {
	var text []byte
	for i := range entries {
		entries[i].Seq, entries[i].Epoch = j.head.Next+int64(i), j.head.Epoch
		line, err := encodeLine(entries[i])
		if err != nil {
			return j.cannot(err)
		}
		text = append(text, line...)
	}
	_, err := j.f.WriteAt(text, j.size)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		return j.cannot(errors.Join(err, j.f.Truncate(j.size)))
	}
	j.size += int64(len(text))
	j.head.Next += int64(len(entries))
	j.entries = append(j.entries, entries...)
	return nil
}

// settle records what is known of the ledger and drops the entries up to and
// including a number: they are in Git.
func (j *journal) settle(upTo int64, change func(*journalHead)) error {
	j.drop(upTo)
	if change != nil {
		change(&j.head)
	}
	return j.rewrite()
}

func (j *journal) drop(upTo int64) {
	for len(j.entries) > 0 && j.entries[0].Seq <= upTo {
		j.head.Held = lay(j.head.Held, j.entries[0].Held)
		j.entries = j.entries[1:]
	}
}

// held are the ends of logs that are held back now.
func (j *journal) held() map[string]heldTail {
	now := maps.Clone(j.head.Held)
	for i := range j.entries {
		now = lay(now, j.entries[i].Held)
	}
	return now
}

func lay(now, newer map[string]heldTail) map[string]heldTail {
	for log, tail := range newer {
		if now == nil {
			now = map[string]heldTail{}
		}
		if now[log] = tail; tail.Text == "" {
			delete(now, log)
		}
	}
	return now
}

// supersede keeps the unpushed entries aside, where nothing reads them again.
func (j *journal) supersede() error {
	if len(j.entries) > 0 {
		to := fmt.Sprintf("%s.superseded-%d", j.path, j.head.Epoch)
		if err := os.Rename(j.path, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return j.cannot(err)
		}
	}
	j.entries, j.head.Held = nil, nil
	j.head.Superseded = true
	return j.rewrite()
}

// rewrite replaces the file by its current content, atomically.
func (j *journal) rewrite() error {
	tmp, err := os.CreateTemp(filepath.Dir(j.path), unfinished) // mode 0600
	if err != nil {
		return j.cannot(err)
	}
	size, err := j.write(tmp)
	if err == nil {
		err = os.Rename(tmp.Name(), j.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(j.path))
	}
	if err != nil {
		return j.cannot(errors.Join(err, tmp.Close(), ignoreMissing(os.Remove(tmp.Name()))))
	}
	if j.f != nil {
		_ = j.f.Close() // replaced; everything in it was synced
	}
	j.f, j.size = tmp, size
	return nil
}

func (j *journal) write(f *os.File) (int64, error) {
	w := bufio.NewWriter(f)
	line, err := encodeLine(j.head)
	if err != nil {
		return 0, err
	}
	size := int64(len(line))
	_, _ = w.Write(line) // bufio reports at Flush
	for _, e := range j.entries {
		if line, err = encodeLine(e); err != nil {
			return 0, err
		}
		size += int64(len(line))
		_, _ = w.Write(line)
	}
	return size, errors.Join(w.Flush(), f.Sync())
}

func (j *journal) close() error {
	if j.f == nil {
		return nil
	}
	return j.f.Close()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
