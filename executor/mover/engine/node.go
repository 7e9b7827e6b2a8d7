package engine

import (
	"os"

	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sys/unix"
)

// kind is the type of an entry.
type kind byte

const (
	kindOther   kind = 0 // devices: reported, not copied
	kindFile    kind = 'f'
	kindDir     kind = 'd'
	kindSymlink kind = 'l'
	kindFIFO    kind = 'p'
	kindSocket  kind = 's'
)

// node is one entry of a snapshot.
type node struct {
	name     string
	kind     kind
	perm     uint32 // the lower twelve bits of st_mode
	uid, gid uint32
	size     int64
	mtime    unix.Timespec
	object   object.ID
	attrs    xattrs
	// ctime and inode are those of the source when it was read; they serve the next upload.
	ctime unix.Timespec
	inode uint64
	// links names the group of paths that are one file; "" for a file with one path.
	links string
}

func kindOf(mode uint32) kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return kindFile
	case unix.S_IFDIR:
		return kindDir
	case unix.S_IFLNK:
		return kindSymlink
	case unix.S_IFIFO:
		return kindFIFO
	case unix.S_IFSOCK:
		return kindSocket
	}
	return kindOther
}

// nodeOf describes what lstat saw.
func nodeOf(name string, st *unix.Stat_t) *node {
	n := &node{
		name: name, kind: kindOf(st.Mode), perm: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid,
		mtime: st.Mtim, ctime: st.Ctim, inode: st.Ino,
	}
	if n.kind == kindFile || n.kind == kindSymlink {
		n.size = st.Size
	}
	return n
}

// goMode converts permission bits to the form that kopia stores.
func goMode(perm uint32) os.FileMode {
	m := os.FileMode(perm & 0o777)
	for bit, flag := range modeBits() {
		if perm&bit != 0 {
			m |= flag
		}
	}
	return m
}

// unixPerm is the inverse of goMode.
func unixPerm(m os.FileMode) uint32 {
	perm := uint32(m & 0o777)
	for bit, flag := range modeBits() {
		if m&flag != 0 {
			perm |= bit
		}
	}
	return perm
}

func modeBits() map[uint32]os.FileMode {
	return map[uint32]os.FileMode{
		unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky,
	}
}

// roundedTo says whether have is want as a file system with coarser times keeps it.
func roundedTo(have, want unix.Timespec) bool {
	if have == want {
		return true
	}
	for _, unit := range []int64{100, 1000, 1e6, 1e9} {
		if have.Sec == want.Sec && have.Nsec == want.Nsec-want.Nsec%unit {
			return true
		}
	}
	return false
}
