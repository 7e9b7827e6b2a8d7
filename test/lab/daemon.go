package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Log keeps what daemons print, and hands every whole line to Line. It is safe
// for concurrent use; Line must be set before anything is written.
type Log struct {
	Line func(line string)

	mu   sync.Mutex
	text strings.Builder
	rest string
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if l.Line == nil {
		return len(p), nil
	}
	lines := strings.Split(l.rest+string(p), "\n")
	for _, line := range lines[:len(lines)-1] {
		l.Line(line)
	}
	l.rest = lines[len(lines)-1]
	return len(p), nil
}

// String is all that was printed so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Tail is the end of a text, of n bytes at most.
func Tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// process is a running daemon; err may be read after ended is closed.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error
}

// Flags are what every subcommand of the product needs.
func (l *Lab) Flags() []string {
	return []string{"--config", filepath.Join(l.Dir, "config.yaml"), "--secrets-dir", filepath.Join(l.Dir, "secrets")}
}

// DataDir is the daemon's journal and Git cache.
func (l *Lab) DataDir() string { return filepath.Join(l.Dir, "data") }

// Start runs the daemon under a group of its own where gid is not 0, so that
// its traffic can be told from all other; Kill ends it with SIGKILL.
func (l *Lab) Start(gid uint32, more ...string) error {
	args := append([]string{"run", "--data-dir", l.DataDir(), "--listen", l.Listen}, l.Flags()...)
	p := &process{cmd: exec.Command(l.Binary, append(args, more...)...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = l.Log, l.Log
	if gid != 0 {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 0, Gid: gid}}
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the daemon: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	l.daemon = p
	return nil
}

// Running says whether a daemon was started and not killed; it may have ended
// by itself.
func (l *Lab) Running() bool { return l.daemon != nil }

// Ended is closed when the daemon has ended; nil without one.
func (l *Lab) Ended() <-chan struct{} {
	if l.daemon == nil {
		return nil
	}
	return l.daemon.ended
}

// Kill ends the daemon with SIGKILL and waits until it is gone. The error says
// that it had ended by itself before, and how.
func (l *Lab) Kill() error {
	p := l.daemon
	if p == nil {
		return nil
	}
	l.daemon = nil
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return nil
		}
	}
	return fmt.Errorf("the daemon had ended by itself: %v", p.err)
}

// Story is what `tranship status` says of a plan, from Git alone.
type Story struct {
	Status spec.PlanStatus
	Run    *spec.Run
}

// Condition is the reason and the message of a condition, empty when there is
// none.
func (s *Story) Condition(kind string) (reason, message string) {
	if c := meta.FindStatusCondition(s.Status.Conditions, kind); c != nil {
		return c.Reason, c.Message
	}
	return "", ""
}

// Status reads a plan's story.
func (l *Lab) Status(plan string) (*Story, error) {
	c := exec.Command(l.Binary, append([]string{"status", plan, "-o", "json"}, l.Flags()...)...)
	var said strings.Builder
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("the status of plan %s cannot be read: %w: %s", plan, err, strings.TrimSpace(said.String()))
	}
	s := &Story{}
	return s, json.Unmarshal(out, s)
}

// Signal sends the running daemon a signal, such as SIGSTOP and SIGCONT.
func (l *Lab) Signal(s os.Signal) error {
	if l.daemon == nil {
		return errors.New("no daemon runs")
	}
	return l.daemon.cmd.Process.Signal(s)
}
