package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sys/unix"
)

const (
	// fileSection is how much of a file one task reads; a multiple of pieceSize.
	fileSection = 8 << 20
	readBuffer  = 1 << 20
	// indexStream and indexContents are what the library expects of a list of pieces.
	indexStream   = "kopia:indirect"
	indexContents = "x"
)

// piecewise is one file on its way into the repository: its pieces are objects of their own, and the
// file is the list of them, byte for byte as the library's own writer would store it. Written
// that way a piece that is known, of zeros above all, need not be read nor hashed.
type piecewise struct {
	u    *uploader
	f    *os.File
	rel  string
	size int64
	// sparse says that the file has fewer blocks than bytes; where the holes are is asked then.
	sparse bool
	ids    []object.ID
	got    []int64 // bytes of each piece; less than a piece only where the file ended early
}

// content stores size bytes of f, several sections at once, and says how many there were.
func (u *uploader) content(ctx context.Context, f *os.File, st *unix.Stat_t, rel string) (object.ID, int64, error) {
	if st.Size == 0 {
		id, err := u.store(ctx, nil)
		return id, 0, err
	}
	if u.peer != nil {
		return u.sendContent(ctx, f, st, rel)
	}
	n := (st.Size + pieceSize - 1) / pieceSize
	p := &piecewise{
		u: u, f: f, rel: rel, size: st.Size, sparse: st.Blocks*512 < st.Size,
		ids: make([]object.ID, n), got: make([]int64, n),
	}
	if st.Size <= fileSection {
		if err := p.section(ctx, 0); err != nil {
			return object.EmptyID, 0, err
		}
		return p.join(ctx)
	}
	g := u.pool.group()
	for start := int64(0); start < st.Size && ctx.Err() == nil; start += fileSection {
		g.do(func() error { return p.section(ctx, start) })
	}
	if err := g.wait(ctx); err != nil {
		return object.EmptyID, 0, err
	}
	return p.join(ctx)
}

// section stores the pieces of one section.
func (p *piecewise) section(ctx context.Context, start int64) error {
	end := min(start+fileSection, p.size)
	buf := make([]byte, min(end-start, readBuffer))
	for at := start; at < end; {
		data, hole := p.extent(at, end)
		p.u.count.step()
		if err := p.holes(ctx, at, data); err != nil {
			return err
		}
		for at = data; at < hole; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			want := min(int64(len(buf)), hole-at)
			n, err := p.read(ctx, buf[:want], at)
			if err != nil || n < want {
				return err // or the end of a file that became shorter
			}
			at += n
		}
	}
	return nil
}

// extent is the next stretch from at on that must be read: its ends are the beginnings of pieces, or
// the end of the section.
func (p *piecewise) extent(at, end int64) (data, hole int64) {
	if !p.sparse {
		return at, end
	}
	fd := int(p.f.Fd())
	first, err := unix.Seek(fd, at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && first >= end { // nothing but a hole
		return end, end
	}
	if err != nil { // this file system does not tell
		return at, end
	}
	if hole, err = unix.Seek(fd, first, unix.SEEK_HOLE); err != nil {
		hole = end
	}
	return first - first%pieceSize, min((hole+pieceSize-1)/pieceSize*pieceSize, end)
}

// holes stores the pieces of a hole, of which there are only two: a full one and a file's last.
func (p *piecewise) holes(ctx context.Context, from, to int64) error {
	for at := from; at < to; at += pieceSize {
		n := min(pieceSize, to-at)
		id, err := p.u.zeroPiece(ctx, n)
		if err != nil {
			return err
		}
		p.ids[at/pieceSize], p.got[at/pieceSize] = id, n
	}
	return nil
}

// read stores what is at an offset, up to the buffer's length; less is the end of the file.
func (p *piecewise) read(ctx context.Context, buf []byte, at int64) (n int64, err error) {
	for n < int64(len(buf)) {
		k, err := p.f.ReadAt(buf[n:], at+n)
		n += int64(k)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, sourceFailed(err, "read", p.rel)
		}
	}
	p.u.count.read.Add(n)
	for from := int64(0); from < n; from += pieceSize {
		to, i := min(from+pieceSize, n), (at+from)/pieceSize
		if p.ids[i], err = p.u.store(ctx, buf[from:to]); err != nil {
			return n, err
		}
		p.got[i] = to - from
	}
	return n, nil
}

// join makes the file of its pieces. A file that became shorter while it was read ends at its first
// short piece.
func (p *piecewise) join(ctx context.Context) (object.ID, int64, error) {
	var total int64
	ids := p.ids
	for i, n := range p.got {
		total += n
		if n < pieceSize {
			if ids = ids[:i+1]; n == 0 && i > 0 {
				ids = ids[:i]
			}
			break
		}
	}
	switch {
	case total == 0:
		id, err := p.u.store(ctx, nil)
		return id, 0, err
	case len(ids) == 1:
		return ids[0], total, nil
	}
	id, err := p.u.index(ctx, ids, total)
	if err != nil {
		return object.EmptyID, 0, storeFailed(err, "cannot store file %q", p.rel)
	}
	return id, total, nil
}

// index stores a list of pieces, one entry at a time: of a large file it is large itself.
func (u *uploader) index(ctx context.Context, ids []object.ID, total int64) (object.ID, error) {
	w := u.w.NewObjectWriter(ctx, object.WriterOptions{
		Prefix: indexContents, Compressor: metadataCompressor, MetadataCompressor: metadataCompressor,
	})
	defer w.Close()
	b := bufio.NewWriterSize(w, 64<<10)
	fmt.Fprintf(b, `{"stream":%q,"entries":[`, indexStream)
	for i, id := range ids {
		start := int64(i) * pieceSize
		raw, err := json.Marshal(object.IndirectObjectEntry{Start: start, Length: min(pieceSize, total-start), Object: id})
		if err != nil {
			return object.EmptyID, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(raw)
	}
	b.WriteString("]}\n")
	if err := b.Flush(); err != nil { // also what the writes before met
		return object.EmptyID, err
	}
	id, err := w.Result()
	if err != nil {
		return object.EmptyID, err
	}
	return object.ParseID("I" + id.String())
}
