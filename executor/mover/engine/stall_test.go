package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"
)

// Time in these tests is a bubble's: no machine is too busy for it.

// watched watches c as a run does, until stop or the end of the test; the log is whole after that.
func watched(t *testing.T, c *counters, log io.Writer) (ctx context.Context, stop func()) {
	ctx, stop = c.watch(t.Context(), slog.New(slog.NewJSONHandler(log, nil)), progressEvery)
	stop = sync.OnceFunc(stop)
	t.Cleanup(stop)
	return ctx, stop
}

// A copy that moves, however slowly, goes on for as long as it likes; one that
// stands still ends with a reason.
func TestSlowIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counters
		ctx, _ := watched(t, &c, io.Discard)
		for range 20 {
			time.Sleep(StallLimit - time.Minute)
			c.read.Add(1)
		}
		if ctx.Err() != nil {
			t.Fatalf("a slow copy was ended: %v", context.Cause(ctx))
		}
		time.Sleep(StallLimit + 2*progressEvery)
		if err := context.Cause(ctx); reasonOf(err) != ReasonStalled {
			t.Errorf("a copy that stands still: %v", err)
		}
	})
}

// Whoever waits for somebody else has no limit until he has the next word. The log says how long
// nothing has moved, also of what hangs on after its end.
func TestWaitingIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counters
		var log bytes.Buffer
		ctx, stop := watched(t, &c, &log)
		c.waiting.Store(true)
		time.Sleep(3 * StallLimit)
		if ctx.Err() != nil {
			t.Error("a receiver was ended while it waited")
		}
		c.step()
		c.waiting.Store(false)
		time.Sleep(StallLimit - 2*progressEvery)
		if ctx.Err() != nil {
			t.Error("the time of waiting was counted")
		}
		time.Sleep(2 * StallLimit)
		stop()
		if err := context.Cause(ctx); reasonOf(err) != ReasonStalled {
			t.Errorf("a receiver that stands still when all has come: %v", err)
		}
		for _, still := range []time.Duration{10 * time.Second, StallLimit + 5*time.Minute} {
			if want := fmt.Sprintf(`"stillSeconds":%d,`, int(still.Seconds())); !strings.Contains(log.String(), want) {
				t.Errorf("the log never has %s", want)
			}
		}
	})
}

// A sync, which shows nothing of what it does, has more time; one that never ends is left behind.
func TestASyncHasTimeOfItsOwn(t *testing.T) {
	null := must1(os.Open(os.DevNull))
	defer null.Close()
	synctest.Test(t, func(t *testing.T) {
		var c counters
		var log bytes.Buffer
		ctx, stop := watched(t, &c, &log)
		begin := time.Now()
		must(t, c.synced(ctx, int(null.Fd()), func(int) error { time.Sleep(SyncLimit - time.Minute); return nil }))
		if ctx.Err() != nil || time.Since(begin) < SyncLimit-time.Minute {
			t.Fatalf("a slow sync was ended: %v", context.Cause(ctx))
		}
		if err := c.synced(ctx, int(null.Fd()), func(int) error { return unix.EIO }); !errors.Is(err, unix.EIO) {
			t.Errorf("a sync that failed: %v", err)
		}
		hangs := make(chan struct{})
		err := c.synced(ctx, int(null.Fd()), func(int) error { <-hangs; return nil })
		if reasonOf(err) != ReasonStalled || !strings.Contains(err.Error(), "synced") {
			t.Errorf("a sync that never ends: %v", err)
		}
		close(hangs)
		if stop(); !strings.Contains(log.String(), `"syncing":true`) {
			t.Error("the log does not say that it syncs")
		}
	})
}

// slowStore is a store behind a link of 8 KiB/s that breaks after so many bytes without a word.
type slowStore struct {
	object []byte
	breaks int
}

// link delays what is read from body.
type link struct {
	ctx  context.Context
	body io.Reader
	left int
}

func (l *link) Read(p []byte) (int, error) {
	if l.left <= 0 {
		<-l.ctx.Done()
		return 0, l.ctx.Err()
	}
	n, err := l.body.Read(p[:min(len(p), 16<<10)])
	l.left -= n
	time.Sleep(time.Duration(n) * time.Second / (8 << 10))
	return n, err
}

// RoundTrip implements http.RoundTripper.
func (s *slowStore) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := &http.Response{StatusCode: http.StatusOK, Request: r, Body: http.NoBody, Header: http.Header{
		"Etag": {`"x"`}, "Last-Modified": {time.Now().UTC().Format(http.TimeFormat)},
	}}
	if r.Method == http.MethodPut {
		_, err := io.Copy(io.Discard, &link{r.Context(), r.Body, s.breaks})
		return answer, err
	}
	answer.ContentLength = int64(len(s.object))
	answer.Header.Set("Content-Length", fmt.Sprint(len(s.object)))
	answer.Body = io.NopCloser(&link{r.Context(), bytes.NewReader(s.object), s.breaks})
	return answer, nil
}

