package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestMemoryOfManyFiles uploads a million files, a fifth of them in one directory, and uploads them
// again with nothing changed. Run it alone: it looks at the most memory that the process ever had.
func TestMemoryOfManyFiles(t *testing.T) {
	if os.Getenv("TRANSHIP_LONG") == "" {
		t.Skip("it takes minutes: set TRANSHIP_LONG")
	}
	files := 1_000_000
	if n := os.Getenv("TRANSHIP_FILES"); n != "" {
		_, err := fmt.Sscan(n, &files)
		must(t, err)
	}
	l := newLab(t)
	for i := range files {
		dir := "one"
		if i >= files/5 {
			dir = fmt.Sprintf("d%03d", i%800)
		}
		p := filepath.Join(l.src, dir, fmt.Sprintf("file-%07d", i))
		err := os.WriteFile(p, []byte(fmt.Sprint(i)), 0o644)
		if os.IsNotExist(err) {
			must(t, os.MkdirAll(filepath.Dir(p), 0o755))
			err = os.WriteFile(p, []byte(fmt.Sprint(i)), 0o644)
		}
		must(t, err)
	}
	before := peakMB()
	begin := time.Now()
	first := l.upload("")
	firstPeak := peakMB()
	t.Logf("%d files: first upload %v, peak %.0f MB (%.0f before)", files, time.Since(begin), firstPeak, before)
	l.fresh()
	begin = time.Now()
	second := l.upload(first.Snapshot)
	t.Logf("nothing changed: %v, peak %.0f MB", time.Since(begin), peakMB())
	if first.Files != int64(files) || second.ChangedFiles != 0 {
		t.Errorf("%+v\n%+v", first, second)
	}
	if peak := peakMB(); peak > 512 {
		t.Errorf("peak of %.0f MB", peak)
	}
}
