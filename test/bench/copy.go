package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/bench/shape"
)

const (
	copyBar       = 0.9 // of the peer's throughput
	aloneName     = "the engine alone, as its authors set it, to the same store"
	aloneOursName = "the engine alone in the product's repository format, to the same store"
	tarName       = "tar | zstd -1 | zstd -d | tar on one machine"
	rsyncName     = "rsync over TLS (rsync daemon behind stunnel)"
	notSupported  = "NotSupported"
)

// copying is one first copy of a volume, by everybody who does it.
type copying struct {
	lab    *lab
	shape  shape.Shape
	number int
	ours   map[string]sample // seconds
	steps  parts
}

// copies measures copy.first against the engine alone, copy.direct against
// rsync, both also against tar, and copy.sparse.
func copies(ctx context.Context, l *lab, runs int) ([]row, error) {
	if err := ensurePrograms(ctx, l); err != nil {
		return nil, err
	}
	s := l.size.large()
	s.FileBytes /= 2 // the time does not depend on how much changes
	c := &copying{lab: l, shape: s, ours: map[string]sample{}}
	direct := ""
	for i := range runs {
		if err := c.round(ctx, i, &direct); err != nil {
			return nil, err
		}
	}
	for name, took := range c.ours {
		fmt.Printf("%s: %s\n", name, took)
	}
	c.steps.print(os.Stdout, "where the product's time went:")
	note := fmt.Sprintf("first copy of %d MiB in %d files, up and down", s.Bytes()>>20, s.Files)
	rows := []row{
		c.row("copy.first", "product", aloneName, copyBar, note),
		c.row("copy.first-own-format", "product", aloneOursName, copyBar, note),
		c.row("copy.first-tar", "product", tarName, 0, note),
		c.row("copy.first-rsync", "product", rsyncName, 0, note),
	}
	if direct != "" {
		rows = append(rows, row{Name: "copy.direct", Unit: "MB/s", Peer: rsyncName, Bar: copyBar, Note: "not measured: " + direct})
	} else {
		rows = append(rows, c.row("copy.direct", "direct", rsyncName, copyBar, note))
	}
	sparse, err := l.sparse(ctx, runs)
	return append(rows, sparse), err
}

// row compares throughputs.
func (c *copying) row(name, ours, peer string, bar float64, note string) row {
	mb := float64(c.shape.Used()) / 1e6
	a, b := mb/c.ours[ours].median(), mb/c.ours[peer].median()
	return row{Name: name, Value: a, Unit: "MB/s", Peer: peer, PeerValue: b, Ratio: a / b, Bar: bar, Pass: a/b >= bar, Note: note}
}

// round copies one volume by everybody, in another order each time; direct says
// why the product does not copy directly.
func (c *copying) round(ctx context.Context, i int, direct *string) error {
	c.number = i
	v, err := c.lab.newVolume(ctx, fmt.Sprintf("copy-%d", i), "Deployment", c.shape)
	if err != nil {
		return err
	}
	dir, err := v.dir(ctx, &c.lab.bed.Source, v.plan)
	if err != nil {
		return err
	}
	product := func() error { return c.product(ctx, v, "product") }
	peers := func() error { return c.peers(ctx, v, dir) }
	todo := []func() error{product, peers}
	if i%2 == 1 { // the product's repository is needed to know its format
		todo = []func() error{func() error { return c.rsyncAndTar(ctx, dir) }, product, func() error { return c.alone(ctx, v, dir) }}
	}
	for _, do := range todo {
		if err := do(); err != nil {
			return err
		}
	}
	if err := v.remove(ctx); err != nil {
		return err
	}
	if *direct == "" {
		*direct, err = c.direct(ctx)
	}
	fmt.Printf("  round %d: load average %s\n", i+1, loadAverage())
	return err
}

func (c *copying) peers(ctx context.Context, v *volume, dir string) error {
	if err := c.alone(ctx, v, dir); err != nil {
		return err
	}
	return c.rsyncAndTar(ctx, dir)
}

func (c *copying) add(name string, took time.Duration) {
	c.ours[name] = append(c.ours[name], took.Seconds())
	fmt.Printf("    %s: %.2f s\n", name, took.Seconds())
}

func (c *copying) product(ctx context.Context, v *volume, name string) error {
	r, err := v.stage(ctx, 1)
	if err != nil {
		return err
	}
	took, err := copyTime(r)
	if err != nil {
		return err
	}
	c.add(name, took)
	c.steps.addSteps(r, "", r.Status.Ended.Time)
	return nil
}

