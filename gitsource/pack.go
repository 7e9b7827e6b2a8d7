package gitsource

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/hash"
)

// Limits of what a pack may hold. go-git's index holds each object whole in
// memory, and a hundred bytes or more about each of them.
const (
	maxObject  = 32 << 20  // bytes of one object, inflated
	maxObjects = 2_000_000 // of one pack
)

// unpack adds a pack to the store. A pack that is refused leaves nothing behind.
func (s *store) unpack(pack io.Reader) error {
	w, err := s.st.PackfileWriter()
	if err != nil {
		return err
	}
	in := &source{Reader: pack}
	if err = weigh(io.TeeReader(in, w)); err == nil {
		return w.Close()
	}
	if in.err != nil {
		err = in.err // zlib makes text of it
	}
	_ = w.Close() // it says that the pack is not whole
	left, _ := filepath.Glob(filepath.Join(s.dir, "objects", "pack", "tmp_pack_*"))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// source remembers why reading ended.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// weigh reads a pack, on its way to the store, and refuses what its objects say
// of their sizes before any of them is inflated into memory. An object that
// inflates to more than it says is an error of the scanner.
func weigh(pack io.Reader) error {
	sc := packfile.NewScanner(pack)
	_, n, err := sc.Header()
	if err != nil {
		return err
	}
	if n > maxObjects {
		return fail(ErrTooBig, nil, "cannot take a pack of %d objects: more than %d are not read; use a smaller repository", n, maxObjects)
	}
	for range n {
		h, err := sc.NextObjectHeader()
		if err != nil {
			return err
		}
		size := h.Length
		if h.Type.IsDelta() && size <= maxObject {
			var d deltaHead
			if _, _, err := sc.NextObject(&d); err != nil {
				return err
			}
			size = max(size, d.target())
		}
		if size > maxObject {
			return fail(ErrTooBig, nil, "cannot take a file of %d bytes: objects of more than %d are not read; take it out of the branch and its history, or keep the plans in a repository of their own", size, maxObject)
		}
	}
	if _, err := sc.Checksum(); err != nil {
		return fmt.Errorf("the pack's checksum: %w", err)
	}
	_, err = io.Copy(io.Discard, pack)
	return err
}

// deltaHead keeps the beginning of a delta, which has the sizes of what it is
// applied to and of what it makes.
type deltaHead []byte

func (d *deltaHead) Write(p []byte) (int, error) {
	*d = append(*d, p[:min(len(p), 2*binary.MaxVarintLen64-len(*d))]...)
	return len(p), nil
}

// target is the size of the object that a delta makes; -1 where it says none.
func (d deltaHead) target() int64 {
	_, n := binary.Uvarint(d)
	if n <= 0 {
		return -1
	}
	size, n := binary.Uvarint(d[n:])
	if n <= 0 || size > 1<<62 {
		return -1
	}
	return int64(size)
}

// compressor is one for all packs: a new one takes most of a megabyte. It is the
// fastest, for half of what it gets are hashes. Held while a pack is encoded.
var compressor struct {
	sync.Mutex
	z *zlib.Writer
}

// encodePack writes a pack with exactly these objects, each once and without
// deltas: a server that checks packs refuses one that has an object twice.
func encodePack(objects []plumbing.EncodedObject) ([]byte, error) {
	seen := map[plumbing.Hash]plumbing.EncodedObject{}
	var each []plumbing.EncodedObject
	for _, o := range objects {
		if h := o.Hash(); seen[h] == nil {
			seen[h], each = o, append(each, o)
		}
	}
	b := bytes.NewBufferString("PACK")
	b.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, packfile.VersionSupported), uint32(len(each))))
	compressor.Lock()
	defer compressor.Unlock()
	if compressor.z == nil {
		compressor.z, _ = zlib.NewWriterLevel(b, zlib.BestSpeed) // fails only for levels that there are not
	}
	z := compressor.z
	defer z.Reset(io.Discard) // it would keep this pack
	for _, o := range each {
		b.Write(packedHead(o.Type(), o.Size()))
		z.Reset(b)
		r, err := o.Reader()
		if err == nil {
			_, err = io.Copy(z, r)
		}
		if err = errors.Join(err, z.Close()); err != nil {
			return nil, fmt.Errorf("cannot encode a pack: %w", err)
		}
	}
	sum := hash.New(hash.CryptoType)
	sum.Write(b.Bytes())
	return sum.Sum(b.Bytes()), nil
}

// packedHead says what follows: a kind in three bits, and a size in four, and then
// in seven of each byte, the lowest first.
func packedHead(kind plumbing.ObjectType, size int64) []byte {
	head := []byte{byte(kind)<<4 | byte(size&15)}
	for size >>= 4; size > 0; size >>= 7 {
		head[len(head)-1] |= 128
		head = append(head, byte(size&127))
	}
	return head
}
