package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
)

const (
	tick        = 200 * time.Millisecond
	stopLimit   = 20 * time.Second
	logTailSize = 3000
)

// daemon is `tranship run`, as a process beside this program.
type daemon struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func (l *lab) logFile() string { return filepath.Join(l.dir, "daemon.log") }

func (l *lab) flags() []string {
	return []string{"--config", filepath.Join(l.dir, "config.yaml"), "--secrets-dir", filepath.Join(l.dir, "secrets")}
}

func startDaemon(l *lab) (*daemon, error) {
	out, err := os.Create(l.logFile())
	if err != nil {
		return nil, fmt.Errorf("cannot make the daemon's log: %w", err)
	}
	defer out.Close()
	args := append([]string{"run", "--data-dir", filepath.Join(l.dir, "data"), "--listen", ""}, l.flags()...)
	d := &daemon{cmd: exec.Command(l.binary, args...), exited: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = out, out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for this program first
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the daemon: %w", err)
	}
	go func() {
		_ = d.cmd.Wait() // how it ended is in its log
		close(d.exited)
	}()
	return d, nil
}

// stop asks the daemon to end, and makes it after a while.
func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(stopLimit):
		_ = d.cmd.Process.Kill()
		<-d.exited
	}
}

func (l *lab) logTail() string {
	raw, err := os.ReadFile(l.logFile())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(raw[max(0, len(raw)-logTailSize):]))
}

// story is what `tranship status` says of a plan, from Git alone.
type story struct {
	Status spec.PlanStatus `json:"status"`
	Run    *spec.Run       `json:"run"`
}

func (s *story) ready() (reason, message string) {
	if c := meta.FindStatusCondition(s.Status.Conditions, "Ready"); c != nil {
		return c.Reason, c.Message
	}
	return "", ""
}

// finished is the newest run of a kind, if it is over.
func (s *story) finished(kind spec.RunKind, number int) bool {
	return s.Run != nil && s.Run.Spec.Kind == kind && s.Run.Spec.Number >= number && s.Run.Status.Phase != spec.RunRunning
}

func (l *lab) status(ctx context.Context, plan string) (*story, error) {
	text, err := l.run(ctx, "", l.binary, append([]string{"status", plan, "-o", "json"}, l.flags()...)...)
	if err != nil {
		return nil, err
	}
	s := &story{}
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return nil, fmt.Errorf("cannot read the status of plan %s: %w", plan, err)
	}
	return s, nil
}

// wait reads the status whenever the ledger's tip has moved, so that waiting
// costs the daemon next to nothing, until ok says so. It returns when the tip
// was seen, too.
func (l *lab) wait(ctx context.Context, plan, what string, limit time.Duration, ok func(*story) bool) (*story, time.Time, error) {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	var last *story
	var tip string
	for {
		now, err := l.git(ctx, "clone", "ls-remote", "origin", "refs/heads/"+l.ledger())
		seen := time.Now()
		if err == nil && now != "" && now != tip {
			if s, err := l.status(ctx, plan); err == nil {
				if last, tip = s, now; ok(s) {
					return s, seen, nil
				}
			}
		}
		select {
		case <-l.daemon.exited:
			return nil, seen, fmt.Errorf("the daemon ended while plan %s was awaited: %s", plan, what)
		case <-ctx.Done():
			return nil, seen, fmt.Errorf("plan %s was awaited in vain for %s: %s; %s", plan, limit, what, last.tell())
		case <-time.After(tick):
		}
	}
}

// tell is for people who look for the reason of a failure.
func (s *story) tell() string {
	if s == nil {
		return "it has no status"
	}
	reason, message := s.ready()
	text := fmt.Sprintf("it is %s: %s", reason, message)
	if s.Run != nil {
		text += fmt.Sprintf("; run %s is %s %s %s", s.Run.Metadata.Name, s.Run.Status.Phase, s.Run.Status.Reason, s.Run.Status.Message)
	}
	return text
}

// finished waits for the end of a run and demands that it succeeded.
func (l *lab) finished(ctx context.Context, plan string, kind spec.RunKind, number int, limit time.Duration) (*spec.Run, error) {
	s, _, err := l.wait(ctx, plan, fmt.Sprintf("%s run %d to end", kind, number), limit, func(s *story) bool { return s.finished(kind, number) })
	if err != nil {
		return nil, err
	}
	if s.Run.Status.Phase != spec.RunSucceeded {
		return nil, fmt.Errorf("%s run %d of plan %s did not succeed: %s", kind, number, plan, s.tell())
	}
	return s.Run, nil
}

// staged waits for the end of a stage run of little data.
func (l *lab) staged(ctx context.Context, plan string, number int) (*spec.Run, error) {
	return l.finished(ctx, plan, spec.RunStage, number, cutoverLimit)
}
