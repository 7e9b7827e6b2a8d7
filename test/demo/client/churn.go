package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"time"
)

// churn changes the volume every few seconds in the ways that copying programs
// get wrong: a byte in the middle with the time put back, only the mode, only
// the target of a link, another type under the same name, a removed file.
func churn(ctx context.Context, data string) {
	dir := filepath.Join(data, "churn")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		log.Print("cannot churn: ", err)
		return
	}
	for n := 0; ; n++ {
		for _, change := range []func(string, int) error{flipByte, flipMode, turnLink, swapType, replaceFile} {
			if err := change(dir, n); err != nil {
				log.Print("cannot churn: ", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(3 * time.Second):
		}
	}
}

// flipByte writes one byte into a large file, and puts its time back.
func flipByte(dir string, n int) error {
	path := filepath.Join(dir, "large.bin")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.WriteFile(path, make([]byte, 4<<20), 0o640)
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{byte(n)}, int64(n)*7919%info.Size())
	return errors.Join(err, f.Close(), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

func flipMode(dir string, n int) error {
	path := filepath.Join(dir, "mode")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Chmod(path, fs.FileMode(0o600|n%8)))
}

func turnLink(dir string, n int) error {
	path := filepath.Join(dir, "newest")
	_ = os.Remove(path) // is not there the first time
	return os.Symlink(fmt.Sprintf("file-%d", n), path)
}

func swapType(dir string, n int) error {
	path := filepath.Join(dir, "sometimes-a-folder")
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if n%2 == 0 {
		return os.MkdirAll(filepath.Join(path, "inside"), 0o710)
	}
	return os.WriteFile(path, fmt.Appendf(nil, "%d\n", n), 0o604)
}

func replaceFile(dir string, n int) error {
	_ = os.Remove(filepath.Join(dir, fmt.Sprintf("file-%d", n-5))) // the first ones never were
	return os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d", n)), fmt.Appendf(nil, "round %d\n", n), 0o640)
}
