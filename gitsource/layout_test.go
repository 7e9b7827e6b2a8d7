package gitsource

import (
	"path"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tranship/tranship/spec"
)

// Names come from manifests, hooks and pods: whatever they are, a file of the ledger
// lies where files of its kind lie.
func TestLedgerPathsStayInPlace(t *testing.T) {
	name := rapid.OneOf(rapid.SampledFrom([]string{"", ".", "..", "../../runs/x", "/etc/passwd", "a/../../b", ".git/config", "a\x00b", "-rf", strings.Repeat("x", 300), "..\\x", "shop-migrate-7"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		plan := rapid.StringMatching(`[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?`).Draw(t, "plan") // of a document
		run, log := name.Draw(t, "run"), name.Draw(t, "log")
		record := spec.RunPath(&spec.Run{Metadata: spec.Metadata{Name: run}, Spec: spec.RunSpec{Plan: plan, Kind: spec.RunMigrate, Number: 7}, Status: spec.RunStatus{Started: runStart}})
		for file, depth := range map[string]int{logPath(plan, run, log, time.Unix(0, 0)): 6, statusPath(plan): 3, record: 5} {
			parts := strings.Split(file, "/")
			if path.Clean(file) != file || len(parts) != depth || parts[0] != strings.Split("logs status runs", " ")[map[int]int{6: 0, 3: 1, 5: 2}[depth]] {
				t.Fatalf("%q, %q, %q: %q", plan, run, log, file)
			}
			for _, p := range parts {
				if strings.HasPrefix(p, ".") || strings.ContainsAny(p, "\x00\n\\") || len(p) > 255 {
					t.Fatalf("%q, %q, %q: %q", plan, run, log, file)
				}
			}
		}
	})
}
