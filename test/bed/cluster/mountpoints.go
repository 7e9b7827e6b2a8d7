package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// RemoveMountPoints removes the folders that nodeScript made on the host, if
// nothing else uses them. It returns those that another bed has mounts on.
func RemoveMountPoints() (left []string, err error) {
	for _, target := range bound {
		used, err := mountPoint(target)
		if err != nil {
			return left, err
		}
		if used {
			left = append(left, target)
			continue
		}
		os.Remove(target) //nolint:errcheck // not empty: it is somebody else's
	}
	return left, nil
}

// mountPoint says whether any process has a mount on a folder. The kernel lets a
// folder be removed that is one in another mount namespace only, and detaches
// what is mounted there.
func mountPoint(folder string) (bool, error) {
	namespaces, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		return false, err
	}
	seen := map[string]bool{}
	for _, link := range namespaces {
		namespace, err := os.Readlink(link)
		if err != nil || seen[namespace] {
			continue // it has ended
		}
		process := filepath.Dir(filepath.Dir(link))
		mounts, err := os.ReadFile(filepath.Join(process, "mountinfo"))
		if err != nil {
			if _, gone := os.Readlink(link); gone != nil {
				continue
			}
			return false, fmt.Errorf("cannot read the mounts of process %s, and whether %s is one: %w", filepath.Base(process), folder, err)
		}
		seen[namespace] = len(mounts) > 0
		for line := range strings.Lines(string(mounts)) {
			if fields := strings.Fields(line); len(fields) > 4 && fields[4] == folder {
				return true, nil
			}
		}
	}
	return false, nil
}
