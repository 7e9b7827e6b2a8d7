package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mode says what a volume is; the words are those of a claim's volumeMode.
type Mode string

// The modes of a volume. The zero value is a file system.
const (
	ModeFilesystem Mode = ""
	ModeBlock      Mode = "Block"
)

// device is an open block device. It is read and written past the page cache: a
// copy must not push out what the node's applications have there, and what another
// path or another node wrote is on the device and perhaps not in this node's cache.
// What is still dirty in this node's cache is written back by the kernel before a
// direct read returns.
type device struct {
	f    *os.File
	size int64 // in bytes
}

// directAlign suits every device: none has larger blocks than a page.
const directAlign = 4096

// openDevice opens a block device; flags say for what. A device that cannot do
// without the page cache is opened with it.
func openDevice(path string, flags int) (*device, error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	fd, err := retryInterrupted(func() (int, error) { return unix.Open(path, flags|unix.O_DIRECT, 0) })
	if errors.Is(err, unix.EINVAL) {
		fd, err = retryInterrupted(func() (int, error) { return unix.Open(path, flags, 0) })
	}
	if err != nil {
		return nil, err
	}
	d := &device{f: os.NewFile(uintptr(fd), path)}
	if err := d.measure(fd); err != nil {
		d.f.Close()
		return nil, err
	}
	return d, nil
}

func (d *device) measure(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fmt.Errorf("it is no block device")
	}
	var err error
	if d.size, err = unix.Seek(fd, 0, io.SeekEnd); err == nil && d.size == 0 {
		err = fmt.Errorf("the device has no size")
	}
	return err
}

func (d *device) close() { d.f.Close() }

// zero makes a part of the device read as zeros. Where the device can, it forgets
// the part, so that a thin volume stays thin; elsewhere zeros are written.
func (d *device) zero(at, length int64) error {
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE // on a device: zeroed, or an error
	if unix.Fallocate(int(d.f.Fd()), mode, at, length) == nil {
		return nil
	}
	zeros := alignedBuffer(min(length, readBuffer))
	for end := at + length; at < end; {
		n, err := d.f.WriteAt(zeros[:min(int64(len(zeros)), end-at)], at)
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// alignedBuffer is memory that a device can be read into directly.
func alignedBuffer(size int64) []byte {
	b := make([]byte, size+directAlign)
	skip := (directAlign - int(uintptr(unsafe.Pointer(&b[0]))%directAlign)) % directAlign
	return b[skip : skip+int(size)]
}
