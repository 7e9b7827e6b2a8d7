package engine

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// directLab is a lab whose copies go from mover to mover.
type directLab struct {
	*lab
	receiver, sender string // directories with identities
	// through leads a sender to the receiver's address by another one.
	through func(address string) string
	// sent is what the last sender reported.
	sent VolumeResult
}

func newDirectLab(t testing.TB) *directLab {
	l := &directLab{lab: newLab(t), through: func(a string) string { return a }}
	l.receiver, l.sender = identities(t)
	return l
}

func identities(t testing.TB) (receiver, sender string) {
	t.Helper()
	r, s, err := NewIdentities(time.Now(), time.Hour)
	must(t, err)
	return identityDir(t, r), identityDir(t, s)
}

func identityDir(t testing.TB, id Identity) string {
	t.Helper()
	dir := t.TempDir()
	for name, raw := range id {
		must(t, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
	}
	return dir
}

// transfer runs both movers; held is what the target holds.
func (l *directLab) transfer(ctx context.Context, held string, content, live bool) (snapshot string, sendErr, receiveErr error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	receive, send := l.req, l.req
	receive.Op, receive.CacheDir = OpReceive, l.req.CacheDir+"-receiver"
	receive.Direct = &Direct{Dir: l.receiver, Listen: "127.0.0.1:0"}
	receive.Volumes = []VolumeRequest{{Name: "shop/data", Path: l.dst, Held: held, Content: content}}
	send.Op, send.Direct, send.Live = OpSend, &Direct{Dir: l.sender}, live
	send.Volumes = []VolumeRequest{{Name: "shop/data", Path: l.src, Parent: held, Content: content}}
	address := make(chan string, 1)
	opts := l.opts
	opts.listening = func(a net.Addr) { address <- a.String() }
	var received Result
	done := make(chan struct{})
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(done)
		received, receiveErr = run(rctx, receive, opts)
	}()
	select {
	case a := <-address:
		send.Volumes[0].Peer = l.through(a)
	case <-done:
		l.t.Fatalf("the receiver did not listen: %v", receiveErr)
	}
	res, sendErr := run(ctx, send, l.opts)
	if sendErr != nil {
		time.AfterFunc(time.Second, stop) // as the daemon does; a receiver that noticed ends by itself
	}
	<-done
	if len(res.Volumes) > 0 {
		l.sent = res.Volumes[0]
	}
	if sendErr == nil && receiveErr == nil && received.Volumes[0].Snapshot != l.sent.Snapshot {
		l.t.Fatalf("sent snapshot %q, received %q", l.sent.Snapshot, received.Volumes[0].Snapshot)
	}
	return l.sent.Snapshot, sendErr, receiveErr
}

// move transfers and expects success.
func (l *directLab) move(held string, content bool) string {
	l.t.Helper()
	time.Sleep(testMargin + 20*time.Millisecond)
	id, serr, rerr := l.transfer(context.Background(), held, content, false)
	must(l.t, serr)
	must(l.t, rerr)
	return id
}

// bigFile makes a file of several windows or sections.
func bigFile(t testing.TB, p string, size int64, seed int64) {
	t.Helper()
	f := must1(os.Create(p))
	defer f.Close()
	must1(io.CopyN(f, rand.New(rand.NewSource(seed)), size))
}

