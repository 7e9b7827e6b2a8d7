// Command load is the application whose volume the benchmarks copy, and the
// hook that makes it change the volume.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/tranship/tranship/test/bench/shape"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "serve":
		err = serve(ctx, os.Args[2], os.Args[3])
	case len(os.Args) == 3 && os.Args[1] == "ask":
		err = ask(ctx, os.Args[2])
	default:
		err = errors.New("usage: load serve DIR SHAPE | ask URL")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// serve fills the volume unless it is full, then answers: GET /ready, and POST
// /change?seed=N once the change is on the disk.
func serve(ctx context.Context, dir, text string) error {
	var s shape.Shape
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return fmt.Errorf("cannot read the shape: %w", err)
	}
	if err := s.Fill(dir); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	mux.HandleFunc("POST /change", func(w http.ResponseWriter, r *http.Request) {
		seed, err := strconv.Atoi(r.FormValue("seed"))
		if err == nil {
			err = s.Change(dir, seed)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "changed %d places\n", len(s.Changes(seed)))
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() {
		<-ctx.Done()
		_ = server.Close() // the application stops at once: its own time is not what is measured
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve: %w", err)
	}
	return nil
}

func ask(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("cannot ask for the change: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return fmt.Errorf("cannot read the answer: %w", err)
	}
	fmt.Print(string(answer))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the answer is %s", resp.Status)
	}
	return nil
}
