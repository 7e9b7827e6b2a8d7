package mover

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/reconciler"
)

// A copy that stands still is told from a slow one.
func TestACopyThatStandsStill(t *testing.T) {
	for still, want := range map[int]string{2: "Writing", 90: "CopyStalled"} {
		line := fmt.Sprintf(`{"time":"2026-12-01T01:00:00Z","msg":"progress","op":"restore","volume":"shop/a","files":7,"bytes":70,"stillSeconds":%d}`, still)
		p, ok := progressOf([][]byte{[]byte(line)})
		o := sayProgress(working("Writing", "", "writes"), []reconciler.Progress{p})
		if !ok || o.Reason != want || strings.Contains(o.Message, "nothing has moved for 1m30s") != (want == "CopyStalled") {
			t.Errorf("%d s: %s: %s", still, o.Reason, o.Message)
		}
	}
}

// A sync has more time, and what hangs in the kernel beyond its limit is told from what will end.
func TestWhatEndsACopyThatStandsStill(t *testing.T) {
	for _, c := range []struct {
		still        int
		syncing      bool
		reason, want string
	}{
		{90, false, "CopyStalled", "nothing has moved for 1m30s; after 10m0s it is ended and tried again"},
		{700, false, "CopyStalled", "nothing has moved for 11m40s; it should have ended and hangs in a call to the node's kernel, so that only cutover.copyTimeout ends it"},
		{700, true, "Writing", "its volume has been syncing for 11m40s, which does not show how far it is; after 1h0m0s it is ended"},
		{3700, true, "CopyStalled", "only cutover.copyTimeout ends it"},
	} {
		line := fmt.Sprintf(`{"msg":"progress","op":"restore","volume":"shop/a","stillSeconds":%d,"syncing":%t}`, c.still, c.syncing)
		p, _ := progressOf([][]byte{[]byte(line)})
		o := sayProgress(working("Writing", "", "writes"), []reconciler.Progress{p})
		if o.Reason != c.reason || !strings.Contains(o.Message, c.want) {
			t.Errorf("%+v: %s: %s", c, o.Reason, o.Message)
		}
	}
}

func TestProgressOfALog(t *testing.T) {
	line := func(second int, volume string, bytes int64) []byte {
		at := time.Date(2026, 12, 1, 1, 0, second, 0, time.UTC).Format(time.RFC3339)
		return []byte(fmt.Sprintf(`{"time":%q,"msg":"progress","op":"upload","volume":%q,"files":7,"bytes":%d,"movedBytes":5}`, at, volume, bytes))
	}
	if _, ok := progressOf([][]byte{[]byte("not JSON"), []byte(`{"msg":"standing by"}`)}); ok {
		t.Error("a log without progress has some")
	}
	p, ok := progressOf([][]byte{line(0, "shop/a", 900), line(2, "shop/b", 100), line(4, "shop/b", 300), []byte("noise"), line(6, "shop/b", 500)})
	if !ok || p.Volume != "shop/b" || p.Bytes != 500 || p.BytesPerSecond != 100 || p.Files != 7 {
		t.Errorf("%+v: the rate is that of the newest volume alone", p)
	}
	if _, ok := p.Remaining(); ok {
		t.Error("nothing is known of the total")
	}
	if p.TotalBytes = 1500; true {
		if left, ok := p.Remaining(); !ok || left != 10*time.Second {
			t.Errorf("%s left, want 10 s", left)
		}
	}
}
