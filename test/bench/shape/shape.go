// Package shape makes the volumes of the benchmarks and changes them, from
// numbers alone: the same shape and seed give the same bytes on every machine,
// so that what changed is known without asking.
package shape

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
)

const (
	// Page is what a database writes at once, in bytes.
	Page = 8 << 10
	// Piece is what the product cuts files into, in bytes.
	Piece = 128 << 10
	// Marker is written when the volume is full; it is one of its files.
	Marker = ".filled"

	filesPerDir = 200
	island      = 1 << 20 // bytes of data side by side in a sparse file
)

// Shape is a volume: how many files of how many bytes, and what one change does.
type Shape struct {
	Files     int   `json:"files"`
	FileBytes int64 `json:"fileBytes"`
	// UsedBytes of each file hold data, in islands of 1 MiB; the rest are holes.
	// 0 means all.
	UsedBytes int64 `json:"usedBytes,omitempty"`
	// ChangePages pages anywhere are written in place, or else
	// ChangeFiles files get another content of the same length.
	ChangePages int `json:"changePages,omitempty"`
	ChangeFiles int `json:"changeFiles,omitempty"`
}

// Bytes is the sum of the files' lengths.
func (s Shape) Bytes() int64 { return int64(s.Files) * s.FileBytes }

// Used is how many of them hold data.
func (s Shape) Used() int64 {
	if s.UsedBytes > 0 {
		return int64(s.Files) * s.UsedBytes
	}
	return s.Bytes()
}

// File is the path of a file below the volume's root.
func File(i int) string {
	return fmt.Sprintf("d%04d/f%06d", i/filesPerDir, i)
}

// Span is a part of a file.
type Span struct {
	File       int
	Start, Len int64
}

func content(a, b uint64) *rand.ChaCha8 {
	var seed [32]byte
	for i := range 8 {
		seed[i], seed[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	return rand.NewChaCha8(seed)
}

// Fill makes the files below dir; a volume that is full already is left alone.
func (s Shape) Fill(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, Marker)); err == nil {
		return nil
	}
	for i := 0; i < s.Files; i += filesPerDir {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, File(i))), 0o755); err != nil {
			return fmt.Errorf("cannot fill the volume: %w", err)
		}
	}
	if err := s.each(func(i int) error { return s.fill(filepath.Join(dir, File(i)), i) }); err != nil {
		return fmt.Errorf("cannot fill the volume: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, Marker), nil, 0o644)
}

// each calls do for every file, on all processors.
func (s Shape) each(do func(i int) error) error {
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < s.Files && errs[w] == nil; i += workers {
				errs[w] = do(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s Shape) fill(path string, i int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f.Truncate(s.FileBytes)
	random := content(0, uint64(i))
	for _, span := range s.data() {
		err = errors.Join(err, write(f, span, random))
	}
	return errors.Join(err, f.Close())
}

// data lists where a file holds data.
func (s Shape) data() []Span {
	if s.UsedBytes == 0 {
		return []Span{{Len: s.FileBytes}}
	}
	n := max(1, s.UsedBytes/island)
	var spans []Span
	for k := range n {
		spans = append(spans, Span{Start: k * (s.FileBytes / n), Len: s.UsedBytes / n})
	}
	return spans
}

func write(f *os.File, span Span, random *rand.ChaCha8) error {
	buf := make([]byte, min(span.Len, 1<<20))
	for done := int64(0); done < span.Len; {
		b := buf[:min(int64(len(buf)), span.Len-done)]
		_, _ = random.Read(b) // never fails
		n, err := f.WriteAt(b, span.Start+done)
		if err != nil {
			return err
		}
		done += int64(n)
	}
	return nil
}

// Changes lists what Change writes for a seed, by file and place; no two
// overlap.
func (s Shape) Changes(seed int) []Span {
	random := rand.New(content(uint64(seed), 1<<40))
	pages, count := s.FileBytes/Page, s.ChangePages
	if s.ChangePages == 0 {
		pages, count = 1, s.ChangeFiles
	}
	total := int64(s.Files) * pages
	taken := map[int64]bool{}
	for len(taken) < count && int64(len(taken)) < total {
		taken[random.Int64N(total)] = true
	}
	var spans []Span
	for at := range taken {
		span := Span{File: int(at / pages), Start: at % pages * Page, Len: Page}
		if s.ChangePages == 0 {
			span.Len = s.FileBytes
		}
		spans = append(spans, span)
	}
	slices.SortFunc(spans, func(a, b Span) int {
		if a.File != b.File {
			return a.File - b.File
		}
		return int(a.Start - b.Start)
	})
	return spans
}

// Change writes what Changes lists and waits until it is on the disk.
func (s Shape) Change(dir string, seed int) error {
	byFile := map[int][]Span{}
	for _, span := range s.Changes(seed) {
		byFile[span.File] = append(byFile[span.File], span)
	}
	return s.each(func(i int) error {
		if len(byFile[i]) == 0 {
			return nil
		}
		f, err := os.OpenFile(filepath.Join(dir, File(i)), os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("cannot change the volume: %w", err)
		}
		for _, span := range byFile[i] {
			err = errors.Join(err, write(f, span, content(uint64(seed), uint64(i)<<32|uint64(span.Start/Page))))
		}
		return errors.Join(err, f.Sync(), f.Close())
	})
}

// Pieces lists the pieces that a change with the seed touches, and the files.
func (s Shape) Pieces(seed int) (pieces []Span, files []int) {
	for _, span := range s.Changes(seed) {
		for at := span.Start / Piece * Piece; at < span.Start+span.Len; at += Piece {
			p := Span{File: span.File, Start: at, Len: min(Piece, s.FileBytes-at)}
			if n := len(pieces); n == 0 || pieces[n-1] != p {
				pieces = append(pieces, p)
			}
		}
		if n := len(files); n == 0 || files[n-1] != span.File {
			files = append(files, span.File)
		}
	}
	return pieces, files
}

// Walk looks at every entry below dir once, as `find` does, and counts them.
func Walk(dir string) (entries int, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		_, err = d.Info() // one lstat
		return err
	})
	return entries, err
}

// Allocated is how many bytes the files below dir take on the disk.
func Allocated(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	return bytes, err
}

// Equal compares places of the files below two folders.
func Equal(from, to string, spans []Span) error {
	for _, span := range spans {
		a, err := span.read(from)
		if err != nil {
			return err
		}
		b, err := span.read(to)
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return fmt.Errorf("%s differs at %d, %d bytes: the copy is wrong", File(span.File), span.Start, span.Len)
		}
	}
	return nil
}

func (s Span) read(dir string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, File(s.File)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, s.Len)
	_, err = f.ReadAt(b, s.Start)
	return b, err
}
