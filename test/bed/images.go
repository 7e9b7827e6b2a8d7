package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/image"
	"github.com/tranship/tranship/test/bed/kubeapi"
)

// The images of the bed, which are built here and are in no registry.
var bedImages = cluster.Images{Pause: "localhost/bed/pause:1", Velero: "localhost/bed/velero:v1.18.3", Busybox: "localhost/bed/busybox:1"}

func imageSpecs(p programs) []image.Spec {
	applets := []image.File{{Path: "bin/busybox", Source: busybox, Mode: 0o755}}
	for _, name := range strings.Fields("sh ls cat cp mv rm mkdir echo sleep stat chmod chown ln touch dd df du sync nslookup wget httpd nc id env true false test sha256sum md5sum find grep sed awk head tail wc date hostname ps kill tar mount seq") {
		applets = append(applets, image.File{Path: "bin/" + name, Link: "busybox"})
	}
	return []image.Spec{
		{Ref: bedImages.Pause, Entrypoint: []string{"/pause"}, Files: []image.File{{Path: "pause", Source: filepath.Join(p.kube, "pause")}}},
		{Ref: bedImages.Busybox, Entrypoint: []string{"/bin/sh"}, Files: applets},
		{
			Ref: bedImages.Velero, Entrypoint: []string{"/velero"}, Env: []string{"HOME=/tmp"},
			Files: []image.File{
				{Path: "velero", Source: filepath.Join(p.velero, "velero")},
				{Path: "velero-restore-helper", Source: filepath.Join(p.velero, "velero-restore-helper")},
				{Path: "plugins/velero-plugin-for-aws", Source: filepath.Join(p.velero, "velero-plugin-for-aws")},
				{Path: "plugins/velero-plugin-for-bed", Source: filepath.Join(p.velero, "velero-plugin-for-bed")},
				{Path: "bin/busybox", Source: busybox, Mode: 0o755},
			},
		},
	}
}

// nodeImages returns a folder of containerd which has imported the images of the
// bed. Nodes start from hard links to it: importing 200 MB into four nodes takes
// longer than everything else of a boot.
func nodeImages(ctx context.Context, cache string, p programs, report func(string)) (string, error) {
	specs := imageSpecs(p)
	key, err := imagesKey(specs)
	if err != nil {
		return "", err
	}
	ready := filepath.Join(cache, "images", key)
	if _, err := os.Stat(ready); err == nil {
		return ready, nil
	}
	report("importing images")
	if err := os.MkdirAll(filepath.Dir(ready), 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache of images: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(ready), "new-")
	if err != nil {
		return "", fmt.Errorf("cannot make the cache of images: %w", err)
	}
	defer os.RemoveAll(work)
	var tars []string
	for i, s := range specs {
		tar := filepath.Join(work, fmt.Sprintf("%d.tar", i))
		if err := writeImage(tar, s); err != nil {
			return "", err
		}
		tars = append(tars, tar)
	}
	root := filepath.Join(work, "root")
	if err := importInto(ctx, work, root, tars); err != nil {
		return "", err
	}
	return ready, os.Rename(root, ready)
}

// imagesKey changes with the content of any image. Programs of ours are in a folder
// named after what they are made of; only busybox has to be read.
func imagesKey(specs []image.Spec) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%+v\n", specs)
	f, err := os.Open(busybox)
	if err != nil {
		return "", fmt.Errorf("cannot read busybox: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("cannot read busybox: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func writeImage(path string, s image.Spec) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("cannot make an image: %w", err)
	}
	return errors.Join(image.Write(f, s), f.Close())
}

// importInto runs a containerd of its own on the folder root for as long as it takes.
func importInto(ctx context.Context, work, root string, tars []string) error {
	// A short path: sockets have at most 108 bytes of it.
	state, err := os.MkdirTemp("", "bed-")
	if err != nil {
		return fmt.Errorf("cannot make a folder: %w", err)
	}
	defer os.RemoveAll(state)
	config, logFile := filepath.Join(work, "containerd.toml"), filepath.Join(work, "containerd.log")
	text := strings.Replace(cluster.ContainerdConfig(root, state, "/nonexistent", bedImages.Pause), "disabled_plugins = [", `disabled_plugins = ["io.containerd.grpc.v1.cri", `, 1)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return fmt.Errorf("cannot configure containerd: %w", err)
	}
	log, err := os.Create(logFile)
	if err != nil {
		return fmt.Errorf("cannot make a log: %w", err)
	}
	defer log.Close()
	daemon := exec.Command("containerd", "--config", config)
	daemon.Stdout, daemon.Stderr = log, log
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		return fmt.Errorf("cannot start containerd: %w", err)
	}
	defer daemon.Wait()                          //nolint:errcheck // it was told to stop
	defer daemon.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have died
	socket := filepath.Join(state, "containerd.sock")
	if err := kubeapi.Wait(ctx, 30*time.Second, "containerd", func(context.Context) (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, err
	}); err != nil {
		return err
	}
	for _, tar := range tars {
		if out, err := exec.CommandContext(ctx, "ctr", "-a", socket, "-n", "k8s.io", "images", "import", tar).CombinedOutput(); err != nil {
			text, _ := os.ReadFile(logFile)
			return fmt.Errorf("cannot import an image: %w: %s\n%s", err, out, text)
		}
	}
	return nil
}

// copyImages gives a node its images. Data are hard links, since containerd never
// writes to them again; its databases are copies.
func copyImages(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-al", from+"/.", to).CombinedOutput(); err != nil {
		// The cache may be on another disk.
		if more, err := exec.CommandContext(ctx, "cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot copy the images: %w: %s%s", err, out, more)
		}
		return nil
	}
	return filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (e.Name() == "snapshots" || e.Name() == "blobs") {
			return fs.SkipDir
		}
		if e.IsDir() || !strings.HasSuffix(path, ".db") {
			return nil
		}
		data, err := os.ReadFile(path)
		if err == nil {
			err = errors.Join(os.Remove(path), os.WriteFile(path, data, 0o644))
		}
		return err
	})
}

// loadImage imports a tar into all nodes, except into those that have it.
func loadImage(ctx context.Context, l cluster.Layout, tar string) error {
	f, err := os.Open(tar)
	if err != nil {
		return fmt.Errorf("cannot read the image: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("cannot read %s: %w", tar, err)
	}
	abs, err := filepath.Abs(tar)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", tar, err)
	}
	digest := hex.EncodeToString(h.Sum(nil))
	nodes := cluster.AllNodes()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			m := l.Machine(n.Name)
			mark := filepath.Join(m.Dir, "loaded-"+digest)
			if _, err := os.Stat(mark); err == nil {
				return
			}
			if out, err := m.Command(ctx, "ctr", "-n", "k8s.io", "images", "import", abs).CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("cannot import %s into %s: %w: %s", tar, n.Name, err, out)
				return
			}
			errs[i] = os.WriteFile(mark, nil, 0o644)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
