package gitsource

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// Files of the ledger. Every name is made here.
const (
	formatFile    = "format.yaml"
	readmeFile    = "README.md"
	daemonFile    = "status/_daemon.yaml"
	formatVersion = 1

	defaultBranch       = "main"
	defaultLedgerBranch = "tranship/ledger"
)

const readmeText = `# Tranship ledger

This branch is written by the Tranship daemon. It records what was done and is
the daemon's memory: do not edit, rebase or delete it. ` + "`tranship status`" + ` and
` + "`tranship logs`" + ` read it.

- ` + "`status/`" + `: where every plan stands; ` + "`status/_daemon.yaml`" + `: the daemon itself
- ` + "`runs/`" + `: one record for every run, by year, month and plan
- ` + "`logs/`" + `: the logs of the runs, without secret values, cut to 256 KiB each

Each year begins with a commit that names the last one of the year before, which
is kept in a branch with the year's number.

If somebody had to change it by hand, ` + "`tranship ledger adopt`" + ` accepts the result.
`

func formatText() []byte {
	return fmt.Appendf(nil, "apiVersion: %s\nkind: Ledger\nformat: %d\n", spec.APIVersion, formatVersion)
}

// statusPath spreads plans over 256 directories: a commit rewrites every tree
// on its path, and small trees keep it small.
func statusPath(plan string) string {
	sum := sha256.Sum256([]byte(plan))
	return "status/" + hex.EncodeToString(sum[:1]) + "/" + spec.ShortName(plan) + ".yaml"
}

var (
	runSuffix = regexp.MustCompile(`(?:^|-)((?:stage|migrate|rollback|close)-[0-9]+)$`)
	unsafe    = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
)

// runFile is the file name of a run, without the directory, from its name.
func runFile(run string) (string, bool) {
	m := runSuffix.FindStringSubmatch(run)
	if m == nil {
		return "", false
	}
	return m[1] + ".yaml", true
}

// logPath is where a log of a run lies. started is the run's start, or any
// time of its month.
func logPath(plan, run, name string, started time.Time) string {
	dir := safeName(run)
	if f, ok := runFile(run); ok {
		dir = strings.TrimSuffix(f, ".yaml")
	}
	if !strings.HasSuffix(name, ".log") {
		name += ".log"
	}
	return path.Join("logs", started.UTC().Format("2006/01"), spec.ShortName(plan), dir, safeName(name))
}

// safeName makes one path element of a name that something else chose.
func safeName(name string) string {
	name = unsafe.ReplaceAllString(path.Base(name), "_")
	if name = strings.TrimLeft(name, "."); name == "" {
		name = "_"
	}
	return name[max(0, len(name)-100):]
}
