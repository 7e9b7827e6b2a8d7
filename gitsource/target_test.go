package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// tagged is a repository with a plan, and a configuration that reads what set says.
func tagged(t *testing.T, set func(r *spec.Repository)) (*gittest.Server, *gittest.Work, Config) {
	t.Helper()
	s := gittest.New(t)
	r := s.Repo("plans.git")
	w := r.Clone()
	w.Write("common.yaml", commonYAML).Write("shop.yaml", planYAML("shop", spec.Staged)).Push("first")
	c := testConfig(t, s, r)
	set(&c.Spec.Source)
	return s, w, c
}

func tag(w *gittest.Work, args ...string) {
	w.Git(append([]string{"tag"}, args...)...)
	w.Git("push", "-q", "-f", "--tags")
}

// A tag that moves on brings every commit in between, as a branch would; one
// that moves anywhere else is a rewritten history.
func TestTag(t *testing.T) {
	for _, annotated := range []bool{false, true} {
		t.Run(fmt.Sprint("annotated ", annotated), func(t *testing.T) {
			_, w, c := tagged(t, func(r *spec.Repository) { r.Tag = "release" })
			args := []string{"-f", "release"}
			if annotated {
				args = []string{"-f", "-m", "go", "release"}
			}
			src := openSource(t, c)
			if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrBranchMissing) || !strings.Contains(err.Error(), "tag release") || !strings.Contains(err.Error(), "source.tag") {
				t.Errorf("%v", err)
			}
			tag(w, args...)
			first := w.Git("rev-parse", "HEAD")
			if d := read(t, src, ""); d.Commit != first {
				t.Fatalf("%s, not %s", d.Commit, first)
			}
			w.Write("shop.yaml", planYAML("shop", spec.Migrated)).Commit("flip")
			second := w.Push("and on")
			expect(t, read(t, src, first), "") // the branch alone says nothing
			tag(w, args...)
			d := read(t, src, first)
			expect(t, d, "flip: shop=Migrated/1; and on: ")
			w.Git("reset", "-q", "--hard", first)
			w.Commit("elsewhere")
			tag(w, args...)
			expect(t, read(t, src, second), "rewritten")
			w.Git("reset", "-q", "--hard", first)
			tag(w, args...)
			expect(t, read(t, src, second), "rewritten")
			must(t, src.Close())
			c.DataDir = t.TempDir() // a fetch with no history at hand asks for the tag's own object
			if d := read(t, openSource(t, c), ""); d.Commit != first {
				t.Errorf("%s, not %s", d.Commit, first)
			}
		})
	}
}

func TestSemVer(t *testing.T) {
	_, w, c := tagged(t, func(r *spec.Repository) { r.SemVer = ">=1.0.0 <2.0.0" })
	src := openSource(t, c)
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrBranchMissing) || !strings.Contains(err.Error(), "a tag within >=1.0.0 <2.0.0") {
		t.Errorf("%v", err)
	}
	first := w.Git("rev-parse", "HEAD")
	tag(w, "v1.9.0")
	if d := read(t, src, ""); d.Commit != first {
		t.Fatalf("%s", d.Commit)
	}
	w.Write("shop.yaml", planYAML("shop", spec.Migrated)).Push("flip")
	for _, other := range []string{"v2.0.0", "v1.99.0-rc.1", "20261129", "v1.10", "latest"} {
		tag(w, other)
		expect(t, read(t, src, first), "")
	}
	tag(w, "-m", "ten is more than nine", "1.10.0")
	d := read(t, src, first)
	expect(t, d, "flip: shop=Migrated/1")
	tag(w, "v1.10.0") // the same commit by another name
	expect(t, read(t, src, first), "flip: shop=Migrated/1")
	// The newest tag is deleted: what was accepted is no ancestor of what is left.
	w.Git("push", "-q", "origin", ":refs/tags/1.10.0", ":refs/tags/v1.10.0")
	w.Git("tag", "-d", "1.10.0", "v1.10.0")
	expect(t, read(t, src, d.Commit), "rewritten")
	tag(w, "v1.10.0")
	w.Push("another")
	tag(w, "1.10.0")
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "the same version") {
		t.Errorf("%v", err)
	}
}

func TestRef(t *testing.T) {
	_, w, c := tagged(t, func(r *spec.Repository) { r.Ref = "refs/pull/7/head" })
	w.Git("push", "-q", "origin", "HEAD:refs/pull/7/head", "HEAD~0:refs/pull/77/head")
	src := openSource(t, c)
	d := read(t, src, "")
	w.Write("shop.yaml", planYAML("shop", spec.Migrated)).Commit("flip")
	w.Git("push", "-q", "origin", "HEAD:refs/pull/7/head")
	expect(t, read(t, src, d.Commit), "flip: shop=Migrated/1")
}

// Azure DevOps serves nobody who does not offer multi_ack, and speaks version
// 0 of the protocol.
func TestAzureDevOpsWantsMultiAck(t *testing.T) {
	s, w, c := tagged(t, func(*spec.Repository) {})
	var mu sync.Mutex
	fetches := 0
	azure := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.Header.Del("Git-Protocol")
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			if err != nil || !bytes.Contains(body, []byte("multi_ack")) {
				rw.Header().Set("Content-Type", "application/x-git-upload-pack-result")
				fmt.Fprintf(rw, "%04xERR TF401041: Clients must support multi-ack", 4+44)
				return
			}
			mu.Lock()
			fetches++
			mu.Unlock()
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		s.ServeHTTP(rw, r)
	}))
	t.Cleanup(azure.Close)
	c.Spec.Source.URL = azure.URL + "/plans.git"
	src := openSource(t, c)
	d := read(t, src, "")
	for i := range 3 { // with a commit in common, acknowledged in multi_ack's way
		state := []spec.State{spec.Migrated, spec.Staged}[i%2]
		w.Write("shop.yaml", planYAML("shop", state)).Push(fmt.Sprint(i))
		next := read(t, src, d.Commit)
		expect(t, next, fmt.Sprintf("%d: shop=%s/1", i, state))
		d = next
	}
	if fetches != 4 {
		t.Errorf("%d fetches", fetches)
	}
}
