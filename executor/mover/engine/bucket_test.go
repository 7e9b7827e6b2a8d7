package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
)

// TestBodyIsOnlyLent answers before the body is read, and expects that nobody touches it afterwards.
func TestBodyIsOnlyLent(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
	}))
	defer srv.Close()
	st := must1(newS3Store(Repository{Endpoint: srv.URL, Bucket: "bucket", Region: "r"}, secrets{accessKey: "a", secretKey: "b"}))
	b := must1(st.open(context.Background(), nil))
	for range 50 {
		data := &borrowed{t: t, data: bytes.Repeat([]byte("x"), 8<<20)}
		if err := b.PutBlob(context.Background(), "p1", data, blob.PutOptions{}); err == nil {
			t.Fatal("a refusal was taken for success")
		}
		data.over = true // the race detector sees who reads it now
	}
	time.Sleep(50 * time.Millisecond)
	l := &lent{from: bytes.NewReader([]byte("abc")), left: 3}
	if got := must1(io.ReadAll(l)); string(got) != "abc" {
		t.Errorf("read %q", got)
	}
	l.takeBack()
	if n, err := l.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after its end: %d, %v", n, err)
	}
	l = &lent{from: bytes.NewReader([]byte("abc")), left: 3}
	l.takeBack()
	if n, err := l.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("taken back: %d, %v", n, err)
	}
}

// borrowed is a body that must not be read after it was taken back.
type borrowed struct {
	t    *testing.T
	data []byte
	over bool
}

func (b *borrowed) Length() int { return len(b.data) }
func (b *borrowed) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b.data)
	return int64(n), err
}
func (b *borrowed) Reader() io.ReadSeekCloser { return &borrowedReader{b, bytes.NewReader(b.data)} }

type borrowedReader struct {
	of *borrowed
	*bytes.Reader
}

func (r *borrowedReader) Close() error { return nil }

func (r *borrowedReader) Read(p []byte) (int, error) {
	if r.of.over {
		r.of.t.Error("the body was read after the answer")
	}
	return r.Reader.Read(p)
}

// TestRetries has a store that fails, refuses or is away, and counts how often it is asked.
func TestRetries(t *testing.T) {
	for status, want := range map[int]struct {
		asked  int
		reason Reason
	}{
		http.StatusServiceUnavailable: {3, ""}, // it is well again at the third time
		http.StatusForbidden:          {1, ReasonAccessDenied},
		http.StatusBadRequest:         {1, ReasonRepositoryUnreachable},
	} {
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked++; asked < 3 {
				w.WriteHeader(status)
			}
		}))
		st := must1(newS3Store(Repository{Endpoint: srv.URL, Bucket: "bucket", Region: "r"}, secrets{accessKey: "a", secretKey: "b"}))
		b := must1(st.open(context.Background(), nil))
		err := b.PutBlob(context.Background(), "p1", inBytes("data"), blob.PutOptions{})
		if asked != want.asked || (want.reason == "") != (err == nil) || err != nil && storeReason(err) != want.reason {
			t.Errorf("status %d: asked %d times, %v", status, asked, err)
		}
		srv.Close()
	}
}
