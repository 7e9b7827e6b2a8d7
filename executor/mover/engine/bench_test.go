package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// benchLab uses the bed's object store if there is one, and a directory otherwise.
func benchLab(b *testing.B) *lab {
	if os.Getenv("TRANSHIP_BED") != "" {
		return newBedLab(b)
	}
	return newLab(b)
}

// fresh gives the lab an empty cache, as a new pod has.
func (l *lab) fresh() { must(l.t, os.RemoveAll(l.req.CacheDir)) }

// measure runs one operation as a new pod would, and reports how long opening took.
func (l *lab) measure(b *testing.B, op Op, v VolumeRequest) (res Result) {
	b.StopTimer()
	l.fresh()
	v.Name, v.Path = "shop/data", map[Op]string{OpUpload: l.src, OpRestore: l.dst}[op]
	req := withOp(l.req, op)
	req.Volumes = []VolumeRequest{v}
	b.StartTimer()
	res, err := run(context.Background(), req, l.opts)
	must(b, err)
	b.ReportMetric(float64(res.RepositoryOpenMS), "open-ms")
	b.ReportMetric(float64(res.Volumes[0].DurationMS), "volume-ms")
	b.ReportMetric(peakMB(), "peak-MB")
	return res
}

// peakMB is the most memory the process had so far: run one benchmark at a time to read it.
func peakMB() float64 {
	raw, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(raw), "VmHWM:")
	var kb float64
	_, _ = fmt.Sscan(after, &kb)
	return kb / 1024
}

func (l *lab) smallFiles(n int) {
	for i := range n {
		l.write(fmt.Sprintf("d%03d/f%05d", i%100, i), strings.Repeat(fmt.Sprint(i, " "), 400))
	}
}

func (l *lab) bigFile(bytes int64) {
	f := must1(os.Create(filepath.Join(l.src, "big")))
	must1(io.CopyN(f, rand.Reader, bytes))
	must(l.t, f.Close())
}

func BenchmarkSmallFilesFirstUpload(b *testing.B) {
	l := benchLab(b)
	l.smallFiles(10000)
	for b.Loop() {
		l.measure(b, OpUpload, VolumeRequest{Content: true})
	}
}

func BenchmarkSmallFilesNothingChangedUpload(b *testing.B) {
	l := benchLab(b)
	l.smallFiles(10000)
	first := l.upload("")
	for b.Loop() {
		if v := l.measure(b, OpUpload, VolumeRequest{Parent: first.Snapshot}).Volumes[0]; v.ChangedFiles != 0 {
			b.Fatalf("%+v", v)
		}
	}
}

func BenchmarkSmallFilesFirstRestore(b *testing.B) {
	l := benchLab(b)
	l.smallFiles(10000)
	first := l.upload("")
	for b.Loop() {
		b.StopTimer()
		must(b, os.RemoveAll(l.dst))
		must(b, os.Mkdir(l.dst, 0o755))
		b.StartTimer()
		l.measure(b, OpRestore, VolumeRequest{Snapshot: first.Snapshot})
	}
}

func BenchmarkSmallFilesNothingChangedRestore(b *testing.B) {
	l := benchLab(b)
	l.smallFiles(10000)
	first := l.upload("")
	l.restore(first.Snapshot, "")
	for b.Loop() {
		l.measure(b, OpRestore, VolumeRequest{Snapshot: first.Snapshot, Held: first.Snapshot})
	}
}

func BenchmarkSmallFilesCompareRestore(b *testing.B) {
	l := benchLab(b)
	l.smallFiles(10000)
	first := l.upload("")
	l.restore(first.Snapshot, "")
	for b.Loop() {
		l.measure(b, OpRestore, VolumeRequest{Snapshot: first.Snapshot, Content: true})
	}
}

const bigBytes = 1 << 30

func BenchmarkBigFileUpload(b *testing.B) {
	l := benchLab(b)
	b.SetBytes(bigBytes)
	for b.Loop() {
		b.StopTimer()
		l.bigFile(bigBytes)
		b.StartTimer()
		l.measure(b, OpUpload, VolumeRequest{})
	}
}

func BenchmarkBigFileRestore(b *testing.B) {
	l := benchLab(b)
	b.SetBytes(bigBytes)
	l.bigFile(bigBytes)
	first := l.upload("")
	for b.Loop() {
		b.StopTimer()
		must(b, os.RemoveAll(l.dst))
		must(b, os.Mkdir(l.dst, 0o755))
		b.StartTimer()
		l.measure(b, OpRestore, VolumeRequest{Snapshot: first.Snapshot})
	}
}

// BenchmarkScatteredPagesRestore changes one percent of the pages of 8 KiB of a volume in four files
// and brings them to a target that holds the state before; with the disk's cache warm.
func BenchmarkScatteredPagesRestore(b *testing.B) {
	l := benchLab(b)
	const files, size, page = 4, 512 << 20, 8 << 10
	rnd := mathrand.New(mathrand.NewSource(1))
	each := func(change func(f *os.File)) {
		for i := range files {
			f := must1(os.OpenFile(filepath.Join(l.src, fmt.Sprint(i)), os.O_RDWR|os.O_CREATE, 0o644))
			change(f)
			must(b, f.Close())
		}
	}
	each(func(f *os.File) { must1(io.CopyN(f, rnd, size)) })
	held := l.upload("").Snapshot
	l.restore(held, "")
	buf := make([]byte, page)
	for b.Loop() {
		b.StopTimer()
		each(func(f *os.File) {
			for range size / page / 100 {
				rnd.Read(buf)
				must1(f.WriteAt(buf, rnd.Int63n(size/page)*page))
			}
		})
		next := l.upload(held).Snapshot
		b.StartTimer()
		v := l.measure(b, OpRestore, VolumeRequest{Snapshot: next, Held: held}).Volumes[0]
		b.ReportMetric(float64(v.WrittenBytes)/(1<<20), "written-MiB")
		b.ReportMetric(float64(v.FetchedBytes)/float64(v.WrittenBytes), "fetched/written")
		held = next
	}
}

// BenchmarkVerify reads back what a restore that had nothing to write has left: 1 GiB in 1,000 files.
func BenchmarkVerify(b *testing.B) {
	l := benchLab(b)
	rnd := mathrand.New(mathrand.NewSource(1))
	for i := range 1000 {
		f := must1(os.Create(filepath.Join(l.src, fmt.Sprint(i))))
		must1(io.CopyN(f, rnd, 1<<20))
		must(b, f.Close())
	}
	held := l.upload("").Snapshot
	l.restore(held, "")
	for _, verify := range []Verify{VerifyNothing, VerifyAll} {
		b.Run(fmt.Sprintf("verify=%s", verify), func(b *testing.B) {
			for b.Loop() {
				v := l.measure(b, OpRestore, VolumeRequest{Snapshot: held, Held: held, Verify: verify}).Volumes[0]
				if v.Verified != nil {
					b.ReportMetric(float64(v.Verified.Bytes)/1e3/float64(v.Verified.DurationMS), "MB/s-read-back")
				}
			}
		})
	}
}
