package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMemoryOfAMillionFiles restores a million files into an empty target, in a process of its own,
// and holds its memory to what a mover's pod may take.
func TestMemoryOfAMillionFiles(t *testing.T) {
	if os.Getenv("TRANSHIP_LONG") == "" {
		t.Skip("it makes two million files; set TRANSHIP_LONG to run it")
	}
	const files, perDir = 1_000_000, 1000
	l := newLab(t)
	for i := range files {
		if i%perDir == 0 {
			must(t, os.Mkdir(filepath.Join(l.src, fmt.Sprintf("d%04d", i/perDir)), 0o755))
		}
		must(t, os.WriteFile(filepath.Join(l.src, fmt.Sprintf("d%04d/f%d", i/perDir, i)), []byte(fmt.Sprint(i)), 0o644))
	}
	up := l.upload("")
	for _, v := range []VolumeRequest{{Snapshot: up.Snapshot}, {Snapshot: up.Snapshot, Held: up.Snapshot, Verify: VerifyAll}} {
		peak := l.peakOf(v)
		t.Logf("%+v: %.0f MiB at the most", v, peak)
		if peak > 512 {
			t.Errorf("%+v took %.0f MiB, 512 are allowed", v, peak)
		}
	}
}

// peakOf runs a restore in a child and returns the most memory that it had, in MiB.
func (l *lab) peakOf(v VolumeRequest) float64 {
	l.t.Helper()
	req := withOp(l.req, OpRestore)
	req.Repository.Endpoint, req.CacheDir = must1(l.opts.openStore(Repository{}, secrets{})).(fileStore).path, l.t.TempDir()
	v.Name, v.Path = "shop/data", l.dst
	req.Volumes = []VolumeRequest{v}
	file := filepath.Join(l.t.TempDir(), "request")
	must(l.t, os.WriteFile(file, must1(json.Marshal(req)), 0o600))
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildMemory$", "-test.v")
	cmd.Env = append(os.Environ(), memoryChild+"="+file)
	out, err := cmd.CombinedOutput()
	_, after, ok := strings.Cut(string(out), "peak ")
	var mb float64
	if _, serr := fmt.Sscan(after, &mb); err != nil || !ok || serr != nil {
		l.t.Fatalf("the child failed: %v\n%s", err, out)
	}
	return mb
}

const memoryChild = "TRANSHIP_ENGINE_TEST_MEMORY"

// TestChildMemory is the child of the test above.
func TestChildMemory(t *testing.T) {
	file := os.Getenv(memoryChild)
	if file == "" {
		t.Skip("runs as a child only")
	}
	var req Request
	must(t, json.Unmarshal(must1(os.ReadFile(file)), &req))
	o := defaults()
	o.openStore = func(r Repository, _ secrets) (store, error) { return fileStore{r.Endpoint}, nil }
	res, err := run(context.Background(), req, o)
	must(t, err)
	fmt.Printf("peak %.0f %+v\n", peakMB(), res.Volumes[0].Verified)
}
