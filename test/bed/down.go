package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	if err := cluster.BridgeDown(ctx); err != nil {
		return err
	}
	if err := machine.RemoveCgroup(cluster.CgroupParent); err != nil {
		return err
	}
	cluster.RemoveMountPoints()
	if err := os.RemoveAll(l.Dir); err != nil {
		return fmt.Errorf("cannot remove the folder of the bed: %w", err)
	}
	return nil
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