// TestDirectTargetEqualsSource is the property of a direct transfer: whatever happens to the source
// between two, and to the target when the next compares by content, the target is equal to the source
// afterwards. Some rounds go through the repository, before and after hollow ones.
func TestDirectTargetEqualsSource(t *testing.T) {
	seeds, each := rounds(t)
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			l := newDirectLab(t)
			rnd := rand.New(rand.NewSource(int64(seed)))
			source := &mutator{t: t, rnd: rnd, root: l.src}
			target := &mutator{t: t, rnd: rnd, root: l.dst}
			source.steps(60)
			bigFile(t, filepath.Join(l.src, "big"), 5<<20+777, int64(seed))
			held := ""
			for round := range each {
				content := rnd.Intn(3) == 0 && round > 0
				if content {
					target.steps(15)
				}
				if round > 0 && rnd.Intn(4) == 0 {
					t.Logf("round %d by the repository", round)
					up := l.upload(held)
					_, err := l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot, Held: held, Content: content})
					must(t, err)
					held = up.Snapshot
				} else {
					t.Logf("round %d, content %v", round, content)
					held = l.move(held, content)
				}
				l.equal()
				l.nothingLeft(held)
				source.steps(1 + rnd.Intn(25))
				source.editBig(filepath.Join(l.src, "big"))
			}
		})
	}
}

// editBig changes, cuts, extends or punches a large file.
func (m *mutator) editBig(p string) {
	i, err := os.Lstat(p)
	if err != nil || !i.Mode().IsRegular() {
		return
	}
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	switch size := max(i.Size(), 1); m.rnd.Intn(5) {
	case 0:
		_ = f.Truncate(m.rnd.Int63n(size))
	case 1:
		_, _ = f.WriteAt(make([]byte, 3*pieceSize), m.rnd.Int63n(size))
	case 2:
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, m.rnd.Int63n(size), 2<<20)
	default:
		_, _ = f.WriteAt([]byte("page"), m.rnd.Int63n(2*size))
	}
}

// TestDirectMovesOnlyWhatChanged counts what a second transfer of a large file sends.
func TestDirectMovesOnlyWhatChanged(t *testing.T) {
	long(t)
	for _, content := range []bool{false, true} {
		l := newDirectLab(t)
		p := filepath.Join(l.src, "f")
		const size = 2*sectionSize + 5<<20 // sent over several lines
		bigFile(t, p, size, 1)
		l.write("small", "stays")
		held := l.move("", false)
		l.equal()
		if l.sent.SentBytes != size+5 {
			t.Fatalf("the first transfer sent %d bytes of %d", l.sent.SentBytes, size+5)
		}
		if l.sent.UploadedBytes > 1<<20 {
			t.Fatalf("%d bytes went to the repository", l.sent.UploadedBytes)
		}
		f := must1(os.OpenFile(p, os.O_WRONLY, 0))
		for _, at := range []int64{0, 7 * pieceSize, sectionSize + 100, size - 1} {
			must1(f.WriteAt([]byte{1}, at))
		}
		must(t, f.Close())
		held = l.move(held, content)
		l.equal()
		l.nothingLeft(held)
		if l.sent.SentBytes != 4*pieceSize {
			t.Errorf("content %v: sent %d bytes, want %d", content, l.sent.SentBytes, 4*pieceSize)
		}
	}
}

// TestDirectKeepsHoles copies a sparse file.
func TestDirectKeepsHoles(t *testing.T) {
	l := newDirectLab(t)
	p := filepath.Join(l.src, "sparse")
	f := must1(os.Create(p))
	must(t, f.Truncate(1<<30+1<<20)) // its list is longer than a piece
	must1(f.WriteAt([]byte("data"), 500<<20))
	must(t, f.Close())
	held := l.move("", false)
	l.nothingLeft(held)
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(l.dst, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the target's file takes %d bytes", st.Blocks*512)
	}
	if l.sent.SentBytes != pieceSize || l.sent.ReadBytes > 2<<20 {
		t.Errorf("read %d and sent %d bytes of a file with one piece", l.sent.ReadBytes, l.sent.SentBytes)
	}
	f = must1(os.OpenFile(p, os.O_WRONLY, 0))
	must1(f.WriteAt([]byte("more"), 900<<20))
	must(t, f.Close())
	held = l.move(held, false)
	l.nothingLeft(held)
	f = must1(os.Open(filepath.Join(l.dst, "sparse")))
	defer f.Close()
	b := make([]byte, 4)
	for at, want := range map[int64]string{500 << 20: "data", 900 << 20: "more", 700 << 20: "\x00\x00\x00\x00"} {
		must1(f.ReadAt(b, at))
		if string(b) != want {
			t.Errorf("at %d stands %q, want %q", at, b, want)
		}
	}
}

