package engine

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sys/unix"
)

// sparseCases are files with holes at every kind of place: offset → length of data.
func sparseCases() map[string]struct {
	size int64
	data map[int64]int64
} {
	return map[string]struct {
		size int64
		data map[int64]int64
	}{
		"nothing but a hole":            {3*fileSection + 77, nil},
		"one short hole":                {pieceSize / 2, nil},
		"data at the end":               {fileSection + 3*pieceSize + 5, map[int64]int64{fileSection + 3*pieceSize: 5}},
		"data at the beginning":         {5*pieceSize + 1, map[int64]int64{0: 4096}},
		"a page in every third piece":   {40 * pieceSize, map[int64]int64{0: 4096, 3 * pieceSize: 4096, 6*pieceSize + 8192: 4096, 9*pieceSize - 4096: 8192}},
		"data over a section's border":  {3 * fileSection, map[int64]int64{fileSection - 4096: 8192, 2*fileSection - pieceSize: 2 * pieceSize}},
		"a hole of a page only":         {2 * pieceSize, map[int64]int64{0: pieceSize - 4096, pieceSize: pieceSize}},
		"zeros that were written":       {2 * pieceSize, map[int64]int64{0: 0}},
		"the last piece is a short one": {fileSection + 100, map[int64]int64{4096: 4096}},
	}
}

// TestHolesAreZeros stores a file with holes, the same file with zeros on the disk, and the same bytes
// through the library's own writer: all must be the same object.
func TestHolesAreZeros(t *testing.T) {
	l := newLab(t)
	l.keepOpen()
	for name, c := range sparseCases() {
		t.Run(name, func(t *testing.T) {
			holes, full := filepath.Join(l.src, "holes"), filepath.Join(l.src, "full")
			f := must1(os.Create(holes))
			defer os.Remove(holes)
			must(t, f.Truncate(c.size))
			for at, n := range c.data {
				buf := make([]byte, n)
				must1(rand.Read(buf))
				must1(f.WriteAt(buf, at))
			}
			must(t, f.Close())
			content := must1(os.ReadFile(holes))
			must(t, os.WriteFile(full, content, 0o644))
			defer os.Remove(full)
			var sparse unix.Stat_t
			must(t, unix.Stat(holes, &sparse))
			a, read := l.objectOf(holes)
			b, readAll := l.objectOf(full)
			if a != b {
				t.Errorf("with holes %v, without %v", a, b)
			}
			if want := l.objectByLibrary(content); a != want {
				t.Errorf("we store %v, the library %v", a, want)
			}
			if readAll != c.size || (sparse.Blocks*512 < c.size-2*pieceSize*int64(len(c.data)+1) && read > 2*pieceSize*int64(len(c.data))) {
				t.Errorf("read %d bytes of the file with holes (%d on disk), %d of the other", read, sparse.Blocks*512, readAll)
			}
		})
	}
}

// objectOf stores one file and says how much of it was read.
func (l *lab) objectOf(path string) (id object.ID, read int64) {
	l.t.Helper()
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	must(l.t, repo.WriteSession(ctx, l.open, repo.WriteSessionOptions{}, func(ctx context.Context, w repo.RepositoryWriter) error {
		u := &uploader{session: &session{options: l.opts, repo: l.open, pool: newPool(0, stop)}, w: w,
			count: &counters{}, warn: &warnings{}, zeros: map[int64]object.ID{}}
		f := must1(os.Open(path))
		defer f.Close()
		var st unix.Stat_t
		must(l.t, unix.Fstat(int(f.Fd()), &st))
		var n int64
		var err error
		if id, n, err = u.content(ctx, f, &st, path); err == nil && n != st.Size {
			l.t.Errorf("stored %d of %d bytes", n, st.Size)
		}
		read = u.count.read.Load()
		return err
	}))
	return id, read
}

func (l *lab) objectByLibrary(content []byte) (id object.ID) {
	must(l.t, repo.WriteSession(context.Background(), l.open, repo.WriteSessionOptions{}, func(ctx context.Context, w repo.RepositoryWriter) (err error) {
		ow := w.NewObjectWriter(ctx, object.WriterOptions{MetadataCompressor: metadataCompressor})
		defer ow.Close()
		must1(ow.Write(content))
		id, err = ow.Result()
		return err
	}))
	return id
}

