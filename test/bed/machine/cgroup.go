package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchies are the mounted cgroup hierarchies: of version 1 (one a controller),
// and the unified one, which runc uses beside them where it exists.
func hierarchies() (v1 []string, unified string, err error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, "", fmt.Errorf("cannot list the cgroup hierarchies: %w", err)
	}
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) < 3 || !strings.HasPrefix(fields[1], cgroupRoot) {
			continue
		}
		switch fields[2] {
		case "cgroup":
			v1 = append(v1, fields[1])
		case "cgroup2":
			unified = fields[1]
		}
	}
	return v1, unified, nil
}

// CheckCgroups says what is missing for kubelets to run here.
func CheckCgroups() error {
	v1, _, err := hierarchies()
	if err != nil {
		return err
	}
	var missing []string
	for _, c := range []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids"} {
		if !slices.ContainsFunc(v1, func(h string) bool { return slices.Contains(strings.Split(filepath.Base(h), ","), c) }) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("cannot run kubelets: the cgroup v1 controllers %s are not mounted below %s", strings.Join(missing, ", "), cgroupRoot)
	}
	return nil
}

// MakeCgroup makes the group of a kubelet in every hierarchy: a kubelet refuses to
// start below a root that is missing in one of them.
func MakeCgroup(name string) error {
	v1, _, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range v1 {
		if err := os.MkdirAll(filepath.Join(h, name), 0o755); err != nil {
			return fmt.Errorf("cannot make cgroup %s: %w", name, err)
		}
		if slices.Contains(strings.Split(filepath.Base(h), ","), "cpuset") {
			if err := seedCpuset(h, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// seedCpuset gives each level its parent's processors: a new group has none, and
// nothing can run in it.
func seedCpuset(hierarchy, name string) error {
	dir := hierarchy
	for part := range strings.SplitSeq(name, "/") {
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(dir, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, part, file), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("cannot set %s of cgroup %s: %w", file, name, err)
			}
		}
		dir = filepath.Join(dir, part)
	}
	return nil
}

// RemoveCgroup removes the group and all below it. The kernel takes a moment to
// notice that the last process is gone.
func RemoveCgroup(name string) error {
	v1, unified, err := hierarchies()
	if err != nil {
		return err
	}
	if unified != "" {
		v1 = append(v1, unified)
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, h := range v1 {
		for {
			err := removeTree(filepath.Join(h, name))
			if err == nil {
				break
			}
			if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("cannot remove cgroup %s: %w", name, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// removeTree removes folders only: the files of a cgroup go with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
