package main

import (
	"fmt"
	"os"
	"sync"

	"github.com/tranship/tranship/test/lab"
)

// gid is the group of the daemon's process, by which its traffic is told from
// everybody else's.
const gid = 54017

// keeper starts and kills the daemon, as a service manager would. It is safe
// for concurrent use.
type keeper struct {
	lab   *lab.Lab
	watch *watch

	mu       sync.Mutex
	takeOver int // daemons that had begun when the journal was emptied, plus one
}

func newKeeper(l *lab.Lab, w *watch) *keeper { return &keeper{lab: l, watch: w} }

// start runs the daemon. One without a journal must be told that nobody else
// has the ledger, until it has been heard to have it itself.
func (k *keeper) start() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var more []string
	if k.takeOver > 0 && k.watch.daemons() < k.takeOver {
		more = append(more, "--take-over")
	}
	return k.lab.Start(gid, more...)
}

// kill ends the daemon; the error says that it had ended by itself.
func (k *keeper) kill() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lab.Kill()
}

// empty loses the journal and the Git cache of a daemon that was killed.
func (k *keeper) empty() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.RemoveAll(k.lab.DataDir()); err != nil {
		return fmt.Errorf("cannot empty the journal: %w", err)
	}
	k.takeOver = k.watch.daemons() + 1
	k.watch.forget()
	return nil
}

// ended says whether the daemon has ended without having been killed.
func (k *keeper) ended() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.lab.Ended(): // nil, and never ready, while it is killed
		return true
	default:
		return false
	}
}
