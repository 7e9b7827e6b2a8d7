package gitsource

import (
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
)

// A server that sends a little and then nothing holds up neither a poll nor a
// fetch nor a push.
func TestSlowLoris(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	r.Clone().Write("common.yaml", commonYAML).Push("first")
	c := testConfig(t, s, r)
	c.Spec.Source.Timeout = &metav1.Duration{Duration: 500 * time.Millisecond}
	src := openSource(t, c)
	for name, proto := range map[string]int{"poll": 2, "fetch": 1} { // with 1 the POST is the fetch
		src.remote.remember(func() { src.remote.proto = proto })
		s.Inject(uploadPack, 1, gittest.Loris(30))
		begun := time.Now()
		if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begun); took > 40*time.Second {
			t.Errorf("%s took %s", name, took)
		}
		s.Heal()
	}
	l := acquired(t, testConfig(t, s, r), "a") // with a minute's patience
	l.remote.timeout = 500 * time.Millisecond
	s.Inject(receivePack, 1, gittest.Loris(5))
	must(t, l.Record(testContext(t), planChange("shop", "x")))
	must(t, l.Push(testContext(t)))
	if n := commits(r); n != 2 {
		t.Errorf("%d commits: the push was made twice", n)
	}
	ledgerSound(t, r)
}

// A ledger of another repository in the place of ours is no record of what we did.
func TestLedgerReplacedByAnothers(t *testing.T) {
	s := gittest.New(t)
	r, other := s.Repo("plans.git"), s.Repo("others.git")
	c := testConfig(t, s, r)
	l := acquired(t, c, "a")
	must(t, l.Record(testContext(t), planChange("shop", "ours")))
	must(t, l.Push(testContext(t)))
	theirs := acquired(t, testConfig(t, s, other), "b")
	must(t, theirs.Record(testContext(t), planChange("shop", "theirs")))
	must(t, theirs.Push(testContext(t)))
	r.Git("fetch", "-q", other.Dir, "+"+ledgerRef+":"+ledgerRef)
	must(t, l.Record(testContext(t), planChange("shop", "next")))
	if err := l.Push(testContext(t)); !errors.Is(err, reconciler.ErrLedgerChanged) && !errors.Is(err, reconciler.ErrSuperseded) {
		t.Errorf("%v", err)
	}
	if got := r.Git("rev-parse", ledgerRef); got != other.Git("rev-parse", ledgerRef) {
		t.Error("something was pushed on top of it")
	}
	r.Fsck()
}
