package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sys/unix"
)

// sending is one file on its way.
type sending struct {
	*uploader
	p      *peer
	f      *os.File
	rel    string
	size   int64 // as it was opened
	linked bool
	mode   byte
	names  []byte // of all pieces
	base   []byte // of the parent's pieces, with modeRecord
}

// sendContent is what content is in a direct transfer: the bytes go to the target's mover, and only
// the list of the pieces' names into the repository.
func (u *uploader) sendContent(ctx context.Context, f *os.File, st *unix.Stat_t, rel string) (object.ID, int64, error) {
	if !u.peer.first(rel) {
		if err := u.peer.barrier(nil); err != nil {
			return object.EmptyID, 0, u.peer.cause(ctx, err)
		}
	}
	taken := 2 * listBytes(st.Size) // names and base
	if err := u.peer.memory.take(ctx, taken, rel); err != nil {
		return object.EmptyID, 0, u.peer.cause(ctx, err)
	}
	defer u.peer.memory.give(taken)
	s := &sending{
		uploader: u, p: u.peer, f: f, rel: rel, size: st.Size, linked: st.Nlink > 1, mode: modeAll,
		names: make([]byte, pieceCount(st.Size)*nameSize),
	}
	n, err := s.run(ctx)
	if err != nil {
		return object.EmptyID, 0, u.peer.cause(ctx, err)
	}
	if n == 0 {
		id, err := u.store(ctx, nil)
		return id, 0, err
	}
	id, err := u.storeList(ctx, s.names[:pieceCount(n)*nameSize], rel)
	return id, n, err
}

// storeList stores the list of a file's pieces.
func (u *uploader) storeList(ctx context.Context, names []byte, rel string) (object.ID, error) {
	w := u.w.NewObjectWriter(ctx, object.WriterOptions{Prefix: hollowPrefix})
	defer w.Close()
	_, err := w.Write(names)
	if err == nil {
		var id object.ID
		if id, err = w.Result(); err == nil {
			return id, nil
		}
	}
	return object.EmptyID, storeFailed(err, "cannot store the list of file %q", rel)
}

func (s *sending) run(ctx context.Context) (n int64, err error) {
	switch {
	case s.size == 0:
		return 0, nil
	case s.size <= windowSize:
		if s.p.byContent {
			s.mode = modeAsk
		}
		err = s.p.with(func(l *line) error {
			n, err = s.window(ctx, l, 0, s.size, flagWhole)
			return err
		})
		return n, err
	case s.size <= 2*sectionSize:
		err = s.p.with(func(l *line) error {
			if err := s.open(ctx, l); err != nil {
				return err
			}
			if n, err = s.section(ctx, l, 0, s.size); err != nil {
				return err
			}
			return s.end(l, n)
		})
		return n, err
	}
	return s.sections(ctx)
}

// sections sends a large file over several lines at once.
func (s *sending) sections(ctx context.Context) (int64, error) {
	if err := s.p.with(func(l *line) error { return s.open(ctx, l) }); err != nil {
		return 0, err
	}
	count := int((s.size + sectionSize - 1) / sectionSize)
	got := make([]int64, count)
	g := s.pool.group()
	for i := range count {
		g.do(func() error {
			err := s.p.with(func(l *line) (err error) {
				start := int64(i) * sectionSize
				if got[i], err = s.section(ctx, l, start, min(sectionSize, s.size-start)); err != nil {
					return err
				}
				l.begin(frameSync)
				_, err = l.ask(frameSync)
				return err
			})
			return s.p.cause(ctx, err)
		})
	}
	if err := g.wait(ctx); err != nil {
		return 0, err
	}
	var n int64
	for _, k := range got {
		n += k
		if k < sectionSize {
			break // the end, or a file that became shorter
		}
	}
	return n, s.p.with(func(l *line) error { return s.end(l, n) })
}

// open announces a file longer than a window and learns what to compare it with.
func (s *sending) open(ctx context.Context, l *line) error {
	s.p.mu.Lock()
	was := s.p.parents[s.rel]
	s.p.mu.Unlock()
	l.begin(frameOpen)
	l.out = appendString(l.out, s.rel)
	l.out = binary.BigEndian.AppendUint64(l.out, uint64(s.size))
	if was != nil && !s.p.byContent {
		l.out = binary.BigEndian.AppendUint64(l.out, uint64(was.size))
		l.out = binary.BigEndian.AppendUint64(l.out, uint64(was.mtime.Sec))
		l.out = binary.BigEndian.AppendUint64(l.out, uint64(was.mtime.Nsec))
	}
	body, err := l.ask(frameMode)
	if err != nil {
		return err
	}
	if len(body) != 1 {
		return broken(errFrame)
	}
	s.mode = body[0]
	if s.mode != modeRecord {
		return nil
	}
	if was == nil {
		return broken(errFrame)
	}
	if s.base, err = s.p.objects.names(ctx, was.object, was.size); err != nil || s.base == nil {
		s.mode = modeAsk // the record cannot be used: slower, and as good
	}
	return nil
}

