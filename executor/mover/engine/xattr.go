package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// xattrs are the extended attributes of an entry: POSIX ACLs and file capabilities are among them.
type xattrs map[string][]byte

func (x xattrs) equal(y xattrs) bool { return maps.EqualFunc(x, y, bytes.Equal) }

// wireAttr is an attribute in JSON, which cannot hold a name that is no UTF-8.
type wireAttr struct {
	Name    string `json:"name,omitempty"`
	RawName []byte `json:"rawName,omitempty"`
	Value   []byte `json:"value,omitempty"`
}

// MarshalJSON writes the attributes in the order of their names: equal attributes are equal bytes.
func (x xattrs) MarshalJSON() ([]byte, error) {
	list := make([]wireAttr, 0, len(x))
	for _, name := range slices.Sorted(maps.Keys(x)) {
		a := wireAttr{Name: name, Value: x[name]}
		if !utf8.ValidString(name) {
			a.Name, a.RawName = "", []byte(name)
		}
		list = append(list, a)
	}
	return json.Marshal(list)
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (x *xattrs) UnmarshalJSON(raw []byte) error {
	var list []wireAttr
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	*x = make(xattrs, len(list))
	for _, a := range list {
		(*x)[a.Name+string(a.RawName)] = a.Value
	}
	return nil
}

// local says that an attribute belongs to the machine or the cluster and not to the data: the
// SELinux label is given by the target's kubelet, IMA and EVM signatures hold for one inode.
func local(name string) bool {
	return name == "security.selinux" || name == "security.ima" || name == "security.evm"
}

// attrTarget is something whose attributes can be read and set: an open file, or a name of a
// directory which must not be opened (a symbolic link).
type attrTarget struct {
	fd   int
	path string
}

func attrsOfFD(fd int) attrTarget { return attrTarget{fd: fd} }

// attrsOfName goes through /proc to the open directory; the name itself is not followed.
func attrsOfName(d *dir, name string) attrTarget {
	return attrTarget{fd: -1, path: procPath(d.fd) + "/" + name}
}

func (t attrTarget) list(buf []byte) (int, error) {
	if t.path != "" {
		return unix.Llistxattr(t.path, buf)
	}
	return unix.Flistxattr(t.fd, buf)
}

func (t attrTarget) get(name string, buf []byte) (int, error) {
	if t.path != "" {
		return unix.Lgetxattr(t.path, name, buf)
	}
	return unix.Fgetxattr(t.fd, name, buf)
}

func (t attrTarget) set(name string, value []byte) error {
	if t.path != "" {
		return unix.Lsetxattr(t.path, name, value, 0)
	}
	return unix.Fsetxattr(t.fd, name, value, 0)
}

func (t attrTarget) remove(name string) error {
	if t.path != "" {
		return unix.Lremovexattr(t.path, name)
	}
	return unix.Fremovexattr(t.fd, name)
}

// read returns the attributes that belong to the data; nil if there are none.
func (t attrTarget) read() (xattrs, error) {
	raw, err := grow(512, t.list)
	if errors.Is(err, unix.ENOTSUP) || len(raw) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var x xattrs
	for name := range strings.SplitSeq(strings.TrimRight(string(raw), "\x00"), "\x00") {
		if local(name) {
			continue
		}
		value, err := grow(256, func(b []byte) (int, error) { return t.get(name, b) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue // removed meanwhile, or listed by the file system but not readable from here
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		if x == nil {
			x = xattrs{}
		}
		x[name] = value
	}
	return x, nil
}

// write makes the attributes equal to want. What the target's file system cannot keep is reported
// through refused, for it is no reason to stop a migration and every reason to say so.
func (t attrTarget) write(want xattrs, refused func(name string, err error)) (changed bool, err error) {
	have, err := t.read()
	if err != nil {
		return false, err
	}
	for name := range have {
		if _, ok := want[name]; ok {
			continue
		}
		if err := t.remove(name); err != nil && !errors.Is(err, unix.ENODATA) {
			refused(name, err)
			continue
		}
		changed = true
	}
	for name, value := range want {
		if old, ok := have[name]; ok && bytes.Equal(old, value) {
			continue
		}
		switch err := t.set(name, value); {
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			return changed, err
		case err != nil:
			refused(name, err)
		default:
			changed = true
		}
	}
	return changed, nil
}

// grow calls fn with a larger buffer until the answer fits.
func grow(size int, fn func([]byte) (int, error)) ([]byte, error) {
	for {
		buf := make([]byte, size)
		n, err := fn(buf)
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return nil, err
		}
		size *= 4
	}
}
