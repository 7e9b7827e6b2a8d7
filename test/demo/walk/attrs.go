package walk

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"unsafe"
)

// attributes are the extended attributes of a path, which is not followed if it
// is a link. The SELinux label is left out: each node gives its own.
func attributes(path string) (string, error) {
	raw, err := grow(func(buf []byte) (int, error) { return xattrCall(syscall.SYS_LLISTXATTR, path, nil, buf) })
	if errors.Is(err, syscall.ENOTSUP) || len(raw) == 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot list the attributes of %q: %w", path, err)
	}
	names := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
	slices.Sort(names)
	var out strings.Builder
	for _, name := range names {
		if name == "security.selinux" {
			continue
		}
		n, err := syscall.BytePtrFromString(name)
		if err != nil {
			return "", err
		}
		value, err := grow(func(buf []byte) (int, error) { return xattrCall(syscall.SYS_LGETXATTR, path, n, buf) })
		if err != nil {
			return "", fmt.Errorf("cannot read attribute %s of %q: %w", name, path, err)
		}
		fmt.Fprintf(&out, "%q=%q ", name, value)
	}
	return out.String(), nil
}

// grow calls with larger buffers until what is there fits.
func grow(call func([]byte) (int, error)) ([]byte, error) {
	for size := 512; ; size *= 4 {
		buf := make([]byte, size)
		n, err := call(buf)
		if errors.Is(err, syscall.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// xattrCall is llistxattr or, with a name, lgetxattr: the syscall package has
// only the calls that follow links.
func xattrCall(number uintptr, path string, name *byte, buf []byte) (int, error) {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	var n uintptr
	var errno syscall.Errno
	if name == nil {
		n, _, errno = syscall.Syscall(number, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	} else {
		n, _, errno = syscall.Syscall6(number, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