func (s *sending) end(l *line, n int64) error {
	l.begin(frameEnd)
	l.out = appendString(l.out, s.rel)
	l.out = binary.BigEndian.AppendUint64(l.out, uint64(n))
	l.out = append(l.out, s.flags(0))
	if err := l.finish(); err != nil {
		return l.why(err)
	}
	return nil
}

func (s *sending) flags(f byte) byte {
	if s.linked {
		f |= flagLinked
	}
	return f
}

// section sends a part of the file and says how many bytes there were to read.
func (s *sending) section(ctx context.Context, l *line, start, length int64) (n int64, err error) {
	for n < length {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		want := min(windowSize, length-n)
		k, err := s.window(ctx, l, start+n, want, 0)
		if n += k; err != nil || k < want {
			return n, err
		}
	}
	return n, nil
}

var windowBuffers = sync.Pool{New: func() any { return new([windowSize]byte) }}

// window reads a part of the file, names its pieces and sends those that the target does not have.
func (s *sending) window(ctx context.Context, l *line, start, length int64, flags byte) (int64, error) {
	buf := windowBuffers.Get().(*[windowSize]byte)
	defer windowBuffers.Put(buf)
	data := buf[:length]
	hole := s.hole(start, length)
	if !hole {
		n, err := s.f.ReadAt(data, start)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, sourceFailed(err, "read", s.rel)
		}
		data = data[:n]
		s.count.read.Add(int64(n))
	}
	if len(data) == 0 {
		return 0, nil
	}
	w := &window{rel: s.rel, size: s.size, start: start, length: len(data), flags: s.flags(flags)}
	if flags&flagWhole != 0 {
		w.size = int64(w.length)
	}
	if err := s.choose(l, w, s.nameAll(w, data, hole)); err != nil {
		return 0, err
	}
	l.begin(frameWindow)
	l.out = w.head(l.out)
	var parts [windowSize / pieceSize][]byte
	k := 0
	for i, state := range w.states {
		if state == pieceSent {
			parts[k] = data[i*pieceSize : i*pieceSize+w.piece(i)]
			s.count.sent.Add(int64(len(parts[k])))
			k++
		}
	}
	if err := l.finish(parts[:k]...); err != nil {
		return 0, l.why(err)
	}
	return int64(len(data)), nil
}

// hole says whether the file has nothing at all at a place: it is not read then.
func (s *sending) hole(start, length int64) bool {
	if length < pieceSize || start+length > s.size {
		return false
	}
	next, err := unix.Seek(int(s.f.Fd()), start, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // no more data; unless the file ends before
		var st unix.Stat_t
		return unix.Fstat(int(s.f.Fd()), &st) == nil && st.Size >= start+length
	}
	return err == nil && next >= start+length
}

// nameAll names the pieces of a window, in the file's list.
func (s *sending) nameAll(w *window, data []byte, hole bool) []byte {
	first := int(w.start / pieceSize)
	names := s.names[first*nameSize : (first+pieceCount(int64(w.length)))*nameSize]
	for i := range len(names) / nameSize {
		var d digest
		if length := w.piece(i); hole {
			d = s.p.zeros.of(length)
		} else {
			d = s.p.objects.digest(data[i*pieceSize : i*pieceSize+length])
		}
		copy(names[i*nameSize:], d[:])
	}
	return names
}

// choose decides what becomes of each piece.
func (s *sending) choose(l *line, w *window, names []byte) error {
	wanted, err := s.wanted(l, w, names)
	if err != nil {
		return err
	}
	w.states = make([]byte, len(names)/nameSize)
	for i := range w.states {
		name := digest(names[i*nameSize:])
		at := int(w.start/pieceSize) + i
		switch {
		case wanted != nil && wanted[i] == 0,
			s.mode == modeRecord && len(s.base) >= (at+1)*nameSize && digest(s.base[at*nameSize:]) == name:
			w.names = append(w.names, name[:]...)
		case name == s.p.zeros.of(w.piece(i)):
			w.states[i] = pieceZero
		default:
			w.states[i] = pieceSent
		}
	}
	return nil
}

// wanted asks which pieces are needed; nil if there is nothing to ask.
func (s *sending) wanted(l *line, w *window, names []byte) ([]byte, error) {
	if s.mode != modeAsk {
		return nil, nil
	}
	l.begin(frameAsk)
	l.out = append(w.head(l.out), names...)
	answer, err := l.ask(frameWanted)
	if err != nil {
		return nil, err
	}
	if len(answer) != len(names)/nameSize {
		return nil, broken(fmt.Errorf("the answer speaks of %d pieces and should of %d", len(answer), len(names)/nameSize))
	}
	return answer, nil
}
