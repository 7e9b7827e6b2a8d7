package main

import (
	"context"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestJudge asks as the hook does.
func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(target string) error
		status int
		say    string
	}{
		{"equal", func(string) error { return nil }, 200, "equal: media: 2 entries"},
		{"one flipped byte", func(target string) error {
			return os.WriteFile(filepath.Join(target, "file"), []byte("contenT"), 0o600)
		}, 409, "SHA-256"},
		{"no copy", os.RemoveAll, 409, "could not be compared"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &bed{dir: t.TempDir()}
			at := time.Unix(1_700_000_000, 0)
			for _, handle := range []string{"vol-1", "vol-2"} {
				file := filepath.Join(b.volume(handle), "file")
				if err := writeFile(file, "content", 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := tt.change(b.volume("vol-2")); err != nil {
				t.Fatal(err)
			}
			for _, handle := range []string{"vol-1", "vol-2"} {
				_ = os.Chtimes(filepath.Join(b.volume(handle), "file"), at, at) // one case has no file
				_ = os.Chtimes(b.volume(handle), at, at)
			}
			j := &judge{bed: b}
			j.expect([]volumePair{{"media", "vol-1", "driver.example.com/vol-2"}})
			w := httptest.NewRecorder()
			j.answer(w, nil)
			body, err := io.ReadAll(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			if w.Code != tt.status || !strings.Contains(string(body), tt.say) {
				t.Errorf("answered %d %q, want %d and %q", w.Code, body, tt.status, tt.say)
			}
		})
	}
}

func TestJudgeWithoutVolumes(t *testing.T) {
	j := &judge{bed: &bed{}}
	w := httptest.NewRecorder()
	j.answer(w, nil)
	if w.Code != 409 {
		t.Errorf("answered %d without any volume to compare", w.Code)
	}
}

func TestWaitSaysWhatItWaitedFor(t *testing.T) {
	err := wait(t.Context(), "the moon", 10*time.Millisecond, time.Millisecond, func(context.Context) (bool, string, error) {
		return false, "clouds", nil
	})
	if err == nil || !strings.Contains(err.Error(), "the moon") || !strings.Contains(err.Error(), "clouds") {
		t.Errorf("wait: %v", err)
	}
}

func TestPackages(t *testing.T) {
	for name, take := range map[string]bool{
		"postgresql-15": true, "postgresql-client-15": true, "libpq5": true, "libicu72": true, "zlib1g": true, "dash": true, "tzdata": true,
		"libllvm14": false, "perl": false, "libjson-perl": false, "postgresql-common": false, "locales": false, "dpkg": false,
	} {
		if got := wanted.MatchString(name) && !unneeded.MatchString(name); got != take {
			t.Errorf("%s is taken: %t", name, got)
		}
	}
}

func TestBrief(t *testing.T) {
	got := brief([]string{"Migration-Run: shop-migrate-1", "Migration-Step: stop", "Migration-Step: drained", "Plan-Digest: sha256:0123456789abcdef0123456789abcdef", "Tranship-Epoch: 1"})
	if want := "Migration-Run: shop-migrate-1, Migration-Step: stop drained, Plan-Digest: sha256:0123456789"; got != want {
		t.Errorf("brief: %q, want %q", got, want)
	}
}