// cutting forwards to an address and breaks every connection after some bytes altogether.
func cutting(t testing.TB, address string, after int64) string {
	t.Helper()
	ln := must1(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { ln.Close() })
	var left atomic.Int64
	left.Store(after)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				c.Close()
				continue
			}
			pipe := func(to, from net.Conn) {
				defer to.Close()
				defer from.Close()
				buf := make([]byte, 4096)
				for {
					n, err := from.Read(buf)
					if left.Add(-int64(n)) < 0 || err != nil {
						return
					}
					if _, err := to.Write(buf[:n]); err != nil {
						return
					}
				}
			}
			go pipe(far, c)
			go pipe(c, far)
		}
	}()
	return ln.Addr().String()
}

// TestDirectCutAnywhere breaks the connections at random places. The next transfer compares by
// content, as a claim that is marked as being written makes it, and makes the target equal.
func TestDirectCutAnywhere(t *testing.T) {
	long(t)
	l := newDirectLab(t)
	rnd := rand.New(rand.NewSource(7))
	source := &mutator{t: t, rnd: rnd, root: l.src}
	source.steps(80)
	bigFile(t, filepath.Join(l.src, "big"), 12<<20, 1)
	held := l.move("", false)
	for i := range 5 {
		source.steps(20)
		source.editBig(filepath.Join(l.src, "big"))
		bigFile(t, filepath.Join(l.src, "other"), 3<<20, int64(i))
		l.through = func(a string) string { return cutting(t, a, 100_000+rnd.Int63n(6<<20)) }
		id, serr, rerr := l.transfer(context.Background(), held, false, false)
		if (serr == nil) != (rerr == nil) {
			t.Logf("cut %d: sender %v, receiver %v", i, serr, rerr)
		}
		if rerr == nil {
			l.equal()
			held = id
			continue
		}
		l.through = func(a string) string { return a }
		held = l.move(held, true)
		l.equal()
		l.nothingLeft(held)
	}
}

// TestDirectRefusesStrangers tries to send with an identity of another run, and to be received by one.
func TestDirectRefusesStrangers(t *testing.T) {
	for name, stranger := range map[string]func(l *directLab, otherReceiver, otherSender string){
		"a sender of another run":                         func(l *directLab, _, s string) { l.sender = s },
		"a receiver of another run":                       func(l *directLab, r, _ string) { l.receiver = r },
		"the receiver's certificate in the sender's hand": func(l *directLab, _, _ string) { l.sender = l.receiver },
		"the sender's certificate in the receiver's hand": func(l *directLab, _, _ string) { l.receiver = l.sender },
	} {
		t.Run(name, func(t *testing.T) {
			l := newDirectLab(t)
			l.write("a", "secret")
			r, s := identities(t)
			stranger(l, r, s)
			_, serr, rerr := l.transfer(context.Background(), "", false, false)
			reasonIs(t, serr, ReasonDirectUntrusted)
			if rerr == nil {
				t.Fatal("the receiver took it")
			}
			if d := describe(t, l.dst); len(d) != 1 {
				t.Fatalf("something was written: %v", d)
			}
		})
	}
}

// TestDirectNobodyThere sends to a place where nobody listens.
func TestDirectNobodyThere(t *testing.T) {
	l := newDirectLab(t)
	l.opts.dialPatience = 300 * time.Millisecond
	l.through = func(string) string { return "127.0.0.1:1" }
	_, serr, _ := l.transfer(context.Background(), "", false, false)
	reasonIs(t, serr, ReasonDirectUnreachable)
}

