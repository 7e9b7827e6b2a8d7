package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	controlLimit = 10 * time.Second       // for a machine's process 1 to answer
	killEvery    = 200 * time.Millisecond // less than a machine takes to start a service again
)

func (b *Bed) machine(name string) string { return filepath.Join(b.Dir, "machines", name) }

// KillService ends a service of one of the bed's machines ("host", or a node's name)
// with SIGKILL; false when it is not running. The machine starts it again a second
// after it has died.
func (b *Bed) KillService(machine, service string) (bool, error) {
	pid, err := b.servicePid(machine, service)
	if err != nil || pid == 0 {
		return false, err
	}
	raw, err := os.ReadFile(filepath.Join(b.machine(machine), "pid"))
	if err != nil {
		return false, fmt.Errorf("cannot find machine %s: %w", machine, err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	// The number is one of the machine's own process namespace.
	if out, err := exec.Command("nsenter", "-t", first, "-p", "--", "kill", "-9", strconv.Itoa(pid)).CombinedOutput(); err != nil {
		return false, fmt.Errorf("cannot kill %s of machine %s: %w: %s", service, machine, err, out)
	}
	return true, nil
}

// KeepDown kills a service whenever it comes up, for a while or until ctx ends, and
// calls killed each time. The service comes back by itself, whatever becomes of this
// process.
func (b *Bed) KeepDown(ctx context.Context, machine, service string, d time.Duration, killed func()) error {
	ctx, stop := context.WithTimeout(ctx, d)
	defer stop()
	for {
		ended, err := b.KillService(machine, service)
		if err != nil {
			return err
		}
		if ended {
			killed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(killEvery):
		}
	}
}

// Plug takes a node off the network, or puts it back. What runs on it goes on.
func (b *Bed) Plug(node string, in bool) error {
	state := map[bool]string{true: "up", false: "down"}[in]
	if out, err := exec.Command("ip", "link", "set", "tb-"+node, state).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot set the network of node %s %s: %w: %s", node, state, err, out)
	}
	return nil
}

func (b *Bed) servicePid(machine, name string) (int, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(b.machine(machine), "control.sock"), controlLimit)
	if err != nil {
		return 0, fmt.Errorf("cannot reach machine %s: %w", machine, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(controlLimit)); err != nil {
		return 0, err
	}
	if err := json.NewEncoder(conn).Encode(map[string]string{"op": "list"}); err != nil {
		return 0, fmt.Errorf("cannot ask machine %s: %w", machine, err)
	}
	var answer struct {
		Error    string
		Services []struct {
			Name string
			Pid  int
		}
	}
	if err := json.NewDecoder(conn).Decode(&answer); err != nil || answer.Error != "" {
		return 0, fmt.Errorf("machine %s does not tell its services: %w %s", machine, err, answer.Error)
	}
	for _, s := range answer.Services {
		if s.Name == name {
			return s.Pid, nil
		}
	}
	return 0, fmt.Errorf("machine %s has no service %s", machine, name)
}
