package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// arrivals writes what comes from the source into one target, by path, before the snapshot that it
// belongs to is complete. The restore that follows asks it which files hold what the snapshot says:
// those need not be read again. Everything else about an entry is the restore's business.
//
// A file is changed in place. That is safe for the reason for which the restore's patches are: the
// claim is marked as being written, so a run that ends in the middle leaves nothing that is believed.
type arrivals struct {
	root    *dir
	objects *objects
	count   *counters
	zeros   *zeroNames
	memory  *listMemory
	// trusted: what a file of the target holds is recorded, unless its size or time say otherwise.
	trusted bool

	// shape is held while a name is made or removed.
	shape sync.Mutex

	mu   sync.Mutex
	open map[string]*arriving
	// held are the lists of files that are complete, by path; a zero list is a file that was touched
	// and holds nothing known. Both are hashes, so that a million files fit in memory.
	held map[digest]digest
	// linked are the places of the pieces of files with several paths: the restore may want to begin
	// with another path than the one that was sent.
	linked map[digest]piecePlace
}

// arriving is a file longer than a window.
type arriving struct {
	f     *os.File
	fresh bool // it was made just now: what is not written is a hole
	size  int64
	names []byte
	taken int64 // of the memory, for names
}

func newArrivals(root *dir, o *objects, c *counters, m *listMemory) (*arrivals, error) {
	if err := o.named(); err != nil {
		return nil, err
	}
	return &arrivals{
		root: root, objects: o, count: c, zeros: newZeroNames(o), memory: m,
		open: map[string]*arriving{}, held: map[digest]digest{}, linked: map[digest]piecePlace{},
	}, nil
}

// close lets go of files that were not finished.
func (a *arrivals) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.open {
		s.f.Close()
		a.memory.give(s.taken)
	}
	a.open = map[string]*arriving{}
}

// handle does what a frame asks for and writes the answer into out.
func (a *arrivals) handle(f frame, body []byte) (answer frame, out []byte, err error) {
	switch f {
	case frameWindow:
		w, err := parseWindow(body)
		if err != nil {
			return 0, nil, err
		}
		return 0, nil, a.window(w)
	case frameOpen:
		mode, err := a.begin(body)
		return frameMode, []byte{mode}, err
	case frameAsk:
		out, err := a.wanted(body)
		return frameWanted, out, err
	case frameEnd:
		return 0, nil, a.end(body)
	case frameSync:
		return frameSync, nil, nil
	}
	return 0, nil, errFrame
}

// begin opens a long file.
func (a *arrivals) begin(body []byte) (mode byte, err error) {
	p := &parser{b: body}
	rel, size := p.text(), p.int64()
	record := len(p.b) > 0
	var was node
	if record {
		was.kind, was.size = kindFile, p.int64()
		was.mtime = unix.Timespec{Sec: p.int64(), Nsec: p.int64()}
	}
	if p.bad || len(p.b) > 0 || rel == "" || size <= 0 {
		return 0, errFrame
	}
	if err := a.forget(rel); err != nil {
		return 0, err
	}
	taken := listBytes(size)
	if err := a.memory.wait(taken, rel); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			a.memory.give(taken)
		}
	}()
	f, st, err := a.place(rel)
	if err != nil {
		return 0, err
	}
	mode = modeAll
	switch {
	case st == nil:
	case a.trusted && record && recordHolds(&was, st):
		mode = modeRecord
	default:
		mode = modeAsk
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return 0, targetFailed(err, "set the size of file", rel)
	}
	s := &arriving{f: f, fresh: st == nil, size: size, names: make([]byte, taken), taken: taken}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[rel] != nil {
		f.Close()
		return 0, errFrame
	}
	a.open[rel] = s
	return mode, nil
}

func (a *arrivals) opened(rel string) *arriving {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open[rel]
}

// wanted compares names with what the target's file holds.
func (a *arrivals) wanted(body []byte) ([]byte, error) {
	p, w := &parser{b: body}, &window{}
	p.extent(w)
	w.flags = p.byte()
	n := pieceCount(int64(w.length))
	names := p.take(n * nameSize)
	if p.bad || len(p.b) > 0 {
		return nil, errFrame
	}
	all := make([]byte, n)
	for i := range all {
		all[i] = 1
	}
	var f *os.File
	if s := a.opened(w.rel); s != nil {
		f = s.f
	} else {
		var err error
		if f, err = a.existing(w.rel, false); f == nil || err != nil {
			return all, err
		}
		defer f.Close()
	}
	data := make([]byte, w.length)
	k, err := f.ReadAt(data, w.start)
	a.count.read.Add(int64(k))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, targetFailed(err, "read", w.rel)
	}
	for i := range all {
		end := i*pieceSize + w.piece(i)
		if end <= k && a.objects.digest(data[i*pieceSize:end]) == digest(names[i*nameSize:]) {
			all[i] = 0
		}
	}
	return all, nil
}