// TestShrinksWhileRead cuts a file while it is being read: size and content must agree.
func TestShrinksWhileRead(t *testing.T) {
	l := newLab(t)
	l.keepOpen()
	for _, left := range []int64{0, 1, pieceSize, pieceSize + 1, 3*fileSection - 1} {
		p := filepath.Join(l.src, "f")
		content := make([]byte, 3*fileSection)
		must1(rand.Read(content))
		must(t, os.WriteFile(p, content, 0o644))
		ctx, stop := context.WithCancelCause(context.Background())
		must(t, repo.WriteSession(ctx, l.open, repo.WriteSessionOptions{}, func(ctx context.Context, w repo.RepositoryWriter) error {
			u := &uploader{session: &session{options: l.opts, repo: l.open, pool: newPool(0, stop)}, w: w,
				count: &counters{}, warn: &warnings{}, zeros: map[int64]object.ID{}}
			f := must1(os.Open(p))
			defer f.Close()
			var st unix.Stat_t
			must(t, unix.Fstat(int(f.Fd()), &st))
			must(t, os.Truncate(p, left))
			id, n, err := u.content(ctx, f, &st, "f")
			if err != nil {
				return err
			}
			if want := l.objectByLibrary(content[:left]); n != left || id != want {
				t.Errorf("cut to %d: stored %d bytes as %v, want %v", left, n, id, want)
			}
			return nil
		}))
		stop(nil)
	}
}

// TestOnePageChanged changes pages of a large file: the whole file is read, and little more than the
// changed pieces is sent.
func TestOnePageChanged(t *testing.T) {
	size := int64(64 << 20)
	if os.Getenv("TRANSHIP_LONG") != "" {
		size = 512 << 20
	}
	l := newLab(t)
	l.keepOpen()
	l.bigFile(size)
	first := l.upload("")
	f := must1(os.OpenFile(filepath.Join(l.src, "big"), os.O_WRONLY, 0))
	const pages = 16
	for i := range int64(pages) {
		must1(f.WriteAt([]byte("changed"), i*(size/pages)+8192))
	}
	must(t, f.Close())
	second := l.upload(first.Snapshot)
	t.Logf("read %d, sent %d for %d changed bytes of pieces", second.ReadBytes, second.UploadedBytes, pages*pieceSize)
	if second.ReadBytes != size || second.UploadedBytes > pages*pieceSize*12/10 {
		t.Errorf("read %d and sent %d bytes", second.ReadBytes, second.UploadedBytes)
	}
}

// TestSettles changes a file during its first reading only: it is read again and nothing is to report.
func TestSettles(t *testing.T) {
	l := newLab(t)
	l.opts.settlePause = testMargin
	l.write("d/f", "first")
	l.write("d/gone", "soon")
	var once sync.Once
	l.opts.afterRead = func(rel string) {
		if rel == "d/f" {
			once.Do(func() {
				time.Sleep(testMargin)
				l.write("d/f", "second, and longer")
			})
		}
	}
	l.req.Live = true
	up := l.upload("")
	if up.WarningCount != 0 || up.Files != 2 || up.ChangedFiles != 2 {
		t.Errorf("%+v", up)
	}
	l.restore(up.Snapshot, "")
	l.equal()
}

// TestNeverSettles has a file that changes at each reading: it is reported once, and what is stored of
// it can be restored.
func TestNeverSettles(t *testing.T) {
	l := newLab(t)
	l.opts.settlePause = time.Millisecond
	l.write("f", "x")
	must(t, os.Link(filepath.Join(l.src, "f"), filepath.Join(l.src, "g")))
	l.write("h", "x")
	reads := 0
	var mu sync.Mutex
	l.opts.afterRead = func(rel string) {
		mu.Lock()
		defer mu.Unlock()
		reads++
		time.Sleep(testMargin)
		f := must1(os.OpenFile(filepath.Join(l.src, rel), os.O_APPEND|os.O_WRONLY, 0))
		must1(f.WriteString("more"))
		must(t, f.Close())
	}
	l.req.Live = true
	up := l.upload("")
	if up.WarningCount != 2 || up.Files != 3 || reads != 2+settleTries {
		t.Errorf("%d readings: %+v", reads, up)
	}
	l.restore(up.Snapshot, "")
	l.opts.afterRead = func(string) {}
	l.restore(l.upload(up.Snapshot).Snapshot, up.Snapshot)
	l.equal()
}
