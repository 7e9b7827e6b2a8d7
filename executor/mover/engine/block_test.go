package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// loop is a real block device over a sparse file.
type loop struct{ device, image string }

func newLoop(t testing.TB, size int64) loop {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "disk")
	must(t, err)
	must(t, f.Truncate(size))
	must(t, f.Close())
	out, err := exec.Command("losetup", "--find", "--show", f.Name()).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	l := loop{strings.TrimSpace(string(out)), f.Name()}
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", l.device).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return l
}

// write goes through the page cache, as most programs do.
func (l loop) write(t testing.TB, at int64, data []byte) {
	t.Helper()
	f := must1(os.OpenFile(l.device, os.O_WRONLY, 0))
	defer f.Close()
	must1(f.WriteAt(data, at))
}

func (l loop) content(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(l.device)
	must(t, err)
	return b
}

// allocated is how much the file below has on its disk.
func (l loop) allocated(t testing.TB) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(l.image, &st))
	return st.Blocks * 512
}

func deviceNoise(r *rand.Rand, n int64) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
	must1(source.Read(b))
	return b
}

// blockLab is a lab between two devices; the target is full of what does not belong there.
type blockLab struct {
	*lab
	src, dst loop
	rand     *rand.Rand
}

func newBlockLab(t testing.TB, source, target int64) *blockLab {
	t.Helper()
	l := &blockLab{lab: newLab(t), rand: rand.New(rand.NewPCG(7, uint64(source)))}
	l.src, l.dst = newLoop(t, source), newLoop(t, target)
	l.dst.write(t, 0, deviceNoise(l.rand, target))
	return l
}

func (l *blockLab) block(op Op, v VolumeRequest) (VolumeResult, error) {
	l.t.Helper()
	v.Mode = ModeBlock
	if v.Path == "" {
		v.Path = map[Op]string{OpUpload: l.src.device, OpRestore: l.dst.device}[op]
	}
	return l.run(op, v)
}

func (l *blockLab) up(parent string) VolumeResult {
	l.t.Helper()
	v, err := l.block(OpUpload, VolumeRequest{Parent: parent})
	must(l.t, err)
	return v
}

func (l *blockLab) down(snapshot, held string) VolumeResult {
	l.t.Helper()
	v, err := l.block(OpRestore, VolumeRequest{Snapshot: snapshot, Held: held})
	must(l.t, err)
	return v
}

// same compares the devices; beyond the source's end the target reads as zeros.
func (l *blockLab) same() {
	l.t.Helper()
	want, have := l.src.content(l.t), l.dst.content(l.t)
	for at := 0; at < len(have); at += pieceSize {
		end := min(at+pieceSize, len(have))
		w := make([]byte, end-at)
		if at < len(want) {
			copy(w, want[at:min(end, len(want))])
		}
		if !bytes.Equal(w, have[at:end]) {
			l.t.Fatalf("the devices differ between %d and %d", at, end)
		}
	}
}

func TestBlockRoundTrip(t *testing.T) {
	long(t)
	for _, c := range []struct{ source, target int64 }{
		{4096, 4096},
		{pieceSize, 3 * pieceSize},
		{5*pieceSize + 3*512, 6 * pieceSize},
		{2*fileSection + 7*pieceSize + 512, 2*fileSection + 40*pieceSize},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			l := newBlockLab(t, c.source, c.target)
			l.keepOpen()
			l.src.write(t, 0, deviceNoise(l.rand, min(c.source, 3*pieceSize)))
			l.src.write(t, c.source-512, deviceNoise(l.rand, 512))
			v := l.up("")
			if v.Bytes != c.source || v.ReadBytes != c.source {
				t.Errorf("%d bytes, %d read, want %d", v.Bytes, v.ReadBytes, c.source)
			}
			l.down(v.Snapshot, "")
			l.same()
			if r := l.down(v.Snapshot, v.Snapshot); r.WrittenBytes != 0 || r.ReadBytes != 0 {
				t.Errorf("a device that holds the snapshot: %d bytes written, %d read", r.WrittenBytes, r.ReadBytes)
			}
		})
	}
}

