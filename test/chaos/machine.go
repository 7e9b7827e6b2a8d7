package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tranship/tranship/test/lab"
)

// machine is one of the bed's: its process 1 starts a service again a second
// after it has died.
type machine struct{ dir string }

func (c *chaos) machine(name string) machine {
	return machine{filepath.Join(filepath.Dir(c.bed), "machines", name)}
}

// killService ends a service with SIGKILL; false when it is not running.
func (m machine) killService(name string) (bool, error) {
	pid, err := m.servicePid(name)
	if err != nil || pid == 0 {
		return false, err
	}
	raw, err := os.ReadFile(filepath.Join(m.dir, "pid"))
	if err != nil {
		return false, fmt.Errorf("cannot find the machine: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	// The number is one of the machine's own process namespace.
	if out, err := exec.Command("nsenter", "-t", first, "-p", "--", "kill", "-9", strconv.Itoa(pid)).CombinedOutput(); err != nil {
		return false, fmt.Errorf("cannot kill %s: %w: %s", name, err, out)
	}
	return true, nil
}

func (m machine) servicePid(name string) (int, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(m.dir, "control.sock"), callLimit)
	if err != nil {
		return 0, fmt.Errorf("cannot reach the machine: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(callLimit)); err != nil {
		return 0, err
	}
	if err := json.NewEncoder(conn).Encode(map[string]string{"op": "list"}); err != nil {
		return 0, fmt.Errorf("cannot ask the machine: %w", err)
	}
	var answer struct {
		Error    string
		Services []struct {
			Name string
			Pid  int
		}
	}
	if err := json.NewDecoder(conn).Decode(&answer); err != nil || answer.Error != "" {
		return 0, fmt.Errorf("the machine does not tell its services: %w %s", err, answer.Error)
	}
	for _, s := range answer.Services {
		if s.Name == name {
			return s.Pid, nil
		}
	}
	return 0, fmt.Errorf("the machine has no service %s", name)
}

// killPod ends every process of a pod but its sandbox, with SIGKILL.
func killPod(uid string) (killed int, err error) {
	pids, err := lab.PodProcesses(uid)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return killed, fmt.Errorf("cannot kill a process of a pod: %w", err)
		}
		killed++
	}
	return killed, nil
}
