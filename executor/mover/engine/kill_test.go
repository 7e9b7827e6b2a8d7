package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

const killedChild = "TRANSHIP_ENGINE_TEST_CHILD"

// TestKilledRestoreIsContinued kills a process in the middle of a restore, several times, and then
// continues as the daemon does: by content.
func TestKilledRestoreIsContinued(t *testing.T) {
	long(t)
	l := newLab(t)
	for i := range 40 {
		l.write(fmt.Sprintf("d%d/f%d", i%5, i), strings.Repeat(fmt.Sprint(i), 100+i*3000))
	}
	must(t, os.Link(filepath.Join(l.src, "d0/f0"), filepath.Join(l.src, "d1/link")))
	first := l.upload("")
	l.restore(first.Snapshot, "")
	for i := range 40 {
		l.write(fmt.Sprintf("d%d/f%d", i%5, i), strings.Repeat(fmt.Sprint(i), 200+i*3000))
	}
	second := l.upload(first.Snapshot)
	for _, after := range []int{1, 7, 20} {
		if !l.killed(VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot, Content: true}, after) {
			t.Fatal("the restore came to its end")
		}
		if diff(describe(t, l.src), describe(t, l.dst)) == "" {
			t.Fatal("the killed restore was complete: nothing is proven")
		}
	}
	_, err := l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot, Content: true})
	must(t, err)
	l.equal()
}

// killed runs a restore in a child that kills itself after so many files and pieces, and says whether
// it came to that.
func (l *lab) killed(v VolumeRequest, after int) bool {
	l.t.Helper()
	st := must1(l.opts.openStore(Repository{}, secrets{})).(fileStore)
	req := withOp(l.req, OpRestore)
	req.Repository.Endpoint, req.CacheDir = st.path, l.t.TempDir()
	v.Name, v.Path = "shop/data", l.dst
	req.Volumes = []VolumeRequest{v}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildRestore$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", killedChild, after))
	cmd.Stdin = bytes.NewReader(must1(json.Marshal(req)))
	out, err := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		l.t.Fatalf("the child failed: %v\n%s", err, out)
	}
	return false
}

// TestChildRestore is the child of the tests that kill a restore.
func TestChildRestore(t *testing.T) {
	after := int64(0)
	if _, err := fmt.Sscan(os.Getenv(killedChild), &after); err != nil {
		t.Skip("runs as a child only")
	}
	var req Request
	must(t, json.NewDecoder(os.Stdin).Decode(&req))
	o := defaults()
	o.openStore = func(r Repository, _ secrets) (store, error) { return fileStore{r.Endpoint}, nil }
	var done atomic.Int64
	o.afterWrite = func(string) {
		if done.Add(1) == after {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	o.afterPiece = o.afterWrite
	_, err := run(context.Background(), req, o)
	must(t, err)
}

// TestKilledAnywhere is the property: whatever happens to a source, and wherever its restore is
// killed or cancelled, however often, the run that compares by content ends with a target that is
// equal; and no file in between has the size and the time of a record and other bytes than it.
func TestKilledAnywhere(t *testing.T) {
	long(t)
	for seed := range 2 {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			l := newLab(t)
			l.keepOpen()
			must(t, os.WriteFile(l.req.PasswordFile, []byte("pw"), 0o600)) // as keepOpen has it
			rnd := rand.New(rand.NewSource(int64(seed)))
			source := &mutator{t: t, rnd: rnd, root: l.src}
			for i := range 3 {
				must(t, os.WriteFile(filepath.Join(l.src, fmt.Sprint("large", i)), noise(int64(i), 40*pieceSize+i), 0o640))
			}
			source.steps(50)
			held := l.upload("").Snapshot
			l.restore(held, "")
			kills := 0
			for range 3 {
				old := describe(t, l.src)
				source.steps(5)
				for range 20 {
					source.writePages()
				}
				next := l.upload(held).Snapshot
				for try := range 1 + rnd.Intn(3) {
					v := VolumeRequest{Snapshot: next, Held: held, Content: try > 0}
					if rnd.Intn(3) == 0 {
						l.cancelled(v, 1+rnd.Int63n(15))
					} else if l.killed(v, 1+rnd.Intn(15)) {
						kills++
					}
					l.nothingMixed(old)
				}
				_, err := l.run(OpRestore, VolumeRequest{Snapshot: next, Held: held, Content: true})
				must(t, err)
				l.equal()
				held = next
			}
			if kills == 0 {
				t.Error("no child was killed: nothing is proven")
			}
		})
	}
}

// cancelled runs a restore that is cancelled after so many files and pieces.
func (l *lab) cancelled(v VolumeRequest, after int64) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := l.opts
	var done atomic.Int64
	o.afterWrite = func(string) {
		if done.Add(1) == after {
			cancel()
		}
	}
	o.afterPiece = o.afterWrite
	req := withOp(l.req, OpRestore)
	req.CacheDir = l.t.TempDir()
	v.Name, v.Path = "shop/data", l.dst
	req.Volumes = []VolumeRequest{v}
	if _, err := run(ctx, req, o); err != nil {
		reasonIs(l.t, err, ReasonCancelled)
		return
	}
	if errors.Is(ctx.Err(), context.Canceled) && done.Load() < after {
		l.t.Error("a cancelled run says that it succeeded")
	}
}

// nothingMixed looks at every file of the target that a record would be believed of: by its size and
// time it is the old one or the new one, and then it must have the bytes of one of them.
func (l *lab) nothingMixed(old map[string]string) {
	l.t.Helper()
	now := describe(l.t, l.src)
	for p, have := range describe(l.t, l.dst) {
		h := believable(have)
		if h.sha == "" {
			continue
		}
		believed, right := false, false
		for _, record := range []string{old[p], now[p]} {
			r := believable(record)
			if r.sha != "" && r.size == h.size && r.mtime == h.mtime {
				believed, right = true, right || r.sha == h.sha
			}
		}
		if believed && !right {
			l.t.Errorf("%q would be believed and is mixed: %s", p, have)
		}
	}
}

// believable takes apart what describe says of a file.
func believable(s string) (id struct{ mtime, size, sha string }) {
	for _, word := range strings.Fields(s) {
		switch key, value, _ := strings.Cut(word, "="); key {
		case "mtime":
			id.mtime = value
		case "size":
			id.size = value
		case "sha":
			id.sha = value
		}
	}
	return id
}
