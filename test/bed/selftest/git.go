package selftest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// checkGit pushes as both users. The branches it makes are removed again.
func checkGit(ctx context.Context, c Config) error {
	dir, err := os.MkdirTemp("", "bed-selftest-")
	if err != nil {
		return fmt.Errorf("cannot make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	run := func(user, password string, args ...string) error {
		url := strings.Replace(c.GitURL, "://", "://"+user+":"+password+"@", 1)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "URL", url)
		}
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir, "-c", "user.name=selftest", "-c", "user.email=selftest@bed.test"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_SSL_CAINFO="+c.GitCA, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "NO_PROXY=*", "no_proxy=*")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s as %s: %w: %s", args[0], user, err, out)
		}
		return nil
	}
	dev := func(args ...string) error { return run("dev", c.DevPassword, args...) }
	daemon := func(args ...string) error { return run("tranship", c.DaemonPassword, args...) }
	if err := errors.Join(
		dev("clone", "-q", "URL", "."),
		dev("commit", "-q", "--allow-empty", "-m", "Test"),
		dev("push", "-q", "URL", "HEAD:refs/heads/selftest"),
		daemon("push", "-q", "URL", "HEAD:refs/heads/tranship/selftest"),
	); err != nil {
		return err
	}
	if err := daemon("push", "-q", "URL", "HEAD:refs/heads/selftest2"); err == nil {
		return errors.New("the daemon's user may push to any branch")
	}
	if err := run("dev", "wrong", "ls-remote", "URL"); err == nil {
		return errors.New("a wrong password was accepted")
	}
	return errors.Join(
		dev("push", "-q", "URL", ":refs/heads/selftest"),
		daemon("push", "-q", "URL", ":refs/heads/tranship/selftest"),
	)
}
