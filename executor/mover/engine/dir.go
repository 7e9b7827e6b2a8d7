package engine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dir is an open directory. Every path operation of the engine is one name under one of these, so
// that a rename or a symbolic link elsewhere in the tree cannot lead it astray.
type dir struct{ fd int }

// openRoot opens the directory where a volume is visible.
func openRoot(path string) (*dir, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW
	fd, err := retryInterrupted(func() (int, error) { return unix.Open(path, flags|unix.O_NOATIME, 0) })
	if errors.Is(err, unix.EPERM) {
		fd, err = retryInterrupted(func() (int, error) { return unix.Open(path, flags, 0) })
	}
	if err != nil {
		return nil, err
	}
	return &dir{fd: fd}, nil
}

func (d *dir) close() { _ = unix.Close(d.fd) }

// open opens one name beneath d and never follows a symbolic link. A kernel without openat2 (before
// 5.6) gets openat with O_NOFOLLOW, which is as safe for the single component that name is.
func (d *dir) open(name string, flags int, mode uint32) (int, error) {
	if !plainName(name) {
		return -1, unix.EINVAL
	}
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := retryInterrupted(func() (int, error) { return unix.Openat2(d.fd, name, &how) })
	if errors.Is(err, unix.ENOSYS) {
		return retryInterrupted(func() (int, error) { return unix.Openat(d.fd, name, flags, mode) })
	}
	return fd, err
}

// openRead opens a name for reading without moving its access time where that is allowed.
func (d *dir) openRead(name string, flags int) (int, error) {
	fd, err := d.open(name, unix.O_RDONLY|unix.O_NOATIME|flags, 0)
	if errors.Is(err, unix.EPERM) {
		return d.open(name, unix.O_RDONLY|flags, 0)
	}
	return fd, err
}

// openDir opens a directory beneath d.
func (d *dir) openDir(name string) (*dir, error) {
	fd, err := d.openRead(name, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &dir{fd: fd}, nil
}

// walk opens the directory at rel, a path of names separated by slashes, one component at a time:
// a path may be longer than the kernel takes in one call.
func (d *dir) walk(rel string) (*dir, error) {
	fd, err := unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	at := &dir{fd: fd}
	for name := range strings.SplitSeq(rel, "/") {
		if name == "" {
			continue
		}
		next, err := at.openDir(name)
		at.close()
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// stat looks at a name without following it.
func (d *dir) stat(name string) (*unix.Stat_t, error) {
	st := &unix.Stat_t{}
	return st, unix.Fstatat(d.fd, name, st, unix.AT_SYMLINK_NOFOLLOW)
}

// chmod changes the mode of an entry that is no symbolic link and cannot be opened.
func (d *dir) chmod(name string, perm uint32) error {
	fd, err := d.open(name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(procPath(fd), perm)
}

// names lists the directory.
func (d *dir) names() ([]string, error) {
	if _, err := unix.Seek(d.fd, 0, 0); err != nil {
		return nil, err
	}
	var names []string
	buf := make([]byte, 64<<10)
	for {
		n, err := retryInterrupted(func() (int, error) { return unix.ReadDirent(d.fd, buf) })
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// readlink reads the target of a symbolic link.
func (d *dir) readlink(name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(d.fd, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

const tempPrefix = ".tranship-"

// temp runs make with fresh names until one does not exist yet, and returns that name. A name left
// behind by a killed run is in no snapshot: the next restore removes it.
func (d *dir) temp(make func(name string) error) (string, error) {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:])
		name := tempPrefix + hex.EncodeToString(b[:])
		if err := make(name); !errors.Is(err, unix.EEXIST) {
			return name, err
		}
	}
}

// replace puts the entry temp in the place of name, and removes temp if that fails.
func (d *dir) replace(temp, name string) error {
	err := unix.Renameat(d.fd, temp, d.fd, name)
	if err != nil {
		_ = unix.Unlinkat(d.fd, temp, 0)
	}
	return err
}

// removeAll removes a name and everything below it, counting every entry.
func (d *dir) removeAll(name string, count func()) error {
	st, err := d.stat(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	flags := 0
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
		if err := d.empty(name, count); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(d.fd, name, flags); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	count()
	return nil
}

func (d *dir) empty(name string, count func()) error {
	sub, err := d.openDir(name)
	if err != nil {
		return err
	}
	defer sub.close()
	names, err := sub.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := sub.removeAll(n, count); err != nil {
			return err
		}
	}
	return nil
}

// plainName says whether a name is one component of a path. Names come from a repository, too.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

func retryInterrupted(fn func() (int, error)) (int, error) {
	for {
		n, err := fn()
		// EAGAIN is openat2's answer to a rename that raced with the resolution.
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
	}
}

// procPath is a path to what an open descriptor refers to.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