// TestBlockMovesOnlyWhatChanged edits pages at random and counts what is moved.
func TestBlockMovesOnlyWhatChanged(t *testing.T) {
	const size = fileSection + 9*pieceSize
	l := newBlockLab(t, size, size)
	l.keepOpen()
	l.src.write(t, 0, deviceNoise(l.rand, size/2))
	held := l.up("").Snapshot
	l.down(held, "")
	for round := range 6 {
		pieces := map[int64]bool{}
		for range l.rand.IntN(5) {
			page, data := l.rand.Int64N(size/8192), deviceNoise(l.rand, 8192)
			if l.rand.IntN(3) == 0 {
				data = make([]byte, 8192)
			}
			l.src.write(t, page*8192, data)
			pieces[page*8192/pieceSize] = true
		}
		v := l.up(held)
		if limit := int64(len(pieces))*pieceSize + 256<<10; v.UploadedBytes > limit {
			t.Errorf("round %d: %d bytes uploaded for %d pieces", round, v.UploadedBytes, len(pieces))
		}
		r := l.down(v.Snapshot, held)
		if r.WrittenBytes > int64(len(pieces))*pieceSize || r.ReadBytes != 0 {
			t.Errorf("round %d: %d bytes written, %d read for %d pieces", round, r.WrittenBytes, r.ReadBytes, len(pieces))
		}
		l.same()
		held = v.Snapshot
	}
}

func TestBlockZeros(t *testing.T) {
	const size = 2 * fileSection
	l := newBlockLab(t, size, size)
	l.keepOpen()
	v := l.up("")
	if v.UploadedBytes > 256<<10 {
		t.Errorf("an empty device of %d bytes uploaded %d", int64(size), v.UploadedBytes)
	}
	before := l.dst.allocated(t)
	l.down(v.Snapshot, "")
	l.same()
	if after := l.dst.allocated(t); after > before/8 {
		t.Errorf("the empty target has %d bytes on its disk, before %d: it did not stay thin", after, before)
	}
	// Zeros among data, that come and go.
	l.src.write(t, fileSection/2, deviceNoise(l.rand, fileSection))
	full := l.up(v.Snapshot)
	l.down(full.Snapshot, v.Snapshot)
	l.same()
	l.src.write(t, fileSection-2*pieceSize, make([]byte, 4*pieceSize))
	holed := l.up(full.Snapshot)
	if r := l.down(holed.Snapshot, full.Snapshot); r.WrittenBytes != 4*pieceSize {
		t.Errorf("%d bytes were zeroed, want %d", r.WrittenBytes, 4*pieceSize)
	}
	l.same()
}

// TestBlockContent: a device that is not as its record says is repaired when the record is not believed.
func TestBlockContent(t *testing.T) {
	const size = fileSection
	l := newBlockLab(t, size, 2*size)
	l.keepOpen()
	l.src.write(t, 0, deviceNoise(l.rand, size))
	v := l.up("")
	l.down(v.Snapshot, "")
	for _, at := range []int64{12345, size / 2, size - 1, size + 99, 2*size - 1} {
		l.dst.write(t, at, []byte{0xff ^ l.dst.content(t)[at]})
	}
	r, err := l.block(OpRestore, VolumeRequest{Snapshot: v.Snapshot, Held: v.Snapshot, Content: true})
	must(t, err)
	l.same()
	if r.WrittenBytes > 3*pieceSize+2*readBuffer || r.ReadBytes != 2*size {
		t.Errorf("%d bytes written, %d read", r.WrittenBytes, r.ReadBytes)
	}
}

// TestBlockSeesOtherPaths: what reached the device by another path than this node's page
// cache is read, although the cache has something else; and so is what only the cache has.
func TestBlockSeesOtherPaths(t *testing.T) {
	const size = 2 * pieceSize
	l := newBlockLab(t, size, size)
	open := must1(os.Open(l.src.device)) // keeps the cache
	defer open.Close()
	must1(open.ReadAt(make([]byte, size), 0))
	other := must1(os.OpenFile(l.src.image, os.O_WRONLY, 0))
	defer other.Close()
	must1(other.WriteAt([]byte("by another path"), 4096))
	must(t, other.Sync())
	if b := l.src.content(t); !bytes.Equal(b[4096:4100], make([]byte, 4)) {
		t.Fatal("the cache has no stale page: this test shows nothing")
	}
	l.src.write(t, pieceSize, []byte("in the cache only"))
	l.down(l.up("").Snapshot, "")
	have := l.dst.content(t)
	if !bytes.HasPrefix(have[4096:], []byte("by another path")) || !bytes.HasPrefix(have[pieceSize:], []byte("in the cache only")) {
		t.Errorf("copied %q and %q", have[4096:4112], have[pieceSize:pieceSize+20])
	}
}

