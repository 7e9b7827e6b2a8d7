package preflight

import (
	"strings"
	"testing"
	"time"
)

func TestClockSkew(t *testing.T) {
	for ahead, want := range map[time.Duration]string{
		0: "", 29 * time.Second: "", -30 * time.Second: "",
		4*time.Minute + 200*time.Millisecond: "the clock of cluster new is 4m0s ahead of this machine's",
		-time.Hour:                           "the clock of cluster new is 1h0m0s behind this machine's",
	} {
		found := clock("new", ahead)
		if want == "" {
			if len(found) > 0 {
				t.Errorf("%s: %+v", ahead, found)
			}
			continue
		}
		if len(found) != 1 || !found[0].Warning || found[0].Reason != "ClockSkew" || !strings.HasPrefix(found[0].Message, want) {
			t.Errorf("%s: %+v", ahead, found)
		}
	}
}
