package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/format"
	"golang.org/x/sys/unix"
)

// fileStore keeps a repository in a directory: the library's own file store.
type fileStore struct{ path string }

func (s fileStore) open(ctx context.Context, _ *traffic) (blob.Storage, error) {
	return filesystem.New(ctx, &filesystem.Options{Path: s.path}, false)
}

func (s fileStore) read(ctx context.Context) ([]byte, error) {
	st, err := filesystem.New(ctx, &filesystem.Options{Path: s.path}, false)
	if err != nil {
		return nil, err
	}
	var b outBuffer
	if err := st.GetBlob(ctx, format.KopiaRepositoryBlobID, 0, -1, &b); err != nil {
		if errors.Is(err, blob.ErrBlobNotFound) {
			return nil, nil
		}
		return nil, err
	}
	return b.Bytes(), nil
}

func (s fileStore) create(ctx context.Context, data []byte) error {
	st, err := filesystem.New(ctx, &filesystem.Options{Path: s.path}, false)
	if err != nil {
		return err
	}
	return st.PutBlob(ctx, format.KopiaRepositoryBlobID, inBytes(data), blob.PutOptions{})
}

type outBuffer struct{ bytes.Buffer }

func (b *outBuffer) Length() int { return b.Len() }

type inBytes []byte

func (b inBytes) WriteTo(w io.Writer) (int64, error) { n, err := w.Write(b); return int64(n), err }
func (b inBytes) Length() int                        { return len(b) }
func (b inBytes) Reader() io.ReadSeekCloser          { return nopCloser{bytes.NewReader(b)} }

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// lab is a source, a target and a repository between them.
type lab struct {
	t        testing.TB
	src, dst string
	req      Request
	opts     options
	// open is a repository kept open between runs, for tests with very many; nil opens it each time.
	open repo.DirectRepository
}

// keepOpen opens the repository once for all runs of the lab.
func (l *lab) keepOpen() {
	l.t.Helper()
	ctx := context.Background()
	st := must1(l.opts.openStore(l.req.Repository, secrets{}))
	f := newFront(ctx, must1(st.open(ctx, nil)))
	var err error
	f.format, _, err = ensureRepository(ctx, st, "pw", true)
	must(l.t, err)
	l.open, err = openRepository(ctx, f, opening{"pw", l.req.CacheDir, false, func(err error) { panic(err) }})
	must(l.t, err)
	l.t.Cleanup(func() { _ = l.open.Close(ctx) })
}

// runOpen runs an operation on the repository that is kept open.
func (l *lab) runOpen(req Request) (res Result, err error) {
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	must(l.t, l.open.Refresh(ctx))
	s := &session{options: l.opts, req: req, repo: l.open, pool: newPool(req.Parallel, stop)}
	return res, s.volume(ctx, operations()[req.Op], req.Volumes[0], &res)
}

// testMargin is above the granularity of time stamps of the file systems that tests run on.
const testMargin = 40 * time.Millisecond

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("copies owners and modes: needs root")
	}
	base := t.TempDir()
	l := &lab{t: t, src: filepath.Join(base, "src"), dst: filepath.Join(base, "dst"), opts: defaults()}
	place := filepath.Join(base, "store")
	for _, d := range []string{l.src, l.dst, place} {
		must(t, os.Mkdir(d, 0o755))
	}
	creds, pw := filepath.Join(base, "credentials"), filepath.Join(base, "password")
	must(t, os.WriteFile(creds, []byte("[default]\naws_access_key_id = AKIATESTTESTTEST\naws_secret_access_key=secretsecretsecret\n"), 0o600))
	must(t, os.WriteFile(pw, []byte("correct horse\n"), 0o600))
	l.req = Request{CredentialsFile: creds, PasswordFile: pw, CacheDir: filepath.Join(base, "cache")}
	l.opts.openStore = func(Repository, secrets) (store, error) { return fileStore{place}, nil }
	l.opts.margin = testMargin
	l.opts.log = slog.New(slog.DiscardHandler)
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lab) run(op Op, v VolumeRequest) (VolumeResult, error) {
	l.t.Helper()
	req := l.req
	req.Op = op
	if v.Name == "" {
		v.Name = "shop/data"
	}
	if v.Path == "" {
		v.Path = map[Op]string{OpUpload: l.src, OpRestore: l.dst}[op]
	}
	req.Volumes = []VolumeRequest{v}
	doRun := func(req Request) (Result, error) { return run(context.Background(), req, l.opts) }
	if l.open != nil {
		doRun = l.runOpen
	}
	res, err := doRun(req)
	if len(res.Volumes) == 0 {
		return VolumeResult{}, err
	}
	return res.Volumes[0], err
}

