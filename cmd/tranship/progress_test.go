package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tranship/tranship/reconciler"
)

// What the loop tells is shown at /progress, in the metrics and by the CLI, and
// is gone from all of them when the copy is over.
func TestProgressIsShownWhileItLasts(t *testing.T) {
	registry := prometheus.NewRegistry()
	b := newBoard(registry)
	srv := httptest.NewServer((&server{registry: registry, progress: b}).handler())
	defer srv.Close()
	b.Progress("shop", []reconciler.Progress{{Volume: "shop/data", Operation: "upload", Files: 12, Bytes: 1 << 30, TotalBytes: 3 << 30, BytesPerSecond: 1 << 28, At: time.Now()}})
	now, err := askProgress(t.Context(), srv.URL+"/")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	tellProgress(&text, now["shop"])
	if want := "copying   shop/data  upload: 12 files, 1.0 GiB of 3.0 GiB, 256.0 MiB/s, about 8s left\n"; text.String() != want {
		t.Errorf("%q, want %q", text.String(), want)
	}
	if n := gathered(t, registry); n != 6 {
		t.Errorf("%d gauges, want 6", n)
	}
	b.Progress("shop", nil)
	if now, err = askProgress(t.Context(), srv.URL); err != nil || len(now) != 0 {
		t.Errorf("after the copy: %v %v", now, err)
	}
	if n := gathered(t, registry); n != 0 {
		t.Errorf("%d gauges are left", n)
	}
}

func gathered(t *testing.T, r *prometheus.Registry) (n int) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		n += len(f.GetMetric())
	}
	return n
}