func TestBlockRefusals(t *testing.T) {
	long(t)
	const size = 8 * pieceSize
	l := newBlockLab(t, size, size-512)
	l.src.write(t, 0, deviceNoise(l.rand, size))
	l.write("file", "of a file system")
	device, files := l.up(""), l.upload("")
	before := l.dst.content(t)
	tests := []struct {
		name   string
		v      VolumeRequest
		reason Reason
	}{
		{"a smaller device", VolumeRequest{Mode: ModeBlock, Snapshot: device.Snapshot}, ReasonNoSpace},
		{"a file system's snapshot", VolumeRequest{Mode: ModeBlock, Snapshot: files.Snapshot}, ReasonSnapshotUnknown},
		{"a device's snapshot into a folder", VolumeRequest{Path: l.lab.dst, Snapshot: device.Snapshot}, ReasonSnapshotUnknown},
		{"a folder", VolumeRequest{Mode: ModeBlock, Path: l.lab.dst, Snapshot: device.Snapshot}, ReasonWriteFailed},
		{"a file", VolumeRequest{Mode: ModeBlock, Path: l.dst.image, Snapshot: device.Snapshot}, ReasonWriteFailed},
		{"another mode", VolumeRequest{Mode: "Tape", Snapshot: device.Snapshot}, ReasonBadRequest},
	}
	must(t, os.WriteFile(filepath.Join(l.lab.dst, "kept"), nil, 0o600))
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			if c.v.Path == "" {
				c.v.Path = l.dst.device
			}
			_, err := l.run(OpRestore, c.v)
			reasonIs(t, err, c.reason)
			if !bytes.Equal(before, l.dst.content(t)) {
				t.Error("the device was written to")
			}
			must1(os.Stat(filepath.Join(l.lab.dst, "kept")))
		})
	}
	other := must1(unix.Open(l.src.device, unix.O_RDWR|unix.O_EXCL, 0))
	defer unix.Close(other)
	_, err := l.run(OpRestore, VolumeRequest{Mode: ModeBlock, Path: l.src.device, Snapshot: device.Snapshot})
	reasonIs(t, err, ReasonWriteFailed)
	if !strings.Contains(err.Error(), "used by another program") {
		t.Error(err)
	}
}

// killed runs a restore that ends after so many pieces.
func (l *blockLab) killed(v VolumeRequest, pieces int32) {
	l.t.Helper()
	ctx, kill := context.WithCancelCause(context.Background())
	defer kill(nil)
	must(l.t, l.open.Refresh(ctx))
	s := &session{options: l.opts, req: l.req, repo: l.open, pool: newPool(0, kill)}
	var n atomic.Int32
	s.afterWrite = func(string) {
		if n.Add(1) > pieces {
			kill(errors.New("killed"))
		}
	}
	v.Name, v.Path, v.Mode = "shop/data", l.dst.device, ModeBlock
	if _, err := s.restore(ctx, v, &counters{}, &warnings{}); err == nil {
		l.t.Fatal("the restore was not killed")
	}
}

// TestBlockKilled stops restores at random pieces. The claim's mark is then not
// clean, so the next try compares by content.
func TestBlockKilled(t *testing.T) {
	const size = fileSection + 5*pieceSize
	l := newBlockLab(t, size, size+pieceSize)
	l.keepOpen()
	l.src.write(t, 0, deviceNoise(l.rand, size/4))
	held := l.up("").Snapshot
	l.down(held, "")
	for round := range 8 {
		for range 20 {
			l.src.write(t, l.rand.Int64N(size/4096)*4096, deviceNoise(l.rand, 4096))
		}
		next := l.up(held).Snapshot
		l.killed(VolumeRequest{Snapshot: next, Held: held}, l.rand.Int32N(10))
		r, err := l.block(OpRestore, VolumeRequest{Snapshot: next, Content: true})
		must(t, err)
		l.same()
		if r.WrittenBytes > 20*pieceSize {
			t.Errorf("round %d: %d bytes written after the kill", round, r.WrittenBytes)
		}
		held = next
	}
}