// direct copies another volume directly, if the product can.
func (c *copying) direct(ctx context.Context) (why string, err error) {
	v, err := c.lab.newVolume(ctx, fmt.Sprintf("direct-%d", c.number), "Deployment", c.shape)
	if err != nil {
		return "", err
	}
	v.extra = []string{"volumes: {defaults: {transfer: Direct}}"}
	if _, err := c.lab.commit(ctx, "Ask for a direct copy", plan(v.plan, spec.Staged, now(), v.extra...)); err != nil {
		return "", err
	}
	s, _, err := c.lab.wait(ctx, v.plan, "a direct copy", copyLimit, func(s *story) bool {
		reason, _ := s.ready()
		return reason == notSupported || s.finished(spec.RunStage, 1)
	})
	if err != nil {
		return "", err
	}
	if reason, _ := s.ready(); reason == notSupported {
		return "not supported yet", v.remove(ctx)
	}
	if s.Run.Status.Phase != spec.RunSucceeded {
		return "", fmt.Errorf("the direct copy of plan %s did not succeed: %s", v.plan, s.tell())
	}
	if v := s.Run.Facts.Volumes; len(v) != 1 || v[0].Transfer != "Direct" {
		return "", fmt.Errorf("run %s did not copy directly: %+v", s.Run.Metadata.Name, v)
	}
	from, to, err := between(s.Run, "direct", "direct")
	if err != nil {
		return "", err
	}
	c.add("direct", to.Sub(from))
	return "", v.remove(ctx)
}

// onto gives a peer an empty folder, and measures it until what it wrote is on
// the disk.
func (c *copying) onto(name string, do func(to string) error) error {
	to := filepath.Join(c.lab.dir, "copy")
	defer os.RemoveAll(to)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("cannot make a folder: %w", err)
	}
	start := time.Now()
	if err := do(to); err != nil {
		return fmt.Errorf("%s failed: %w", name, err)
	}
	if err := syncAll(to); err != nil {
		return fmt.Errorf("cannot bring the copy to the disk: %w", err)
	}
	c.add(name, time.Since(start))
	bytes, err := apparent(to)
	if err == nil && bytes < c.shape.Bytes() {
		err = fmt.Errorf("%s copied %d of %d bytes", name, bytes, c.shape.Bytes())
	}
	return err
}

func (c *copying) alone(ctx context.Context, v *volume, dir string) error {
	own, err := v.format(ctx)
	if err != nil {
		return err
	}
	for name, as := range map[string]repositoryFormat{aloneName: {}, aloneOursName: own} {
		e := &alone{lab: c.lab, prefix: fmt.Sprintf("%s/alone/%d/", c.lab.name, time.Now().UnixNano())}
		if err := e.create(ctx, as); err != nil {
			return err
		}
		err := c.onto(name, func(to string) error { return e.copy(ctx, dir, to) })
		if err != nil {
			return err
		}
		if err := c.lab.cleanBucket(ctx, e.prefix); err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) rsyncAndTar(ctx context.Context, dir string) error {
	if err := c.onto(tarName, func(to string) error { return tarCopy(ctx, c.lab, dir, to) }); err != nil {
		return err
	}
	r, err := startRsync(ctx, c.lab, dir)
	if err != nil {
		return err
	}
	defer r.stop()
	return c.onto(rsyncName, func(to string) error { return r.copy(ctx, to) })
}

func apparent(dir string) (bytes int64, err error) {
	err = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return err
	})
	return bytes, err
}

// sparse measures the first copy of one file that is mostly holes, and that it
// stays so.
func (l *lab) sparse(ctx context.Context, runs int) (row, error) {
	s := l.size.sparse()
	c := &copying{lab: l, shape: s, ours: map[string]sample{}}
	taken := sample{}
	for i := range runs {
		v, err := l.newVolume(ctx, fmt.Sprintf("sparse-%d", i), "Deployment", s)
		if err != nil {
			return row{}, err
		}
		dir, err := v.dir(ctx, &l.bed.Source, v.plan)
		if err != nil {
			return row{}, err
		}
		product := func() error { return c.product(ctx, v, "product") }
		peer := func() error { return c.onto(tarName, func(to string) error { return tarCopy(ctx, l, dir, to) }) }
		if err := alternate(i, product, peer); err != nil {
			return row{}, err
		}
		used, err := v.staged(ctx)
		if err != nil {
			return row{}, err
		}
		taken = append(taken, float64(used)/1e6)
		if err := v.remove(ctx); err != nil {
			return row{}, err
		}
	}
	a, b := c.ours["product"].median(), c.ours[tarName].median()
	return row{Name: "copy.sparse", Value: a, Unit: "s", Peer: tarName, PeerValue: b, Ratio: a / b, Note: fmt.Sprintf(
		"first copy of a sparse file of %d MiB with %d MiB used; it takes %.0f MB on the target", s.Bytes()>>20, s.Used()>>20, taken.median())}, nil
}

// staged is how much of the disk the copy on the target takes.
func (v *volume) staged(ctx context.Context) (int64, error) {
	handle, err := v.lab.kubectl(ctx, &v.lab.bed.Target, "", "get", "pv", "-o",
		fmt.Sprintf(`jsonpath={.items[?(@.metadata.name=="%s")].spec.csi.volumeHandle}`, v.stagedPV(ctx)))
	if err != nil {
		return 0, err
	}
	return shape.Allocated(filepath.Join(v.lab.bedDir, "csi", "volumes", filepath.Base(handle), "data"))
}

func (v *volume) stagedPV(ctx context.Context) string {
	name, err := v.lab.kubectl(ctx, &v.lab.bed.Target, "", "-n", ourNamespace, "get", "pvc", "-l", planLabel(v.plan), "-o", "jsonpath={.items[0].spec.volumeName}")
	if err != nil {
		return "" // there is no such volume, and that is said
	}
	return name
}
