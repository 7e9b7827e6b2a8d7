// Gitside is what `make bench-git` starts beside itself: a Git server, and the
// product's own client of it, which links nothing else.
package main

import (
	"context"
	"fmt"
	"os"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gitside:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) > 0 && args[0] == "serve":
		return runServer(args[1:])
	case len(args) > 0 && args[0] == "work":
		return runWorker(ctx, args[1:])
	}
	return fmt.Errorf("say serve or work")
}
