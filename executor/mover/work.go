package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tranship/tranship/executor/mover/engine"
	"golang.org/x/sys/unix"
)

// Assignment is the request file of a mover Job. It holds no credentials.
type Assignment struct {
	// Mounts are directories that must be mount points before anything starts:
	// a reader is started together with the holder whose volumes it reads, and
	// an empty directory must never be taken for an empty volume.
	Mounts []string `json:"mounts,omitempty"`
	// StandBy makes the mover wait for an order with the volumes; the request
	// says which repository to open meanwhile.
	StandBy bool           `json:"standBy,omitempty"`
	Request engine.Request `json:"request"`
}

// Report is the answer of a mover Job: the engine's result, or word that it
// was too long for the termination message and is the last line of the log.
type Report struct {
	Done  bool `json:"done"` // always; in front, so that the line is known by its beginning
	InLog bool `json:"inLog,omitempty"`
	engine.Result
}

// terminationMessage is where Kubernetes reads a container's last words, up to
// messageLimit bytes.
const (
	reportLine         = `{"done":true`
	terminationMessage = "/dev/termination-log"
	messageLimit       = 4096
	mountPatience      = 90 * time.Second
)

// reasonNotMounted is given when a volume does not appear in its holder's directory.
const reasonNotMounted engine.Reason = "NotMounted"

// Hold keeps a pod, and with it its mounts, alive until it is told to end.
// It is `tranship mover hold`.
func Hold(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	<-ctx.Done()
	return nil
}

// Work is `tranship mover run --request FILE`: it waits for the mounts, does
// the request and reports to out and to the termination message. An error
// means that the container must end with a failure; the report says the same.
func Work(ctx context.Context, file string, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	slog.SetDefault(slog.New(slog.NewJSONHandler(out, nil)))
	res, err := work(ctx, file)
	full, short := messages(res)
	if _, werr := fmt.Fprintf(out, "%s\n", full); werr != nil {
		err = errors.Join(err, fmt.Errorf("cannot write the result: %w", werr))
	}
	if werr := os.WriteFile(terminationMessage, short, 0o644); werr != nil {
		err = errors.Join(err, fmt.Errorf("cannot write the termination message: %w", werr))
	}
	return err
}

func work(ctx context.Context, file string) (engine.Result, error) {
	failed := func(r engine.Reason, err error) (engine.Result, error) {
		return engine.Result{Reason: r, Error: err.Error()}, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return failed(engine.ReasonBadRequest, fmt.Errorf("cannot read the request: %w", err))
	}
	var a Assignment
	if err := json.Unmarshal(raw, &a); err != nil {
		return failed(engine.ReasonBadRequest, fmt.Errorf("cannot parse the request %s: %w", file, err))
	}
	for _, path := range a.Mounts {
		if err := awaitMount(ctx, path, mountPatience); err != nil {
			return failed(reasonNotMounted, err)
		}
	}
	if a.StandBy {
		return standBy(ctx, a)
	}
	return engine.Run(ctx, a.Request)
}

// awaitMount polls because a mount that is propagated into a container makes
// no event that the container could wait for.
func awaitMount(ctx context.Context, path string, patience time.Duration) error {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for {
		mounted, err := isMount(path)
		if err != nil || mounted {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not mounted after %s: look at the events of the holder pod in the application's namespace", path, patience)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// isMount asks the kernel: a bind mount of the same file system cannot be told
// by its device number.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, fmt.Errorf("cannot tell whether %s is mounted: the node's kernel is older than 5.8", path)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// messages are the report in full and as it fits the termination message.
func messages(res engine.Result) (full, short []byte) {
	full = encode(Report{Done: true, Result: res})
	if len(full) <= messageLimit {
		return full, full
	}
	brief := Report{Done: true, InLog: true, Result: engine.Result{Reason: res.Reason, Error: cut(res.Error, messageLimit/4)}}
	return full, encode(brief)
}

func encode(r Report) []byte {
	raw, err := json.Marshal(r)
	if err != nil { // a struct of strings and numbers
		return []byte(`{"done":true,"error":"cannot encode the result"}`)
	}
	return raw
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
