package engine

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/encryption"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/hashing"
	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used so far: on a shared machine it says more than a clock.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkHashAndCipher is where ADR 7 has its figures from: it uploads a file of random bytes with
// every safe hash and every cipher of the library, then reads it again with another time on it.
// TMPDIR=/dev/shm takes the disk out of the figures.
func BenchmarkHashAndCipher(b *testing.B) {
	const size = 512 << 20
	for _, hash := range hashing.SupportedAlgorithms() {
		for _, cipher := range encryption.SupportedAlgorithms(false) {
			b.Run(hash+"/"+cipher, func(b *testing.B) {
				l := newLab(b)
				l.bigFile(size)
				for b.Loop() {
					must(b, os.RemoveAll(l.place()))
					must(b, os.Mkdir(l.place(), 0o755))
					l.createWith(hash, cipher)
					first := l.costs(b, "first", "")
					now := time.Now()
					must(b, os.Chtimes(filepath.Join(l.src, "big"), now, now))
					l.costs(b, "again", first.Snapshot)
				}
			})
		}
	}
}

// costs uploads as a new pod does and reports the time and the processors' time of it.
func (l *lab) costs(b *testing.B, name, parent string) VolumeResult {
	l.fresh()
	begin := cpuTime()
	v, err := l.run(OpUpload, VolumeRequest{Parent: parent})
	must(b, err)
	b.ReportMetric(float64(v.DurationMS), name+"-ms")
	b.ReportMetric(float64(cpuTime()-begin)/1e6, name+"-cpu-ms")
	return v
}

func (l *lab) place() string {
	return must1(l.opts.openStore(Repository{}, secrets{})).(fileStore).path
}

// createWith makes the repository with another hash and cipher than we would.
func (l *lab) createWith(hash, cipher string) {
	l.t.Helper()
	ctx := context.Background()
	st := must1(filesystem.New(ctx, &filesystem.Options{Path: l.place()}, false))
	must(l.t, repo.Initialize(ctx, st, &repo.NewRepositoryOptions{
		BlockFormat:  format.ContentFormat{Hash: hash, Encryption: cipher},
		ObjectFormat: format.ObjectFormat{Splitter: splitterName},

		FormatBlockKeyDerivationAlgorithm: keyDerivation,
	}, "correct horse"))
}