// upload takes a snapshot after the change times have aged beyond the margin.
func (l *lab) upload(parent string) VolumeResult {
	l.t.Helper()
	time.Sleep(testMargin + 20*time.Millisecond)
	v, err := l.run(OpUpload, VolumeRequest{Parent: parent})
	must(l.t, err)
	return v
}

func (l *lab) restore(snapshot, held string) VolumeResult {
	l.t.Helper()
	v, err := l.run(OpRestore, VolumeRequest{Snapshot: snapshot, Held: held})
	must(l.t, err)
	return v
}

// equal compares the two trees by a walk that shares nothing with the engine.
func (l *lab) equal() {
	l.t.Helper()
	if d := diff(describe(l.t, l.src), describe(l.t, l.dst)); d != "" {
		l.t.Fatalf("the target differs from the source:\n%s", d)
	}
}

// describe lists everything below root: path -> all that must survive.
func describe(t testing.TB, root string) map[string]string {
	t.Helper()
	out, inodes := map[string]string{}, map[uint64][]string{}
	must(t, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if rel == lostFound {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		d := fmt.Sprintf("mode=%o uid=%d gid=%d mtime=%d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch {
		case e.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(p)
			d = fmt.Sprintf("%s -> %q", d, to)
		case e.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			h := sha256.Sum256(b)
			d += fmt.Sprintf(" size=%d sha=%s", st.Size, hex.EncodeToString(h[:6]))
			inodes[st.Ino] = append(inodes[st.Ino], rel)
		}
		out[rel] = d + listAttrs(p)
		return nil
	}))
	for _, group := range inodes {
		if len(group) > 1 {
			sort.Strings(group)
			for _, p := range group {
				out[p] += fmt.Sprintf(" links=%q", group)
			}
		}
	}
	return out
}

func listAttrs(p string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil || n == 0 {
		return ""
	}
	var parts []string
	for _, name := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if name == "security.selinux" {
			continue
		}
		v := make([]byte, 64<<10)
		k, _ := unix.Lgetxattr(p, name, v)
		parts = append(parts, fmt.Sprintf(" %s=%x", name, v[:max(k, 0)]))
	}
	sort.Strings(parts)
	return strings.Join(parts, "")
}

func diff(want, have map[string]string) string {
	var lines []string
	for p, w := range want {
		if h, ok := have[p]; !ok {
			lines = append(lines, fmt.Sprintf("%q missing: %s", p, w))
		} else if h != w {
			lines = append(lines, fmt.Sprintf("%q\n  want %s\n  have %s", p, w, h))
		}
	}
	for p, h := range have {
		if _, ok := want[p]; !ok {
			lines = append(lines, fmt.Sprintf("%q extra: %s", p, h))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func (l *lab) write(rel, content string) {
	l.t.Helper()
	p := filepath.Join(l.src, rel)
	must(l.t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(l.t, os.WriteFile(p, []byte(content), 0o644))
}

func (l *lab) setTime(rel string, at time.Time) {
	l.t.Helper()
	must(l.t, os.Chtimes(filepath.Join(l.src, rel), at, at))
}

// reasonIs fails the test unless err has the reason.
func reasonIs(t testing.TB, err error, want Reason) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Fatalf("error %v, want reason %s", err, want)
	}
}

// long leaves a test out where the race detector runs, under which it takes many
// seconds or minutes: make test runs it without.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes long; it runs without -short")
	}
}
