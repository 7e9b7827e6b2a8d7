// Command client is what runs in the demonstration's containers: the web
// application, the program that fills its volume, and the hook.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "web":
		err = web(ctx)
	case len(os.Args) == 3 && os.Args[1] == "seed":
		err = seed(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "ask":
		err = ask(ctx, os.Args[2])
	default:
		err = fmt.Errorf("usage: client web | seed DIR | ask URL")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

// ask is the hook: it posts to the demonstration, which compares the volumes
// before it answers. Any answer but 200 fails the hook, and with it the cutover;
// without one it asks again, for a new pod's network may need a moment.
func ask(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		answer, status, err := post(ctx, url)
		switch {
		case err == nil && status == http.StatusOK:
			fmt.Print(answer)
			return nil
		case err == nil:
			return fmt.Errorf("the answer is %d: %s", status, answer)
		}
		fmt.Fprintln(os.Stderr, "client: cannot ask whether the volumes are equal:", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func post(ctx context.Context, url string) (answer string, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(text), resp.StatusCode, err
}
