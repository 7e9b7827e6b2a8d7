package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/machine"
)

func down(ctx context.Context, args []string) error {
	set, dir := flags("down")
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
	start := time.Now()
	if err := removeAll(ctx, cluster.Layout{Dir: abs}); err != nil {
		return err
	}
	fmt.Printf("%6.1fs  the bed is gone\n", time.Since(start).Seconds())
	return nil
}

// removeAll removes the bed, whole or half. Mounts go with the machines.
func removeAll(ctx context.Context, l cluster.Layout) error {
	if !isBed(l.Dir) {
		return fmt.Errorf("cannot remove %s: it is not the folder of a bed", l.Dir)
	}
	var errs []error
	for _, m := range l.Machines() {
		errs = append(errs, m.Kill(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := freeLoops(ctx, l.Storage()); err != nil {
		return err
	}
	if err := cluster.BridgeDown(ctx); err != nil {
		return err
	}
	if err := machine.RemoveCgroup(l.CgroupParent()); err != nil {
		return err
	}
	left, err := cluster.RemoveMountPoints()
	if err != nil {
		return err
	}
	for _, folder := range left {
		fmt.Printf("         %s stays: another bed has mounts on it\n", folder)
	}
	if err := os.RemoveAll(l.Dir); err != nil {
		return fmt.Errorf("cannot remove the folder of the bed: %w", err)
	}
	return nil
}

// freeLoops frees the loop devices of the volumes, and those that kubelets put on
// top of them: unlike mounts they outlive the machines.
func freeLoops(ctx context.Context, storage string) error {
	images, err := filepath.Glob(filepath.Join(storage, "volumes", "*", "disk.img"))
	if err != nil {
		return err
	}
	var errs []error
	for _, image := range images {
		devices, err := loopsOf(ctx, image)
		errs = append(errs, err)
		for _, d := range devices {
			locks, err := loopsOf(ctx, d)
			errs = append(errs, err)
			for _, d := range append(locks, d) {
				if out, err := exec.CommandContext(ctx, "losetup", "--detach", d).CombinedOutput(); err != nil {
					errs = append(errs, fmt.Errorf("cannot free %s: %w: %s", d, err, out))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func loopsOf(ctx context.Context, file string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "losetup", "--noheadings", "--output", "NAME", "--associated", file).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list the loop devices of %s: %w", file, err)
	}
	return strings.Fields(string(out)), nil
}

// isBed guards against --dir /home. A folder that is not there is an empty bed.
func isBed(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	ours := map[string]bool{"bin": true, "machines": true, "services": true, "csi": true, "source": true, "target": true, "bed.json": true,
		"demo": true} // test/demo keeps its files beside the bed they belong to
	for _, e := range entries {
		if !ours[e.Name()] {
			return false
		}
	}
	return true
}
