package engine

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
)

// countedStore is a store that counts how often it is listed.
type countedStore struct {
	blob.Storage
	names []blob.ID
	lists int
	fails error
}

func (s *countedStore) ListBlobs(_ context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	s.lists++
	if s.fails != nil {
		return s.fails
	}
	for _, n := range s.names {
		if len(n) >= len(prefix) && n[:len(prefix)] == prefix {
			if err := each(blob.Metadata{BlobID: n}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *countedStore) PutBlob(_ context.Context, id blob.ID, _ blob.Bytes, _ blob.PutOptions) error {
	s.names = append(s.names, id)
	return nil
}

func (s *countedStore) DeleteBlob(context.Context, blob.ID) error { s.names = nil; return nil }

// TestFrontIsNeverStale asks as the library does: each question of a round once, and anew for news.
func TestFrontIsNeverStale(t *testing.T) {
	ctx := context.Background()
	st := &countedStore{names: []blob.ID{"xn0_a", "xe1", "p1"}}
	f := newFront(ctx, st)
	expect := func(lists int, prefix blob.ID, want ...blob.ID) {
		t.Helper()
		all := must1(blob.ListAllBlobs(ctx, f, prefix))
		if got := blob.IDsFromMetadata(all); !slices.Equal(got, want) || st.lists != lists {
			t.Fatalf("%s: %v after %d lists, want %v after %d", prefix, got, st.lists, want, lists)
		}
	}
	expect(1, "xe", "xe1")
	expect(1, "xs")
	expect(1, "xn0_", "xn0_a")
	st.names = append(st.names, "xn0_b") // by somebody else
	expect(2, "xn0_", "xn0_a", "xn0_b")
	expect(2, "xe", "xe1")
	must(t, f.PutBlob(ctx, "xn1_c", nil, blob.PutOptions{}))
	expect(3, "xn1_", "xn1_c")
	must(t, f.PutBlob(ctx, "p2", nil, blob.PutOptions{}))
	expect(3, "xn0_", "xn0_a", "xn0_b")
	must(t, f.DeleteBlob(ctx, "xn0_a"))
	expect(4, "xr")
	f.listing.at = time.Now().Add(-2 * listingAge)
	expect(5, "xw")
	expect(6, "p")
	st.fails = context.DeadlineExceeded
	if _, err := blob.ListAllBlobs(ctx, f, "xw"); err == nil {
		t.Fatal("a failed listing was taken for an empty one")
	}
	st.fails = nil
	expect(9, "xw")
}

// TestBedRequests holds what an upload that finds nothing new asks of the store: each request in a
// row is time in which an application is stopped.
func TestBedRequests(t *testing.T) {
	l := newBedLab(t)
	p := l.throughProxy(t)
	l.smallFiles(100)
	first := l.upload("")
	l.fresh()
	p.requests()
	began := time.Now()
	second := l.upload(first.Snapshot)
	got := p.requests()
	if time.Since(began) > listingAge { // so slow a machine has to list again
		slices.Sort(got)
		got = slices.Compact(got)
	}
	if len(got) > 10 {
		t.Errorf("%d requests:\n%q", len(got), got)
	}
	if second.ChangedFiles != 0 {
		t.Fatalf("%+v", second)
	}
}
