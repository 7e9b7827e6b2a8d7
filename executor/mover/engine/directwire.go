package engine

import (
	"encoding/binary"
	"errors"
	"time"
)

// The two ends of a direct transfer talk in frames: a type, a length and that many bytes. The sender
// speaks; the receiver answers where an answer is due, in order. A connection carries one thing at a
// time, and several connections carry several.
//
//	hello   → hello     which volume, from which snapshot; the answer accepts it
//	open    → mode      a file longer than a window begins; the answer says what to compare with
//	ask     → wanted    names of pieces; the answer says which of them are needed
//	window  →           a part of a file, or all of a short one
//	end     →           a file longer than a window is complete
//	sync    → sync      everything before has been written
//	done    → done      the snapshot is in the repository
//	alive   →           nothing to say at the moment
//	        failed      the receiver gives up; the text says why
type frame byte

const (
	frameHello  frame = 'H'
	frameOpen   frame = 'O'
	frameMode   frame = 'M'
	frameAsk    frame = 'A'
	frameWanted frame = 'N'
	frameWindow frame = 'W'
	frameEnd    frame = 'E'
	frameSync   frame = 'S'
	frameDone   frame = 'D'
	frameAlive  frame = 'K'
	frameFailed frame = 'X'
)

const (
	// windowSize is how much of a file one frame carries at most; a multiple of pieceSize.
	windowSize   = 1 << 20
	frameLimit   = windowSize + 256<<10
	writeBuffer  = 256 << 10
	dialPatience = 45 * time.Second
	// linePatience bounds every read and write of a line, of two pieces at most, so that a slow one has
	// time; a sender with nothing to send says so every aliveEvery.
	linePatience = 2 * time.Minute
	aliveEvery   = 20 * time.Second
	greetTimeout = 10 * time.Second
)

// hello says what a connection is about. All connections of one transfer carry the same Session.
type hello struct {
	Volume  string `json:"volume"`
	Session string `json:"session"`
	Lines   int    `json:"lines"`
	Line    int    `json:"line"`
	// Parent is the snapshot that unchanged files are taken over from; the target must hold it.
	Parent string `json:"parent,omitempty"`
}

// What to compare the pieces of a file with.
const (
	modeAll    byte = 'a' // the target has nothing: send everything
	modeRecord byte = 'r' // the target holds what the parent says: send what differs from it
	modeAsk    byte = 'q' // ask about every piece
)

// The state of a piece in a window.
const (
	pieceKept byte = 0 // the target has it; its name follows
	pieceSent byte = 1 // its bytes follow
	pieceZero byte = 2 // it is all zeros
)

const (
	flagWhole  byte = 1 // the window is the whole file
	flagLinked byte = 2 // the file has several paths
)

// window is a part of a file on its way.
type window struct {
	rel    string
	size   int64 // of the whole file
	start  int64 // a multiple of pieceSize
	length int
	flags  byte
	states []byte // one a piece
	names  []byte // of the pieces that are kept, in order
	data   []byte // of the pieces that are sent, in order
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// head encodes everything but the data.
func (w *window) head(b []byte) []byte {
	b = appendString(b, w.rel)
	b = binary.BigEndian.AppendUint64(b, uint64(w.size))
	b = binary.BigEndian.AppendUint64(b, uint64(w.start))
	b = binary.BigEndian.AppendUint32(b, uint32(w.length))
	b = append(b, w.flags)
	b = append(b, w.states...)
	return append(b, w.names...)
}

var errFrame = errors.New("a frame that makes no sense")

// parser takes a body apart; after the first mistake it stays at bad.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) take(n int) []byte {
	if n < 0 || n > len(p.b) {
		p.bad = true
		return nil
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uint32() uint32 {
	if b := p.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (p *parser) int64() int64 {
	if b := p.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (p *parser) text() string { return string(p.take(int(p.uint32()))) }

// extent reads the place of a window in a file and refuses one that cannot be.
func (p *parser) extent(w *window) {
	w.rel, w.size, w.start, w.length = p.text(), p.int64(), p.int64(), int(p.uint32())
	if w.rel == "" || w.size < 0 || w.start < 0 || w.start%pieceSize != 0 || w.length <= 0 || w.length > windowSize ||
		w.start > w.size-int64(w.length) {
		p.bad = true
	}
}

// parseWindow is the inverse of head, with the data behind it.
func parseWindow(body []byte) (*window, error) {
	p, w := &parser{b: body}, &window{}
	p.extent(w)
	w.flags = p.byte()
	if p.bad {
		return nil, errFrame
	}
	w.states = p.take(pieceCount(int64(w.length)))
	kept, sent := 0, 0
	for i, s := range w.states {
		switch s {
		case pieceKept:
			kept++
		case pieceSent:
			sent += w.piece(i)
		case pieceZero:
		default:
			p.bad = true
		}
	}
	w.names, w.data = p.take(kept*nameSize), p.take(sent)
	if p.bad || len(p.b) > 0 || (w.flags&flagWhole != 0 && (w.start != 0 || int64(w.length) != w.size)) {
		return nil, errFrame
	}
	return w, nil
}

// piece is how long the i-th piece of the window is.
func (w *window) piece(i int) int { return min(pieceSize, w.length-i*pieceSize) }
