package machine

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Usage is what the processes of a machine use.
type Usage struct {
	Processes int
	KiB       int64 // proportional set size: shared pages count once over all machines
}

// Usages tells what the machines use. A machine's processes are the descendants of
// its process 1: pods have process namespaces of their own.
func Usages(machines []Machine) map[string]Usage {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is correct
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		raw, readErr := os.ReadFile(path)
		if err != nil || readErr != nil {
			continue // ended meanwhile
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 {
			parents[pid], _ = strconv.Atoi(fields[1])
		}
	}
	owner := map[int]string{}
	for _, m := range machines {
		if pid := m.Pid(); pid != 0 {
			owner[pid] = m.Name
		}
	}
	out := map[string]Usage{}
	for pid := range parents {
		for up, steps := pid, 0; up > 1 && steps < 64; up, steps = parents[up], steps+1 {
			if name, ok := owner[up]; ok {
				u := out[name]
				u.Processes++
				u.KiB += pss(pid)
				out[name] = u
				break
			}
		}
	}
	return out
}

func pss(pid int) int64 {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0
	}
	for scan := bufio.NewScanner(bytes.NewReader(raw)); scan.Scan(); {
		if value, ok := strings.CutPrefix(scan.Text(), "Pss:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
			return kib
		}
	}
	return 0
}
