// Command bed boots two real Kubernetes clusters side by side on this machine, with
// storage, Velero, an object store and a Git server, for tests and demonstrations.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tranship/tranship/test/bed/gitserver"
	"github.com/tranship/tranship/test/bed/machine"
)

const usage = `usage: bed COMMAND [flags]

  up                 boot both clusters; the first time builds all programs
  down               remove everything but the cache of built programs
  status             tell what runs and how much memory it uses
  load TAR...        import images into all nodes
  image              make an image: --out TAR --ref REF [--root DIR] [PATH=FILE | PATH=->TARGET]...
  exec NODE CMD...   run a command inside a node's machine
  selftest           prove that the bed does what its README says

Every command takes --dir DIR, the folder of the running bed (default ` + defaultDir + `).
`

const defaultDir = "/var/lib/tranship-bed"

// errUsage says that the command line is wrong, and that the usage was printed.
var errUsage = errors.New("cannot understand the command line")

var commands = map[string]func(ctx context.Context, args []string) error{
	"up": up, "down": down, "status": status, "load": load, "image": makeImage, "exec": execCommand, "selftest": runSelftest,
	// For the bed itself.
	"machine":   func(_ context.Context, args []string) error { return machine.Init(args[0]) },
	"serve-git": func(_ context.Context, args []string) error { return gitserver.Serve(args[0]) },
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ctx := context.Background()
	if name := os.Args[1]; name != "machine" && name != "serve-git" {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
	}
	err := commands[os.Args[1]](ctx, os.Args[2:])
	var exit *exitError
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, &exit):
		os.Exit(exit.code)
	default:
		fmt.Fprintln(os.Stderr, "bed:", err)
		if errors.Is(err, errUsage) {
			fmt.Fprint(os.Stderr, usage)
		}
		os.Exit(1)
	}
}

// exitError passes on how another program ended.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func flags(name string) (set *flag.FlagSet, dir *string) {
	set = flag.NewFlagSet("bed "+name, flag.ContinueOnError)
	return set, set.String("dir", defaultDir, "folder of the running bed")
}