// window writes a part of a file.
func (a *arrivals) window(w *window) error {
	if w.flags&flagWhole == 0 {
		s := a.opened(w.rel)
		if s == nil || w.size != s.size {
			return errFrame
		}
		first := int(w.start / pieceSize)
		return a.write(s, w, s.names[first*nameSize:(first+len(w.states))*nameSize])
	}
	if err := a.forget(w.rel); err != nil {
		return err
	}
	f, st, err := a.place(w.rel)
	if err != nil {
		return err
	}
	defer f.Close()
	s := &arriving{f: f, fresh: st == nil, size: w.size, names: make([]byte, len(w.states)*nameSize)}
	if s.fresh || st.Size != w.size {
		if err := f.Truncate(w.size); err != nil {
			return targetFailed(err, "set the size of file", w.rel)
		}
	}
	if err := a.write(s, w, s.names); err != nil {
		return err
	}
	return a.complete(s, w.rel, w.flags)
}

// write brings the pieces of a window to their places and notes what they are called.
func (a *arrivals) write(s *arriving, w *window, names []byte) error {
	kept, data := w.names, w.data
	for i, state := range w.states {
		var d digest
		length, at := w.piece(i), w.start+int64(i*pieceSize)
		switch state {
		case pieceKept:
			copy(d[:], kept)
			kept = kept[nameSize:]
		case pieceZero:
			if d = a.zeros.of(length); !s.fresh {
				if err := clearRange(s.f, at, int64(length)); err != nil {
					return targetFailed(err, "write file", w.rel)
				}
			}
		case pieceSent:
			d = a.objects.digest(data[:length])
			if _, err := s.f.WriteAt(data[:length], at); err != nil {
				return targetFailed(err, "write file", w.rel)
			}
			a.count.written.Add(int64(length))
			data = data[length:]
		}
		copy(names[i*nameSize:], d[:])
	}
	return nil
}

// clearRange makes zeros of a part of a file, without taking room for them where that can be.
func clearRange(f *os.File, at, length int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, length)
	if err != nil { // a file system without holes, or one that failed: the write will tell
		_, err = f.WriteAt(zeroPiece[:length], at)
	}
	return err
}

// end completes a long file.
func (a *arrivals) end(body []byte) error {
	p := &parser{b: body}
	rel, size, flags := p.text(), p.int64(), p.byte()
	s := a.opened(rel)
	if p.bad || len(p.b) > 0 || s == nil || size < 0 || size > s.size {
		return errFrame
	}
	a.mu.Lock()
	delete(a.open, rel)
	a.mu.Unlock()
	defer a.memory.give(s.taken)
	defer s.f.Close()
	if size < s.size {
		if err := s.f.Truncate(size); err != nil {
			return targetFailed(err, "set the size of file", rel)
		}
		s.names = s.names[:pieceCount(size)*nameSize]
	}
	for i := 0; i < len(s.names); i += nameSize {
		if digest(s.names[i:]) == (digest{}) {
			return errFrame // a part never came
		}
	}
	return a.complete(s, rel, flags)
}

// complete notes what a file holds now.
func (a *arrivals) complete(s *arriving, rel string, flags byte) error {
	k, list := a.objects.digest([]byte(rel)), a.objects.digest(s.names)
	if flags&flagLinked != 0 {
		if err := a.link(s, rel); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held[k] = list
	return nil
}

// forget notes that a file is being touched.
func (a *arrivals) forget(rel string) error {
	k := a.objects.digest([]byte(rel))
	if !a.touched(rel) {
		if err := a.memory.wait(heldBytes, rel); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held[k] = digest{}
	return nil
}

// touched says whether the file at rel was written to. It may be asked of nil.
func (a *arrivals) touched(rel string) bool {
	if a == nil {
		return false
	}
	k := a.objects.digest([]byte(rel))
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.held[k]
	return ok
}

// holds says whether the file at rel arrived completely and is what want says. It may be asked of nil.
func (a *arrivals) holds(ctx context.Context, want *node, have *unix.Stat_t, rel string) (bool, error) {
	if a == nil || want.size == 0 || have == nil || have.Size != want.size {
		return false, nil
	}
	k := a.objects.digest([]byte(rel))
	a.mu.Lock()
	list := a.held[k]
	a.mu.Unlock()
	if list == (digest{}) {
		return false, nil
	}
	if hollow, err := a.objects.hollow(ctx, want.object, want.size); err != nil || !hollow {
		return false, err
	}
	wanted, err := a.objects.listDigest(ctx, want.object, want.size)
	return err == nil && wanted == list, err
}

// farErrorOf is what the other end is told about an error of this one.
func farErrorOf(err error, s secrets) []byte {
	body, jerr := json.Marshal(farError{Reason: reasonOf(err), Text: s.clean(err.Error())})
	if jerr != nil { // two strings
		return nil
	}
	return body
}
