//go:build unix

package gitsource

import (
	"fmt"
	"os"
	"syscall"
)

// lockFile takes a lock that ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make %s: %w; give the daemon a writable --data-dir", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return nil, fail(ErrHeld, err, "cannot use the data directory: another process holds %s; stop it, or give each daemon a --data-dir of its own", path)
	}
	return f, nil
}
