package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const listen = "127.0.0.1:9441"

// stopLimit is for a daemon that was asked to end.
const stopLimit = 2 * time.Minute

// daemon is `tranship run`, as a process beside this program.
type daemon struct {
	cmd    *exec.Cmd
	log    string
	flags  []string // --config and --secrets-dir, for all commands
	exited chan struct{}
	err    error // how it ended; read after exited
}

// startDaemon writes the configuration and the secrets, and starts the daemon.
func (d *demo) startDaemon(ctx context.Context) error {
	config, secrets := filepath.Join(d.dir, "daemon.yaml"), filepath.Join(d.dir, "secrets")
	text, err := d.fill("daemon.yaml")
	if err != nil {
		return err
	}
	if err := writeFile(config, text, 0o644); err != nil {
		return err
	}
	if err := d.writeSecrets(secrets); err != nil {
		return err
	}
	d.daemon = &daemon{log: filepath.Join(d.dir, "daemon.log"), flags: []string{"--config", config, "--secrets-dir", secrets}, exited: make(chan struct{})}
	out, err := os.Create(d.daemon.log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(d.tranship, append([]string{"run", "--data-dir", filepath.Join(d.dir, "data"), "--listen", listen}, d.daemon.flags...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for this program first
	if err := cmd.Start(); err != nil {
		d.daemon = nil
		return fmt.Errorf("cannot start the daemon: %w", err)
	}
	d.daemon.cmd = cmd
	go func() {
		d.daemon.err = cmd.Wait()
		close(d.daemon.exited)
	}()
	if err := os.WriteFile(d.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return err
	}
	if err := wait(ctx, "the daemon to be ready", patience, 200*time.Millisecond, func(ctx context.Context) (bool, string, error) { return d.daemon.ready(ctx) }); err != nil {
		return err
	}
	d.say("daemon", "runs and has read the plans; its log is %s", d.daemon.log)
	return nil
}

func (d *demo) writeSecrets(dir string) error {
	encryption := rand.Text()
	for name, from := range map[string]string{
		"old/token": d.bed.Source.TokenFile, "new/token": d.bed.Target.TokenFile, "s3/accessKey": d.bed.S3.AccessKeyFile,
		"s3/secretKey": d.bed.S3.SecretKeyFile, "s3/password": "", "git/username": "", "git/password": d.bed.Git.Daemon.PasswordFile,
	} {
		value := encryption
		if name == "git/username" {
			value = d.bed.Git.Daemon.User
		}
		if from != "" {
			raw, err := os.ReadFile(from)
			if err != nil {
				return fmt.Errorf("cannot read a secret of the bed: %w", err)
			}
			value = strings.TrimSpace(string(raw))
		}
		if err := writeFile(filepath.Join(dir, name), value, 0o600); err != nil {
			return fmt.Errorf("cannot write the secrets: %w", err)
		}
	}
	return os.Chmod(dir, 0o700)
}

func (d *daemon) ready(ctx context.Context) (bool, string, error) {
	if err := d.alive(); err != nil {
		return false, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+"/readyz", nil)
	if err != nil {
		return false, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err.Error(), nil
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK, "/readyz says " + resp.Status, nil
}

// alive is an error once the daemon has ended by itself.
func (d *daemon) alive() error {
	select {
	case <-d.exited:
		return fmt.Errorf("the daemon has ended by itself (%v); its log is %s", d.err, d.log)
	default:
		return nil
	}
}

// stop asks the daemon to end, and insists after some time.
func (d *daemon) stop() error {
	if d == nil || d.cmd == nil || d.alive() != nil {
		return nil
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
	select {
	case <-d.exited:
		return nil
	case <-time.After(stopLimit):
		_ = d.cmd.Process.Kill()
		<-d.exited
		return fmt.Errorf("the daemon did not stop within %s of SIGTERM and was killed", stopLimit)
	}
}

func (d *demo) pidFile() string { return filepath.Join(d.dir, "daemon.pid") }

// stopKept stops the daemon that an earlier demonstration left running.
func (d *demo) stopKept(ctx context.Context) error {
	raw, err := os.ReadFile(d.pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(raw))
	if err != nil {
		return fmt.Errorf("%s holds no process number: remove it", d.pidFile())
	}
	isDaemon := func() bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err == nil && strings.Contains(string(line), filepath.Join(d.dir, "daemon.yaml"))
	}
	if !isDaemon() {
		return nil
	}
	_ = syscall.Kill(pid, syscall.SIGTERM) // it may just have ended
	return wait(ctx, "an earlier demonstration's daemon to stop", patience, 200*time.Millisecond, func(context.Context) (bool, string, error) {
		return !isDaemon(), fmt.Sprintf("process %d is alive", pid), nil
	})
}
