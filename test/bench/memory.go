package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/test/bench/estate"
	"github.com/tranship/tranship/test/bench/shape"
)

const (
	memoryBar    = 512 // MiB
	moverCommand = "mover"
	memoryName   = "the limit of a mover's pod"
)

// moverMemory measures memory.many-files: the most memory that the mover takes
// for one volume of very many files. It runs as a process of its own, without a
// pod, for a pod would be killed at the limit instead of being measured.
func moverMemory(ctx context.Context, l *lab, _ int) (row, error) {
	s := l.size.tiny(l.size.MemoryFiles)
	src, dst := filepath.Join(l.dir, "many"), filepath.Join(l.dir, "copy-of-many")
	defer os.RemoveAll(src)
	defer os.RemoveAll(dst)
	for _, dir := range []string{src, dst} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return row{}, fmt.Errorf("cannot make a folder: %w", err)
		}
	}
	if err := s.Fill(src); err != nil {
		return row{}, err
	}
	up, first, err := l.mover(ctx, engine.OpUpload, engine.VolumeRequest{Name: "bench/many", Path: src})
	if err != nil {
		return row{}, err
	}
	again, second, err := l.mover(ctx, engine.OpUpload, engine.VolumeRequest{Name: "bench/many", Path: src, Parent: up.Snapshot})
	if err != nil {
		return row{}, err
	}
	down, third, err := l.mover(ctx, engine.OpRestore, engine.VolumeRequest{Name: "bench/many", Path: dst, Snapshot: again.Snapshot})
	if err != nil {
		return row{}, err
	}
	if n, err := shape.Walk(dst); err != nil || down.Files != int64(s.Files)+1 || n < s.Files {
		return row{}, fmt.Errorf("the copy has %d entries, the result says %d files: %w", n, down.Files, err)
	}
	fmt.Printf("  first upload %.0f MiB, upload again %.0f MiB, restore %.0f MiB\n", first, second, third)
	most := max(first, second, third)
	return row{Value: most, Unit: "MiB", Peer: memoryName, PeerValue: memoryBar, Ratio: most / memoryBar, Bar: memoryBar, Pass: most <= memoryBar,
		Note: fmt.Sprintf("%d files; one run of each kind", s.Files)}, nil
}

// mover runs the mover's engine in a process of its own, and says how much
// memory that took at most, in MiB.
func (l *lab) mover(ctx context.Context, op engine.Op, v engine.VolumeRequest) (res engine.VolumeResult, mib float64, err error) {
	request, err := l.moverRequest(op, v)
	if err != nil {
		return res, 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return res, 0, fmt.Errorf("cannot find this program: %w", err)
	}
	if err := l.write("request.json", request); err != nil {
		return res, 0, err
	}
	cmd := exec.CommandContext(ctx, self, moverCommand, filepath.Join(l.dir, "request.json"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return res, 0, fmt.Errorf("the mover failed: %w: %s", err, out)
	}
	var all measured
	if err := json.Unmarshal(out, &all); err != nil || len(all.Volumes) != 1 || all.PeakKiB == 0 {
		return res, 0, fmt.Errorf("the mover said %q: %w", out, err)
	}
	return all.Volumes[0], float64(all.PeakKiB) / 1024, nil
}

// measured is a mover's result with the most memory that its process took.
type measured struct {
	engine.Result
	PeakKiB int64
}

func (l *lab) moverRequest(op engine.Op, v engine.VolumeRequest) (string, error) {
	access, err := secret(l.bed.S3.AccessKeyFile)
	if err != nil {
		return "", err
	}
	key, err := secret(l.bed.S3.SecretKeyFile)
	if err != nil {
		return "", err
	}
	ca, err := secret(l.bed.S3.CAFile)
	if err != nil {
		return "", err
	}
	cache := filepath.Join(l.dir, "mover-cache")
	if err := os.RemoveAll(cache); err != nil { // a new pod has an empty one
		return "", fmt.Errorf("cannot empty the mover's cache: %w", err)
	}
	if err := l.write("cloud", fmt.Sprintf("[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", access, key)); err != nil {
		return "", err
	}
	raw, err := json.Marshal(engine.Request{
		Op: op, CredentialsFile: filepath.Join(l.dir, "cloud"), PasswordFile: filepath.Join(l.dir, "secrets", "s3", "password"), CacheDir: cache,
		Repository: engine.Repository{Endpoint: l.bed.S3.Endpoint, Region: l.bed.S3.Region, Bucket: l.bed.S3.Bucket, CABundle: ca + "\n", Prefix: l.name + "/memory/"},
		Volumes:    []engine.VolumeRequest{v},
	})
	if err != nil {
		return "", fmt.Errorf("cannot encode the request: %w", err)
	}
	return string(raw), nil
}

// runMover is this program as the mover.
func runMover(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: bench %s REQUEST", moverCommand)
	}
	raw, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	var req engine.Request
	if err := json.Unmarshal(raw, &req); err != nil {
		return fmt.Errorf("cannot parse the request: %w", err)
	}
	res, err := engine.Run(ctx, req)
	if err != nil {
		return err
	}
	kib, err := estate.Peak()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(measured{res, kib})
}
