package lab

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// PodProcesses are the processes of a pod of the bed, without its sandbox.
func PodProcesses(uid string) (pids []int, err error) {
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, err
	}
	for _, file := range groups {
		group, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(group), "pod"+uid) { // it has just ended, or is not of the pod
			continue
		}
		dir := filepath.Dir(file)
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(name)) == "pause" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
