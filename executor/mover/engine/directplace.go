package engine

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// existing opens the file at rel for reading; nil if there is none, or one with several paths, which
// place would not keep, and linked does not allow that.
func (a *arrivals) existing(rel string, linked bool) (*os.File, error) {
	parent, err := a.root.walk(path.Dir("/" + rel))
	if err != nil {
		return nil, nil // place will find out what is wrong with it
	}
	defer parent.close()
	fd, err := parent.openRead(path.Base(rel), unix.O_NONBLOCK)
	if err != nil {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || kindOf(st.Mode) != kindFile || (st.Nlink > 1 && !linked) {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// place opens the file at rel for writing and makes it, and the directories above it, if need be. st is
// what it was before; nil says that it is new.
func (a *arrivals) place(rel string) (f *os.File, st *unix.Stat_t, err error) {
	parent, name, err := a.parent(rel)
	if err != nil {
		return nil, nil, err
	}
	defer parent.close()
	fd, err := parent.open(name, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err == nil {
		st = &unix.Stat_t{}
		if err = unix.Fstat(fd, st); err == nil && kindOf(st.Mode) == kindFile && st.Nlink == 1 {
			return os.NewFile(uintptr(fd), rel), st, nil
		}
		_ = unix.Close(fd)
	}
	a.shape.Lock()
	defer a.shape.Unlock()
	// Something else, or the inode of another path too: it makes room for a file of its own.
	if err := parent.removeAll(name, func() {}); err != nil {
		return nil, nil, targetFailed(err, "replace", rel)
	}
	if fd, err = parent.open(name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600); err != nil {
		return nil, nil, targetFailed(err, "create file", rel)
	}
	return os.NewFile(uintptr(fd), rel), nil, nil
}

// parent opens the directory of rel and makes what is missing of it.
func (a *arrivals) parent(rel string) (*dir, string, error) {
	at, err := a.root.walk("")
	if err != nil {
		return nil, "", targetFailed(err, "open", ".")
	}
	for {
		name, rest, more := strings.Cut(rel, "/")
		if !more {
			return at, name, nil
		}
		next, err := at.openDir(name)
		if err != nil {
			next, err = a.makeDir(at, name)
		}
		at.close()
		if err != nil {
			return nil, "", targetFailed(err, "make the directory of", rel)
		}
		at, rel = next, rest
	}
}

func (a *arrivals) makeDir(at *dir, name string) (*dir, error) {
	a.shape.Lock()
	defer a.shape.Unlock()
	next, err := at.openDir(name)
	switch {
	case err == nil: // another file's line was here before
		return next, nil
	case errors.Is(err, unix.ENOENT):
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		if err := at.removeAll(name, func() {}); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if err := unix.Mkdirat(at.fd, name, 0o700); err != nil {
		return nil, err
	}
	return at.openDir(name)
}
