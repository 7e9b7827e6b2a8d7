package engine

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// heard is a connection on which everything has been said.
type heard struct {
	net.Conn
	*bytes.Reader
}

func (h heard) Read(p []byte) (int, error)      { return h.Reader.Read(p) }
func (h heard) SetReadDeadline(time.Time) error { return nil }

func framed(f frame, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{byte(f)}, uint32(len(body))), body...)
}

// Whatever comes on a line, the receiver writes below its volume only, and says
// what is wrong.
func FuzzDirectWire(f *testing.F) {
	w := &window{rel: "a/b", size: 5, length: 5, flags: flagWhole, states: []byte{pieceSent}}
	whole := framed(frameWindow, append(w.head(nil), "hello"...))
	begin := framed(frameOpen, binary.BigEndian.AppendUint64(appendString(nil, "long"), 3*pieceSize))
	part := &window{rel: "long", size: 3 * pieceSize, start: pieceSize, length: pieceSize, states: []byte{pieceZero}}
	end := framed(frameEnd, append(binary.BigEndian.AppendUint64(appendString(nil, "long"), pieceSize), 0))
	ask := framed(frameAsk, append(part.head(nil)[:4+4+8+8+4+1], make([]byte, nameSize)...))
	for _, seed := range [][]byte{
		whole, bytes.Join([][]byte{begin, framed(frameWindow, part.head(nil)), ask, end, framed(frameSync, nil)}, nil),
		framed(frameOpen, binary.BigEndian.AppendUint64(appendString(nil, "huge"), 1<<62)),
		framed(frameOpen, binary.BigEndian.AppendUint64(appendString(nil, "../out"), 7)),
		framed(frameOpen, binary.BigEndian.AppendUint64(appendString(nil, ".."), 7)), {byte(frameWindow), 0xff, 0xff, 0xff, 0xff},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		outer := t.TempDir()
		if err := os.Mkdir(filepath.Join(outer, "volume"), 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := openRoot(filepath.Join(outer, "volume"))
		if err != nil {
			t.Fatal(err)
		}
		defer root.close()
		few := newListMemory(1 << 20)
		few.patience = 0
		a, err := newArrivals(root, &objects{key: make([]byte, 32)}, &counters{}, few)
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		l := &line{conn: heard{Reader: bytes.NewReader(stream)}}
		for {
			kind, body, err := l.receive()
			if err != nil {
				break
			}
			if w, err := parseWindow(body); err == nil {
				if again := append(w.head(nil), w.data...); !bytes.Equal(again, body) {
					t.Fatalf("%q was read as %q", body, again)
				}
			}
			_ = failedThere(body)
			if _, _, err := a.handle(kind, body); err != nil {
				break
			}
		}
		there, err := os.ReadDir(outer)
		if err != nil || len(there) != 1 || !there[0].IsDir() {
			t.Fatalf("beside the volume: %v, %v", there, err)
		}
	})
}
