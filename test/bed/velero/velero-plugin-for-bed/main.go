// Command velero-plugin-for-bed gives the bed's Velero what a cloud's plugin
// gives it: snapshots that the provider of the volumes takes itself. The cloud is
// the folder of the bed's CSI driver, which both clusters see.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"github.com/vmware-tanzu/velero/pkg/plugin/framework"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	pluginName = "bed.tranship.dev/folders"
	driverName = "csi.bed.tranship.dev"
	// store is where Velero's pod sees the driver's folder.
	store = "/bed-storage"
	// pendingKey of a location says for how long after it was taken a snapshot
	// cannot be used yet, as a cloud uploads it in the background.
	pendingKey = "pendingFor"
)

func main() {
	framework.NewServer().BindFlags(pflag.CommandLine).
		RegisterVolumeSnapshotter(pluginName, func(log logrus.FieldLogger) (any, error) { return &folders{log: log}, nil }).
		Serve()
}

// record is the driver's own of a volume or a snapshot; what the one has and the
// other has not is left out.
type record struct {
	ID      string     `json:"id"`
	Source  string     `json:"source,omitempty"`
	Kind    string     `json:"kind"`
	Size    int64      `json:"size"`
	Created *time.Time `json:"created,omitempty"`
}

// folders implements Velero's VolumeSnapshotter.
type folders struct {
	log     logrus.FieldLogger
	pending time.Duration
}

func (f *folders) Init(config map[string]string) error {
	if err := framework.ValidateVolumeSnapshotterConfigKeys(config, pendingKey); err != nil {
		return err
	}
	var err error
	if text := config[pendingKey]; text != "" {
		f.pending, err = time.ParseDuration(text)
	}
	return err
}

func (f *folders) GetVolumeID(pv runtime.Unstructured) (string, error) {
	driver, _, _ := unstructured.NestedString(pv.UnstructuredContent(), "spec", "csi", "driver")
	if driver != driverName {
		return "", nil
	}
	id, _, err := unstructured.NestedString(pv.UnstructuredContent(), "spec", "csi", "volumeHandle")
	return id, err
}

func (f *folders) SetVolumeID(pv runtime.Unstructured, id string) (runtime.Unstructured, error) {
	o := &unstructured.Unstructured{Object: pv.UnstructuredContent()}
	return o, unstructured.SetNestedField(o.Object, id, "spec", "csi", "volumeHandle")
}

func (f *folders) GetVolumeInfo(id, _ string) (string, *int64, error) {
	r, err := read("volumes", id)
	return r.Kind, nil, err
}

func (f *folders) CreateSnapshot(id, _ string, tags map[string]string) (string, error) {
	from, err := read("volumes", id)
	if err != nil {
		return "", err
	}
	name, err := newID("snap")
	if err != nil {
		return "", err
	}
	now := time.Now().UTC()
	f.log.WithField("tags", tags).Infof("snapshot %s of volume %s", name, id)
	return name, write("volumes/"+id, "snapshots", record{ID: name, Source: id, Kind: from.Kind, Size: from.Size, Created: &now})
}

func (f *folders) CreateVolumeFromSnapshot(id, _, _ string, _ *int64) (string, error) {
	from, err := read("snapshots", id)
	if err != nil {
		return "", err
	}
	if from.Created != nil && time.Since(*from.Created) < f.pending {
		return "", errors.New("IncorrectState: Snapshot is in invalid state - pending")
	}
	name, err := newID("vol")
	if err != nil {
		return "", err
	}
	return name, write("snapshots/"+id, "volumes", record{ID: name, Kind: from.Kind, Size: from.Size})
}

func (f *folders) DeleteSnapshot(id string) error {
	if !safeID.MatchString(id) {
		return fmt.Errorf("%q is no snapshot of this plugin", id)
	}
	return os.RemoveAll(filepath.Join(store, "snapshots", id))
}

var safeID = regexp.MustCompile(`^(vol|snap)-[0-9a-f]{16}$`)

func newID(prefix string) (string, error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", fmt.Errorf("cannot make a name: %w", err)
	}
	return prefix + "-" + hex.EncodeToString(random[:]), nil
}

func read(folder, id string) (record, error) {
	var r record
	if !safeID.MatchString(id) {
		return r, fmt.Errorf("%q is not of this plugin: %w", id, fs.ErrNotExist)
	}
	raw, err := os.ReadFile(filepath.Join(store, folder, id, "meta.json"))
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return r, fmt.Errorf("cannot read the record of %s: %w", id, err)
	}
	return r, nil
}

// linkTimes gives copied symlinks their times, which busybox does not; a snapshot
// of a disk has them.
func linkTimes(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type() != fs.ModeSymlink {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, to+path[len(from):], []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// write copies the bytes, and then says that they are there.
func write(from, folder string, r record) error {
	bytes := "disk.img"
	if r.Kind == "dir" {
		bytes = "data"
	}
	dir := filepath.Join(store, folder, r.ID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make %s: %w", r.ID, err)
	}
	if out, err := exec.Command("/bin/busybox", "cp", "-a", filepath.Join(store, from, bytes), dir+"/").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot copy %s: %w: %s", r.ID, err, out)
	}
	if err := linkTimes(filepath.Join(store, from, bytes), filepath.Join(dir, bytes)); err != nil {
		return fmt.Errorf("cannot copy %s: %w", r.ID, err)
	}
	raw, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "meta.json"), raw, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot record %s: %w", r.ID, err)
	}
	return nil
}
