package engine

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// arrivalsWith are arrivals in an empty directory, whose lists may take limit bytes.
func arrivalsWith(t *testing.T, limit int64) *arrivals {
	t.Helper()
	root := must1(openRoot(t.TempDir()))
	t.Cleanup(root.close)
	m := newListMemory(limit)
	m.patience = 50 * time.Millisecond
	a := must1(newArrivals(root, &objects{key: make([]byte, 32)}, &counters{}, m))
	t.Cleanup(a.close)
	return a
}

func openFrame(rel string, size int64) []byte {
	return binary.BigEndian.AppendUint64(appendString(nil, rel), uint64(size))
}

func endFrame(rel string, size int64, flags byte) []byte { return append(openFrame(rel, size), flags) }

// TestSenderFillsNoMemory: a sender that passed the greeting, and says of files what it likes, makes the
// receiver take no more memory than it may.
func TestSenderFillsNoMemory(t *testing.T) {
	const limit, long = 1 << 20, 6 << 30 // whose list takes 768 KiB
	refused := func(a *arrivals, f frame, body []byte) {
		t.Helper()
		_, _, err := a.handle(f, body)
		reasonIs(t, err, ReasonDirectTooLarge)
	}
	taken := func(a *arrivals, f frame, body []byte) {
		t.Helper()
		_, _, err := a.handle(f, body)
		must(t, err)
	}
	t.Run("one file", func(t *testing.T) {
		a := arrivalsWith(t, limit)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for _, size := range []int64{16 << 30, 16 << 40, math.MaxInt64} {
			refused(a, frameOpen, openFrame("huge", size))
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > limit {
			t.Errorf("%d bytes were allocated", n)
		}
	})
	t.Run("many files", func(t *testing.T) {
		a := arrivalsWith(t, limit)
		taken(a, frameOpen, openFrame("one", long))
		refused(a, frameOpen, openFrame("two", long))
		_, _, err := a.handle(frameEnd, endFrame("one", 0, 0)) // became empty: over, with an empty list
		must(t, err)
		taken(a, frameOpen, openFrame("two", long))
	})
	t.Run("a file that ends on another line", func(t *testing.T) {
		a := arrivalsWith(t, limit)
		a.memory.patience = time.Minute
		taken(a, frameOpen, openFrame("one", long))
		time.AfterFunc(20*time.Millisecond, func() { _, _, _ = a.handle(frameEnd, endFrame("one", 0, 0)) })
		taken(a, frameOpen, openFrame("two", long))
	})
	t.Run("pieces of linked files", func(t *testing.T) {
		a := arrivalsWith(t, 1000*linkedBytes)
		w := &window{rel: "linked", size: windowSize, length: windowSize, flags: flagWhole | flagLinked, states: make([]byte, windowSize/pieceSize), names: make([]byte, windowSize/pieceSize*nameSize)}
		for i := range 1000 {
			binary.BigEndian.PutUint32(w.names[i%8*nameSize:], uint32(i)) // a piece that was not there before
			w.rel = "linked" + string(rune('a'+i%2))
			if _, _, err := a.handle(frameWindow, w.head(nil)); err != nil {
				reasonIs(t, err, ReasonDirectTooLarge)
				if i < 900 {
					t.Errorf("refused after %d files", i)
				}
				return
			}
		}
		t.Error("nothing was refused")
	})
}

// TestFileTooLargeToGoDirectly: a sparse file with a length that somebody made up stops neither end's
// process, and the volume can go by the repository.
func TestFileTooLargeToGoDirectly(t *testing.T) {
	l := newDirectLab(t)
	l.opts.listMemory = 1 << 20
	f := must1(os.Create(filepath.Join(l.src, "sparse")))
	must(t, f.Truncate(8<<40))
	must(t, f.Close())
	_, serr, _ := l.transfer(context.Background(), "", false, false)
	reasonIs(t, serr, ReasonDirectTooLarge)
}
