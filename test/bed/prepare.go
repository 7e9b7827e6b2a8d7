package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/tranship/tranship/test/bed/machine"
)

// needed are the programs that the bed runs, and the Debian packages they are in.
var needed = []struct{ file, pkg string }{
	{"containerd", "containerd"}, {"ctr", "containerd"}, {"/usr/sbin/runc", "runc"},
	{"/usr/lib/cni/bridge", "containernetworking-plugins"},
	{"iptables", "iptables"}, {"conntrack", "conntrack"}, {"ip", "iproute2"},
	{"nsenter", "util-linux"}, {"mount", "mount"}, {"hostname", "hostname"},
	{"mkfs.ext4", "e2fsprogs"}, {"resize2fs", "e2fsprogs"}, {"cp", "coreutils"},
	{"git", "git"}, {busybox, "busybox-static"},
}

const busybox = "/bin/busybox"

// checkHost says what keeps the bed from running here.
func checkHost() error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return fmt.Errorf("cannot run the bed on %s/%s: it needs Linux on amd64", runtime.GOOS, runtime.GOARCH)
	}
	if os.Geteuid() != 0 {
		return errors.New("cannot run the bed as this user: it makes namespaces and mounts; run it as root")
	}
	return machine.CheckCgroups()
}

func missingPackages() []string {
	var missing []string
	for _, n := range needed {
		if _, err := exec.LookPath(n.file); err != nil && !slices.Contains(missing, n.pkg) {
			missing = append(missing, n.pkg)
		}
	}
	return missing
}

// installMissing installs what is missing, where there is apt.
func installMissing(ctx context.Context, report func(string)) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("cannot run the bed: the Debian packages %s are missing, and there is no apt-get to install them", strings.Join(missing, " "))
	}
	report("installing " + strings.Join(missing, " "))
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)
	out, err := apt(ctx, install...)
	if err != nil { // most likely there are no package lists yet, or they are old
		if out, err := apt(ctx, "update", "-q"); err != nil {
			return fmt.Errorf("cannot read the package lists: %w\n%s", err, out)
		}
		out, err = apt(ctx, install...)
	}
	if err != nil {
		return fmt.Errorf("cannot install %s: %w\n%s", strings.Join(missing, " "), err, out)
	}
	if still := missingPackages(); len(still) > 0 {
		return fmt.Errorf("cannot find the programs of %s although the packages are installed", strings.Join(still, " "))
	}
	return nil
}

func apt(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return cmd.CombinedOutput()
}

// lock keeps two commands from changing the bed at once. It locks the folder above
// the bed's, which, unlike a lock file, is there before and after.
func lock(dir string) (unlock func(), err error) {
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make %s: %w", parent, err)
	}
	f, err := os.Open(parent)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the bed: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		fmt.Println("waiting for another bed command to finish")
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot lock the bed: %w", err)
		}
	}
	return func() { f.Close() }, nil
}

// sourceDir finds the sources of the programs to build: test/bed, from the current
// folder upwards.
func sourceDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("cannot find the current folder: %w", err)
	}
	for {
		for _, try := range []string{dir, filepath.Join(dir, "test", "bed")} {
			mod, err := os.ReadFile(filepath.Join(try, "go.mod"))
			if err == nil && strings.HasPrefix(string(mod), "module github.com/tranship/tranship/test/bed\n") {
				return try, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("cannot find test/bed, which has the sources to build: run this in a checkout of tranship")
		}
		dir = filepath.Dir(dir)
	}
}