// TestDirectOtherParent refuses a sender that builds on what the target does not hold, and one that
// comes while another is connected.
func TestDirectOtherParent(t *testing.T) {
	g := &receiving{want: hello{Volume: "shop/data", Parent: "s1"}, conns: map[net.Conn]bool{}}
	for _, c := range []struct {
		session, parent string
		reason          Reason // "" for a line that is taken
	}{
		{"one", "s0", ReasonBadRequest}, {"", "s1", ReasonDirectBroken}, {"one", "s1", ""}, {"one", "s1", ""}, {"two", "s1", ReasonDirectBroken},
	} {
		a, b := net.Pipe()
		defer b.Close()
		err := g.join(a, hello{Volume: "shop/data", Session: c.session, Parent: c.parent})
		if c.reason == "" {
			must(t, err)
			continue
		}
		reasonIs(t, err, c.reason)
	}
}

// TestDirectLiveSource changes files while they are sent: the target gets what was sent, complete.
func TestDirectLiveSource(t *testing.T) {
	long(t)
	l := newDirectLab(t)
	bigFile(t, filepath.Join(l.src, "busy"), 80<<20, 3)
	bigFile(t, filepath.Join(l.src, "shrinks"), 70<<20, 4)
	for i := range 50 {
		l.write(fmt.Sprintf("d/%d", i), "content")
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		f, _ := os.OpenFile(filepath.Join(l.src, "busy"), os.O_WRONLY, 0)
		defer f.Close()
		for i := int64(0); ctx.Err() == nil; i++ {
			_, _ = f.WriteAt([]byte{byte(i)}, (i*77777)%(80<<20))
			if i == 200 {
				_ = os.Truncate(filepath.Join(l.src, "shrinks"), 40<<20+5)
				_ = os.Remove(filepath.Join(l.src, "d/49"))
			}
			time.Sleep(time.Millisecond)
		}
	}()
	id, serr, rerr := l.transfer(context.Background(), "", false, true)
	must(t, serr)
	must(t, rerr)
	stop()
	l.nothingLeft(id)
	v, err := l.run(OpRestore, VolumeRequest{Snapshot: id, Held: id, Content: true})
	must(t, err)
	if v.ChangedFiles != 0 || v.WrittenBytes != 0 {
		t.Fatalf("the target does not hold what its snapshot says: %+v", v)
	}
	time.Sleep(testMargin + 20*time.Millisecond)
	l.move(id, false)
	l.equal()
}

// TestHollowSnapshotGivesNoContent restores a hollow snapshot into an empty target: an error that
// says what to do, and never a wrong file. An upload after it stores everything.
func TestHollowSnapshotGivesNoContent(t *testing.T) {
	l := newDirectLab(t)
	l.write("small", "content")
	bigFile(t, filepath.Join(l.src, "big"), 3<<20, 1)
	held := l.move("", false)
	must(t, os.RemoveAll(l.dst))
	must(t, os.Mkdir(l.dst, 0o755))
	_, err := l.run(OpRestore, VolumeRequest{Snapshot: held})
	reasonIs(t, err, ReasonContentElsewhere)
	up := l.upload(held)
	if up.ChangedFiles != 2 {
		t.Errorf("%d files were read, want both", up.ChangedFiles)
	}
	l.restore(up.Snapshot, "")
	l.equal()
}

// TestDirectHardLinks sends a file by one path and restores it first by another.
func TestDirectHardLinks(t *testing.T) {
	l := newDirectLab(t)
	for i := range 20 {
		a := filepath.Join(l.src, fmt.Sprintf("m%02d", i))
		bigFile(t, a, 2*pieceSize+int64(i), int64(i))
		must(t, os.Link(a, filepath.Join(l.src, fmt.Sprintf("a%02d", i))))
		must(t, os.MkdirAll(filepath.Join(l.src, "z"), 0o755))
		must(t, os.Link(a, filepath.Join(l.src, fmt.Sprintf("z/%02d", i))))
	}
	held := l.move("", false)
	l.equal()
	l.nothingLeft(held)
}
