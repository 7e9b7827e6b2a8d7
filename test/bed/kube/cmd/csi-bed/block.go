package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

// A raw volume is an image without a file system. The node that uses it has it
// as a loop device from stage to unstage, and each pod gets a bind mount of that
// device's node. The kubelet itself keeps a loop device on each of them.

func wantsBlock(caps []*csi.VolumeCapability) bool {
	for _, c := range caps {
		if c.GetBlock() != nil {
			return true
		}
	}
	return false
}

// attachLoop returns the loop device of the image, and makes it if there is none.
func attachLoop(image string) (string, error) {
	out, err := exec.Command("losetup", "--find", "--show", "--nooverlap", image).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("losetup: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// detachLoop frees every loop device of the image. One that is still open goes
// when it is closed.
func detachLoop(image string) error {
	out, err := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", image).Output()
	if err != nil {
		return fmt.Errorf("cannot list the loop devices of %s: %w", image, err)
	}
	var errs []error
	for _, device := range strings.Fields(string(out)) {
		errs = append(errs, command("losetup", "--detach", device))
	}
	return errors.Join(errs...)
}

// publishDevice shows the image's device at to.
func publishDevice(image, to string) error {
	device, err := attachLoop(image)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return fmt.Errorf("cannot make the mount point: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	if mounted, err := isMount(to); err != nil || mounted {
		return err
	}
	if err := unix.Mount(device, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount %s: %w", device, err)
	}
	return nil
}
