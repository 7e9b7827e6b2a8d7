//go:build !unix

package gitsource

import (
	"fmt"
	"os"
)

// lockFile only makes the file: the daemon runs on Unix, and the command
// line's readers use a directory of their own.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make %s: %w; use a writable directory", path, err)
	}
	return f, nil
}
