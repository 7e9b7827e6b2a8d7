package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// The kinds of volumes. A folder has no size limit of its own; an ext4 image has
// exactly the size that the claim asked for, for tests of full volumes; a raw
// image is what a claim with volumeMode Block gets in the place of an ext4 one.
const (
	kindDir  = "dir"
	kindExt4 = "ext4"
	kindRaw  = "raw"
)

// store keeps volumes and snapshots in a folder which all machines of the bed see.
type store struct{ root string }

// volume is the record of a volume, beside its data.
type volume struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
	Node string `json:"node,omitempty"` // the only node that may use it; empty: any
	Size int64  `json:"size"`
}

// snapshot is the record of a snapshot, beside its data.
type snapshot struct {
	ID      string    `json:"id"`
	Source  string    `json:"source"`
	Kind    string    `json:"kind"`
	Size    int64     `json:"size"` // of the volume: what a restored claim needs at least
	Created time.Time `json:"created"`
}

var safeID = regexp.MustCompile(`^(vol|snap)-[0-9a-f]{16}$`)

func openStore(root string) (store, error) {
	for _, sub := range []string{"volumes", "snapshots", "attached"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return store{}, fmt.Errorf("cannot make the store: %w", err)
		}
	}
	return store{root}, nil
}

// idFor derives a handle from the name that Kubernetes gives, so that a repeated
// call finds what the first one made.
func idFor(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + "-" + hex.EncodeToString(sum[:8])
}

func (s store) volumeDir(id string) string   { return filepath.Join(s.root, "volumes", id) }
func (s store) snapshotDir(id string) string { return filepath.Join(s.root, "snapshots", id) }

// data is where the bytes are: a folder or an image.
func data(dir, kind string) string {
	if kind == kindDir {
		return filepath.Join(dir, "data")
	}
	return filepath.Join(dir, "disk.img")
}

func (s store) volume(id string) (volume, error) {
	var v volume
	if !safeID.MatchString(id) {
		return v, fmt.Errorf("%q is no volume of this driver: %w", id, fs.ErrNotExist)
	}
	return v, readJSON(filepath.Join(s.volumeDir(id), "meta.json"), &v)
}

func (s store) snapshot(id string) (snapshot, error) {
	var n snapshot
	if !safeID.MatchString(id) {
		return n, fmt.Errorf("%q is no snapshot of this driver: %w", id, fs.ErrNotExist)
	}
	return n, readJSON(filepath.Join(s.snapshotDir(id), "meta.json"), &n)
}

// createVolume makes the volume, filled from the folder of a volume or snapshot
// if from is given. It is complete as soon as its record exists.
func (s store) createVolume(v volume, from string) error {
	dir := s.volumeDir(v.ID)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot clear an unfinished volume: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the volume: %w", err)
	}
	target := data(dir, v.Kind)
	var err error
	switch {
	case from != "":
		err = copyData(data(from, v.Kind), target)
	case v.Kind == kindDir:
		err = os.Mkdir(target, 0o777)
	}
	if err == nil && v.Kind == kindExt4 {
		err = formatImage(target, v.Size, from == "")
	}
	if err == nil && v.Kind == kindRaw {
		err = sizeImage(target, v.Size)
	}
	if err == nil && v.Kind == kindDir && from == "" {
		err = os.Chmod(target, 0o777) // Mkdir's mode goes through the umask
	}
	if err != nil {
		return fmt.Errorf("cannot make volume %s: %w", v.ID, err)
	}
	return writeJSON(filepath.Join(dir, "meta.json"), v)
}

// createSnapshot copies a volume as it is now: like a snapshot of a disk, it is
// what a power cut would have left, and a journaling file system mounts that.
func (s store) createSnapshot(n snapshot) error {
	dir := s.snapshotDir(n.ID)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot clear an unfinished snapshot: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the snapshot: %w", err)
	}
	if n.Kind != kindDir {
		syscall.Sync() // what the loop device has not written yet is not in the image
	}
	if err := copyData(data(s.volumeDir(n.Source), n.Kind), data(dir, n.Kind)); err != nil {
		return fmt.Errorf("cannot make snapshot %s: %w", n.ID, err)
	}
	return writeJSON(filepath.Join(dir, "meta.json"), n)
}

func copyData(from, to string) error {
	return command("cp", "-a", "--reflink=auto", "--sparse=always", from, to)
}

// formatImage gives the image its size: a new file system, or a copied one grown.
func formatImage(path string, size int64, fresh bool) error {
	if err := sizeImage(path, size); err != nil {
		return err
	}
	if fresh {
		// No reserved blocks: a full volume is full for root, too.
		return command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", path)
	}
	var exit *exec.ExitError
	if err := command("e2fsck", "-f", "-y", path); err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) {
		return err // exit code 1 says that errors were corrected: the journal of a copied disk
	}
	return command("resize2fs", path, strconv.FormatInt(size/1024, 10)+"K")
}

// sizeImage makes the image if there is none, and gives it its size.
func sizeImage(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

func readJSON(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces path at once: a reader sees the old or the new record.
func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	if err := os.WriteFile(path+".new", raw, 0o644); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
