package engine

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// midCopy lets an upload of a large file begin, does something to the store when some packs have
// arrived, and returns what became of the upload.
func (l *lab) midCopy(p *storeProxy, happens func()) (VolumeResult, error, time.Duration) {
	packs, begin := 0, time.Time{}
	p.set(0, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/p") && p.count(&packs) == 2 {
			begin = time.Now()
			happens()
		}
		return false
	})
	v, err := l.run(OpUpload, VolumeRequest{})
	return v, err, time.Since(begin)
}

func (p *storeProxy) count(n *int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	*n++
	return *n
}

// TestBedStoreGoneInMidCopy takes the store away in the middle of an upload: for a while, and it goes
// on; for good, and the next attempt does.
func TestBedStoreGoneInMidCopy(t *testing.T) {
	long(t)
	away := 8 * time.Second
	if os.Getenv("TRANSHIP_LONG") != "" {
		away = time.Minute
	}
	l := newBedLab(t)
	p := l.throughProxy(t)
	l.bigFile(120 << 20)
	gone := func(w http.ResponseWriter, _ *http.Request) bool {
		conn, _, err := w.(http.Hijacker).Hijack() // as a host that went down
		if err == nil {
			_ = conn.Close()
		}
		return true
	}
	v, err, took := l.midCopy(p, func() {
		p.set(0, gone)
		time.AfterFunc(away, func() { p.set(0, nil) })
	})
	must(t, err)
	if took < away {
		t.Errorf("it took %v without a store for %v", took, away)
	}
	l.restore(v.Snapshot, "")
	l.equal()

	if os.Getenv("TRANSHIP_LONG") == "" {
		return
	}
	l.bigFile(120 << 20)
	_, err, took = l.midCopy(p, func() { p.set(0, gone) })
	reasonIs(t, err, ReasonRepositoryUnreachable)
	t.Logf("gave up after %v: %v", took, err)
	p.set(0, nil)
	l.restore(l.upload(v.Snapshot).Snapshot, v.Snapshot)
	l.equal()
}

// TestBedAccessRevokedInMidCopy refuses everything from some pack on: the upload ends at once.
func TestBedAccessRevokedInMidCopy(t *testing.T) {
	l := newBedLab(t)
	p := l.throughProxy(t)
	l.bigFile(120 << 20)
	_, err, took := l.midCopy(p, func() {
		p.set(0, func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>revoked</Message></Error>")
			return true
		})
	})
	reasonIs(t, err, ReasonAccessDenied)
	if took > storePatience { // as long as a store that does not answer is asked again
		t.Errorf("it took %v to say so", took)
	}
	t.Log(err)
}

// TestEachBlobDamaged damages what lies in the store, each blob once: the answer is one that says so,
// or that of a copy which did not need the blob.
func TestEachBlobDamaged(t *testing.T) {
	l := newLab(t)
	l.write("f", strings.Repeat("content", 1000))
	up := l.upload("")
	for _, prefix := range []string{"kopia.repository", "p", "q", "xn0_"} {
		file := l.blobFile(prefix)
		if file == "" {
			t.Fatalf("no blob %s…", prefix)
		}
		good := must1(os.ReadFile(file))
		bad := append([]byte(nil), good...)
		for i := range bad[:len(bad)/2] {
			bad[i] ^= 0x5a
		}
		must(t, os.WriteFile(file, bad, 0o600))
		must(t, os.RemoveAll(l.req.CacheDir))
		must(t, os.RemoveAll(filepath.Join(l.dst)))
		must(t, os.Mkdir(l.dst, 0o755))
		_, err := l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot})
		if err == nil {
			t.Errorf("a damaged %s… was not noticed", prefix)
		} else if reasonOf(err) != ReasonRepositoryDamaged {
			t.Errorf("a damaged %s…: %s", prefix, reasonOf(err))
		}
		t.Logf("%s: %v", prefix, err)
		must(t, os.WriteFile(file, good, 0o600))
	}
	l.fresh()
	l.restore(up.Snapshot, "")
	l.equal()
}
