package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is a machine, running or not.
type Machine struct {
	Name string
	Dir  string // of its process id, its control socket and its logs
}

// Namespaces of a machine. A Host machine shares the network of the host.
const (
	Full = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID
	Host = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
)

// Boot starts process 1, which is the program self called with "machine DIR". It
// outlives the caller.
func (m Machine) Boot(ctx context.Context, self string, namespaces uintptr) error {
	if err := os.MkdirAll(filepath.Join(m.Dir, "log"), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of machine %s: %w", m.Name, err)
	}
	log, err := os.Create(filepath.Join(m.Dir, "log", "init.log"))
	if err != nil {
		return fmt.Errorf("cannot make a log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(self, "machine", m.Dir)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	if err := keepFiles(); err != nil {
		return err
	}
	// A session of its own: closing the terminal of `up` must not end the bed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start machine %s: %w", m.Name, err)
	}
	pid := cmd.Process.Pid
	go cmd.Wait() //nolint:errcheck // only so that a machine that dies early is no zombie
	started, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("machine %s died at once, see %s: %w", m.Name, log.Name(), err)
	}
	if err := os.WriteFile(m.pidFile(), fmt.Appendf(nil, "%d %s\n", pid, started), 0o644); err != nil {
		return fmt.Errorf("cannot record machine %s: %w", m.Name, err)
	}
	return m.waitForInit(ctx)
}

// keepFiles keeps the files that this program has inherited from its caller away from
// what it starts: a machine that had a lock of the caller's open would hold it for as
// long as it runs.
func keepFiles() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("cannot list the open files: %w", err)
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

func (m Machine) waitForInit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		_, err := m.Services()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("machine %s does not answer, see %s/log/init.log: %w", m.Name, m.Dir, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m Machine) pidFile() string { return filepath.Join(m.Dir, "pid") }

// Pid is the process id of process 1 on the host, 0 if the machine does not run.
func (m Machine) Pid() int {
	raw, err := os.ReadFile(m.pidFile())
	if err != nil {
		return 0
	}
	text, started, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	pid, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	// The number may belong to another process by now: the start time tells.
	if now, err := startTime(pid); err != nil || now != started {
		return 0
	}
	return pid
}

// startTime is when a process started, in the kernel's ticks. A zombie has ended.
func startTime(pid int) (string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	_, rest, ok := strings.Cut(string(raw), ") ") // the name before it may hold spaces
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return "", fmt.Errorf("cannot read the state of process %d", pid)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return "", fs.ErrNotExist
	}
	return fields[19], nil
}

// Command prepares a command inside the machine.
func (m Machine) Command(ctx context.Context, argv ...string) *exec.Cmd {
	args := append([]string{"-t", strconv.Itoa(m.Pid()), "-m", "-n", "-u", "-p", "--"}, argv...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

// Script runs a shell script inside the machine.
func (m Machine) Script(ctx context.Context, script string) error {
	out, err := m.Command(ctx, "/bin/sh", "-ec", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot prepare machine %s: %w: %s", m.Name, err, out)
	}
	return nil
}

// Start starts a service and keeps it running.
func (m Machine) Start(name string, argv, env []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	argv = append([]string{path}, argv[1:]...)
	_, err = m.ask(request{Op: "start", Service: Service{Name: name, Argv: argv, Env: env, Log: m.Log(name)}})
	return err
}

// Stop kills a service and leaves it stopped.
func (m Machine) Stop(name string) error {
	_, err := m.ask(request{Op: "stop", Service: Service{Name: name}})
	return err
}

// Log is the file that a service writes to.
func (m Machine) Log(service string) string { return filepath.Join(m.Dir, "log", service+".log") }

// Services tells how the services are.
func (m Machine) Services() ([]ServiceStatus, error) {
	r, err := m.ask(request{Op: "list"})
	return r.Services, err
}

func (m Machine) ask(r request) (response, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(m.Dir, "control.sock"), 5*time.Second)
	if err != nil {
		return response{}, fmt.Errorf("cannot reach machine %s: %w", m.Name, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return response{}, err
	}
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return response{}, fmt.Errorf("cannot command machine %s: %w", m.Name, err)
	}
	var out response
	if err := json.NewDecoder(conn).Decode(&out); err != nil {
		return response{}, fmt.Errorf("cannot read the answer of machine %s: %w", m.Name, err)
	}
	if out.Error != "" {
		return out, fmt.Errorf("machine %s: %s", m.Name, out.Error)
	}
	return out, nil
}

// Kill ends the machine with all that runs in it, and waits until it is gone.
func (m Machine) Kill(ctx context.Context) error {
	pid := m.Pid()
	if pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot kill machine %s: %w", m.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for m.Pid() != 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("machine %s (process %d) does not die: look for processes in state D with ps", m.Name, pid)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
