package engine

import (
	"errors"
	"io"

	"github.com/kopia/kopia/repo/object"
)

// piecePlace is where a piece lies in the target.
type piecePlace struct {
	rel   string
	start int64
}

// link notes where the pieces of a file with several paths are.
func (a *arrivals) link(s *arriving, rel string) error {
	a.mu.Lock()
	fresh := 0
	for i := 0; i < len(s.names); i += nameSize {
		if _, ok := a.linked[digest(s.names[i:])]; !ok {
			fresh++
		}
	}
	a.mu.Unlock()
	if err := a.memory.wait(int64(fresh)*linkedBytes, rel); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 0; i < len(s.names); i += nameSize {
		a.linked[digest(s.names[i:])] = piecePlace{rel, int64(i/nameSize) * pieceSize}
	}
	return nil
}

// piece reads a piece that arrived under another path of the same file; nil if there is none. It may
// be asked of nil.
func (a *arrivals) piece(id object.ID, length int64) ([]byte, error) {
	cid, _, ok := id.ContentID()
	if a == nil || !ok || len(cid.Hash()) != nameSize {
		return nil, nil
	}
	name := digest(cid.Hash())
	a.mu.Lock()
	at, ok := a.linked[name]
	a.mu.Unlock()
	if !ok {
		return nil, nil
	}
	f, err := a.existing(at.rel, true)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, length)
	if _, err := f.ReadAt(data, at.start); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, targetFailed(err, "read", at.rel)
	}
	if a.objects.digest(data) != name {
		return nil, nil // the path is another file by now
	}
	return data, nil
}
