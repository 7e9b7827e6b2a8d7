package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tranship/tranship/test/bed/build"
	"github.com/tranship/tranship/test/bed/cluster"
)

// programs are the folders of what was built.
type programs struct{ kube, dns, s3, velero string }

// booter carries what the stages of a boot share.
type booter struct {
	cluster.Layout
	cache    build.Cache
	programs programs
	images   string
	clusters []*cluster.Cluster
	start    time.Time
}

func up(ctx context.Context, args []string) error {
	set, dir := flags("up")
	buildOnly := set.Bool("build-only", false, "build all programs, and boot nothing")
	if err := set.Parse(args); err != nil {
		return err
	}
	if err := checkHost(); err != nil {
		return err
	}
	abs, err := filepath.Abs(*dir)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", *dir, err)
	}
	unlock, err := lock(abs)
	if err != nil {
		return err
	}
	defer unlock()
	b := &booter{Layout: cluster.Layout{Dir: abs}, start: time.Now()}
	if !*buildOnly {
		if err := healthy(ctx, b.Layout); err == nil {
			fmt.Println("the bed runs already")
			return printStatus(ctx, b.Layout)
		}
		if _, err := os.Stat(b.Dir); err == nil {
			b.say("removing what is left of a bed that is not healthy")
			if err := removeAll(ctx, b.Layout); err != nil {
				return err
			}
		}
	}
	return b.run(ctx, *buildOnly)
}

func (b *booter) say(text string) {
	fmt.Printf("%6.1fs  %s\n", time.Since(b.start).Seconds(), text)
}

type stage struct {
	name string
	run  func(context.Context) error
}

func (b *booter) run(ctx context.Context, buildOnly bool) error {
	stages := []stage{
		{"packages are installed", func(ctx context.Context) error { return installMissing(ctx, b.say) }},
		{"programs are built", b.build},
		{"images are imported", b.importImages},
	}
	if !buildOnly {
		stages = append(stages,
			stage{"machines run", b.bootMachines},
			stage{"API servers are ready", b.bootAPI},
			stage{"controllers and kubelets are started", b.bootNodes},
			stage{"storage, DNS, access and Velero are applied", b.install},
			stage{"nodes are ready", func(ctx context.Context) error {
				return b.each(func(c *cluster.Cluster) error { return c.WaitNodes(ctx) })
			}},
			stage{"Velero is ready", func(ctx context.Context) error {
				return b.each(func(c *cluster.Cluster) error { return c.WaitVelero(ctx) })
			}},
			stage{"bed.json is written", func(ctx context.Context) error {
				return errors.Join(waitServices(ctx, b.Layout), writeBedFile(b.Layout, b.clusters))
			}},
		)
	}
	for _, s := range stages {
		if err := s.run(ctx); err != nil {
			if _, statErr := os.Stat(b.Dir); statErr == nil {
				fmt.Fprintf(os.Stderr, "The bed is half up, for a look at %s/machines/*/log. The next `bed up` starts anew.\n", b.Dir)
			}
			return err
		}
		b.say(s.name)
	}
	return nil
}

// each does the same on both clusters at once.
func (b *booter) each(do func(*cluster.Cluster) error) error {
	errs := make([]error, len(b.clusters))
	var wg sync.WaitGroup
	for i, c := range b.clusters {
		wg.Go(func() { errs[i] = do(c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (b *booter) build(ctx context.Context) error {
	source, err := sourceDir()
	if err != nil {
		return err
	}
	cacheDir, err := build.DefaultDir()
	if err != nil {
		return err
	}
	b.cache = build.Cache{Dir: cacheDir, Source: source, Report: b.say}
	// One after the other: each build takes all processors by itself.
	for _, m := range []struct {
		module build.Module
		into   *string
	}{{build.Kube, &b.programs.kube}, {build.DNS, &b.programs.dns}, {build.S3, &b.programs.s3}, {build.Velero, &b.programs.velero}} {
		if *m.into, err = b.cache.Ensure(ctx, m.module); err != nil {
			return err
		}
	}
	return nil
}

func (b *booter) importImages(ctx context.Context) error {
	var err error
	b.images, err = nodeImages(ctx, b.cache.Dir, b.programs, b.say)
	return err
}

// linkPrograms gives every program its name in one folder. The bed itself is
// copied: `go run` removes it when `up` ends.
func (b *booter) linkPrograms() error {
	if err := os.MkdirAll(b.Bin(""), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of the programs: %w", err)
	}
	links := map[string]string{
		"csi-bed": "csi-bed", "csi-snapshotter": "csi-snapshotter", "snapshot-controller": "snapshot-controller",
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"} {
		links[name] = "k8s-all"
	}
	for name, target := range links {
		links[name] = filepath.Join(b.programs.kube, target)
	}
	links["coredns"], links["versitygw"] = filepath.Join(b.programs.dns, "dns"), filepath.Join(b.programs.s3, "versitygw")
	for name, target := range links {
		if err := os.Symlink(target, b.Bin(name)); err != nil {
			return fmt.Errorf("cannot link %s: %w", name, err)
		}
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("cannot read this program: %w", err)
	}
	defer self.Close()
	out, err := os.OpenFile(b.Bin("bed"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("cannot copy this program: %w", err)
	}
	_, err = io.Copy(out, self)
	return errors.Join(err, out.Close())
}

func (b *booter) bootMachines(ctx context.Context) error {
	if err := b.linkPrograms(); err != nil {
		return err
	}
	if err := cluster.BridgeUp(ctx); err != nil {
		return err
	}
	for _, s := range cluster.Specs() {
		c := &cluster.Cluster{
			Spec: s, Layout: b.Layout, Registry: bedImages,
			KubeCRD: filepath.Join(b.programs.kube, "crd"), Velero: filepath.Join(b.programs.velero, "crd"),
		}
		if err := c.MakePKI(); err != nil {
			return err
		}
		b.clusters = append(b.clusters, c)
	}
	for _, n := range cluster.AllNodes() {
		if err := b.BootNode(ctx, n); err != nil {
			return err
		}
		if err := copyImages(ctx, b.images, filepath.Join(b.Machine(n.Name).Dir, "containerd")); err != nil {
			return err
		}
	}
	return startServices(ctx, b.Layout)
}

func (b *booter) bootAPI(ctx context.Context) error {
	return b.each(func(c *cluster.Cluster) error {
		if err := c.StartAPI(); err != nil {
			return err
		}
		for _, n := range c.Nodes {
			if err := c.StartRuntime(n); err != nil {
				return err
			}
		}
		return errors.Join(c.RouteServices(ctx), c.WaitAPI(ctx))
	})
}

func (b *booter) bootNodes(ctx context.Context) error {
	return b.each(func(c *cluster.Cluster) error {
		if err := c.StartControllers(); err != nil {
			return err
		}
		for _, n := range c.Nodes {
			if err := c.StartNode(ctx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *booter) install(ctx context.Context) error {
	return b.each(func(c *cluster.Cluster) error {
		for _, step := range []func(context.Context) error{c.StartDNS, c.InstallStorage, c.InstallVelero, c.GrantAccess} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}