// A pack on a slow link takes longer than the limit, and moves all the time.
func TestASlowStoreIsNotStalled(t *testing.T) {
	pack := make([]byte, 20<<20)
	for name, do := range map[string]func(context.Context, blob.Storage) error{
		"put": func(ctx context.Context, b blob.Storage) error {
			return b.PutBlob(ctx, "p1", inBytes(pack), blob.PutOptions{})
		},
		"get": func(ctx context.Context, b blob.Storage) error {
			return b.GetBlob(ctx, "p1", 0, -1, &outBuffer{})
		},
	} {
		for what, breaks := range map[string]int{"slow": 2 * len(pack), "broken": 1 << 20} {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := counters{traffic: &traffic{}}
					client := must1(minio.New("store.invalid", &minio.Options{
						Creds: credentials.NewStaticV4("a", "b", ""), Secure: true, Region: "r", MaxRetries: 1,
						Transport: &slowStore{object: pack, breaks: breaks},
					}))
					s := &s3Store{bucket: &bucket{client: minio.Core{Client: client}, name: "bucket", secure: true, patience: storePatience}}
					ctx, _ := watched(t, &c, io.Discard)
					begin := time.Now()
					err := do(ctx, must1(s.open(ctx, c.traffic)))
					if what == "slow" {
						must(t, err)
						if took := time.Since(begin); took < 3*StallLimit || ctx.Err() != nil {
							t.Fatalf("took %s: %v", took, context.Cause(ctx))
						}
					} else if cause := context.Cause(ctx); err == nil || reasonOf(cause) != ReasonStalled {
						t.Errorf("a link that broke: %v, %v", err, cause)
					}
				})
			})
		}
	}
}

// Names without content are looked at for long before anything is read.
func TestEntriesAreMovement(t *testing.T) {
	l := newLab(t)
	const entries = 300
	for i := range entries / 3 {
		name := filepath.Join(l.src, fmt.Sprint(i))
		must(t, os.Mkdir(name+"d", 0o755))
		must(t, os.Symlink("x", name+"l"))
		must(t, unix.Mkfifo(name+"f", 0o644))
	}
	l.keepOpen()
	ctx, stop := context.WithCancelCause(t.Context())
	s := &session{options: l.opts, req: l.req, repo: l.open, pool: newPool(1, stop)}
	var up, down counters
	id := must1(s.upload(ctx, VolumeRequest{Name: "shop/a", Path: l.src}, &up, &warnings{}))
	v := VolumeRequest{Name: "shop/a", Path: l.dst, Snapshot: id}
	must(t, l.open.Refresh(ctx))
	must1(s.restore(ctx, v, &down, &warnings{}))
	if n := up.other.Load(); n < entries {
		t.Errorf("%d steps of an upload", n)
	}
	if n := down.other.Load(); n < entries {
		t.Errorf("%d steps of a restore", n)
	}
	var again counters
	v.Held, v.Verify = id, VerifyAll
	must1(s.restore(ctx, v, &again, &warnings{}))
	if n := again.other.Load(); n < 3*entries { // listed, walked, verified
		t.Errorf("%d steps of a restore that changes nothing, with its verification", n)
	}
}

// slowConn takes in 4 KiB/s.
type slowConn struct{ net.Conn }

func (c slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), 4<<10)])
	time.Sleep(time.Duration(n) * time.Second / (4 << 10))
	return n, err
}

// A window that takes longer than a line is waited for moves all the time. What only says that
// somebody is there is no movement.
func TestASlowLineMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		there, here := identities(t)
		var c counters
		a, b := net.Pipe()
		received := make(chan error, 1)
		go func() {
			l, err := newLine(t.Context(), slowConn{b}, must1(directTLS(there, true)), true)
			for f := frameAlive; err == nil && f != frameWindow; {
				f, _, err = l.receive()
			}
			received <- err
			b.Close()
		}()
		l := must1(newLine(t.Context(), a, must1(directTLS(here, false)), false))
		l.moved = &c.other
		must(t, l.send(frameAlive, nil))
		if c.steps() != 0 {
			t.Error("a word that there is nothing to say counts as movement")
		}
		begin, parts := time.Now(), make([][]byte, windowSize/pieceSize)
		for i := range parts {
			parts[i] = make([]byte, pieceSize)
		}
		ctx, _ := watched(t, &c, io.Discard)
		l.begin(frameWindow)
		must(t, l.finish(parts...))
		must(t, <-received)
		if took := time.Since(begin); took < 2*linePatience || ctx.Err() != nil || c.steps() != windowSize {
			t.Errorf("took %s and moved %d: %v", took, c.steps(), context.Cause(ctx))
		}
		a.Close()
	})
}
