package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"

	"github.com/tranship/tranship/test/bench/estate"
)

type gitServer struct {
	URL string
	cmd *exec.Cmd
}

// startServer serves the bare repositories below root until the context ends.
func startServer(ctx context.Context, program, root string) (*gitServer, error) {
	cmd := exec.CommandContext(ctx, program, "serve", root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot listen to the Git server: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the Git server: %w", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the Git server did not say where it listens: %w", err)
	}
	return &gitServer{URL: strings.TrimSpace(line), cmd: cmd}, nil
}

func (s *gitServer) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// sent is how many bytes of answers the server has sent, heads included.
func (s *gitServer) sent() (n int64, err error) {
	res, err := http.Get(s.URL + "/_sent")
	if err != nil {
		return 0, fmt.Errorf("cannot ask the Git server what it sent: %w", err)
	}
	defer res.Body.Close()
	_, err = fmt.Fscan(res.Body, &n)
	return n, err
}

// gitWorker is the worker as its parent sees it.
type gitWorker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startWorker starts a worker for the repository at url, with a data folder of its own.
func startWorker(ctx context.Context, program, url, data string) (*gitWorker, error) {
	cmd := exec.CommandContext(ctx, program, "work", url, data)
	cmd.Stderr = os.Stderr
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		return nil, fmt.Errorf("cannot talk to the worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the worker: %w", err)
	}
	return &gitWorker{cmd: cmd, in: in, out: bufio.NewReader(out)}, nil
}

func (w *gitWorker) do(o estate.Order) (a estate.Answer, err error) {
	line, err := json.Marshal(o)
	if err != nil {
		return a, fmt.Errorf("cannot encode an order: %w", err)
	}
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return a, fmt.Errorf("the worker is gone: %w", err)
	}
	said, err := w.out.ReadBytes('\n')
	if err != nil {
		return a, fmt.Errorf("the worker said nothing: %w", err)
	}
	if err := json.Unmarshal(said, &a); err != nil {
		return a, fmt.Errorf("the worker said %q: %w", said, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("the worker could not %s: %s", o.Do, a.Error)
	}
	return a, nil
}

func (w *gitWorker) stop() {
	_ = w.in.Close()
	_ = w.cmd.Wait()
}
