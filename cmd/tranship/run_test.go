package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// Many daemons that were started at once do not go on asking at once.
func TestPollsAreSpread(t *testing.T) {
	const every = 30 * time.Second
	d := &daemon{config: &live{now: &spec.DaemonConfig{Spec: spec.DaemonConfigSpec{Interval: &metav1.Duration{Duration: every}}}}}
	next, seen := d.intervals(), map[time.Duration]bool{}
	for range 100 {
		at := next()
		if seen[at] = true; at < every*9/10 || at > every*11/10 {
			t.Errorf("%s is not within a tenth of %s", at, every)
		}
	}
	if len(seen) < 50 {
		t.Errorf("only %d intervals of 100 differ", len(seen))
	}
}

// SIGHUP polls at once, and with the configuration as it is then; one that is
// broken leaves the one before.
func TestHangUpReadsTheConfiguration(t *testing.T) {
	flags := &configFlags{config: filepath.Join(t.TempDir(), "config.yaml")}
	text := "apiVersion: tranship.dev/v1alpha1\nkind: DaemonConfig\nmetadata: {name: d}\nspec:\n  source: {url: https://git.example.com/plans.git}\n  mover: {image: tranship}\n  concurrency: 3\n"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(flags.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	cfg, err := flags.load()
	if err != nil {
		t.Fatal(err)
	}
	source, err := gitsource.OpenSource(gitsource.Config{Spec: cfg.Spec, DataDir: t.TempDir(), Secrets: (&remembering{}).entries})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	d := &daemon{log: slog.New(slog.DiscardHandler), config: &live{flags: flags, now: cfg}, source: source, loop: reconciler.New(reconciler.Config{Log: slog.New(slog.DiscardHandler), Clock: clock{}})}
	ctx, stop := context.WithCancel(t.Context())
	hup, ended := make(chan os.Signal), make(chan error)
	go func() { ended <- d.reload(ctx, hup) }()
	for _, c := range []struct {
		text string
		want int
	}{{strings.Replace(text, ": 3", ": 7", 1), 7}, {"{", 7}, {text, 3}} {
		write(c.text)
		hup <- syscall.SIGHUP
		select {
		case <-d.loop.Trigger:
		case <-time.After(time.Minute):
			t.Fatal("no poll is wanted")
		}
		if got := d.slots().Total; got != c.want {
			t.Errorf("concurrency is %d, want %d", got, c.want)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
