package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

type accessMode = csi.VolumeCapability_AccessMode_Mode

// attachments says which nodes use a volume. All instances of the driver, of both
// clusters, share it: a volume handed from one cluster to the other is still one
// volume, and two clusters writing to it is what the product must never do.
type attachments map[string]attachment

// attachment is the use of a volume on one node.
type attachment struct {
	Mode    accessMode `json:"mode"`
	Targets []string   `json:"targets,omitempty"`
}

// inUseError says where a volume is in use, so that it cannot be used here.
type inUseError struct{ node, why string }

func (e inUseError) Error() string {
	return fmt.Sprintf("Multi-Attach error: volume is in use on node %s (%s)", e.node, e.why)
}

func singleNode(m accessMode) bool {
	switch m {
	case csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:
		return false
	}
	return true
}

// stage records that node uses the volume, or refuses: a volume of one node, here
// or there, is never used on two.
func (a attachments) stage(node string, mode accessMode) error {
	others := make([]string, 0, len(a))
	for name := range a {
		if name != node {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	for _, other := range others {
		if singleNode(mode) || singleNode(a[other].Mode) {
			return inUseError{other, a[other].Mode.String()}
		}
	}
	here := a[node]
	here.Mode = mode
	a[node] = here
	return nil
}

// publish records that the pod behind target uses the volume. ReadWriteOncePod
// is for one pod; the other modes allow any number on the same node.
func (a attachments) publish(node, target string, mode accessMode) error {
	here, staged := a[node]
	if !staged {
		return errors.New("volume is not staged on this node")
	}
	if slices.Contains(here.Targets, target) {
		return nil
	}
	if mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER && len(here.Targets) > 0 {
		return inUseError{node, "another pod, and the claim is ReadWriteOncePod"}
	}
	here.Targets = append(here.Targets, target)
	a[node] = here
	return nil
}

func (a attachments) unpublish(node, target string) {
	here, ok := a[node]
	if !ok {
		return
	}
	here.Targets = slices.DeleteFunc(here.Targets, func(t string) bool { return t == target })
	a[node] = here
}

// change reads the attachments of a volume, lets do change them, and writes them
// back, under a lock that holds between all instances of the driver. What do
// mounts is mounted under the lock, too.
func (s store) change(volume string, do func(attachments) error) error {
	if !safeID.MatchString(volume) {
		return fmt.Errorf("%q is no volume of this driver: %w", volume, fs.ErrNotExist)
	}
	path := filepath.Join(s.root, "attached", volume+".json")
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the lock of volume %s: %w", volume, err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("cannot lock volume %s: %w", volume, err)
	}
	now, err := readAttachments(path)
	if err != nil {
		return err
	}
	if err := do(now); err != nil {
		return err
	}
	return writeJSON(path, now)
}

func readAttachments(path string) (attachments, error) {
	a := attachments{}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read who uses the volume: %w", err)
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return a, nil
}
