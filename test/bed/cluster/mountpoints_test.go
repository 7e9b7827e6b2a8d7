package cluster

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A folder that another bed has a mount on must stay: removing it would take the
// mount away there.
func TestMountPointsOfAnotherBedStay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, as the bed does")
	}
	folder := filepath.Join(t.TempDir(), "kubelet")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	was := bound
	bound = map[string]string{"kubelet": folder}
	t.Cleanup(func() { bound = was })

	other := exec.Command("/bin/sh", "-ec", `mount --bind "$0" "$0"; echo mounted; read go; grep -c " $0 " /proc/self/mountinfo || true`, folder)
	other.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); err != nil {
		t.Fatalf("the other bed did not mount: %q, %v", line, err)
	}

	left, err := RemoveMountPoints()
	if err != nil || len(left) != 1 || left[0] != folder {
		t.Errorf("left %v, %v; want %s", left, err, folder)
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Fatal(err)
	}
	if line, _ := out.ReadString('\n'); line != "1\n" {
		t.Errorf("the other bed has %q mounts on its folder, want 1", line)
	}
	if err := other.Wait(); err != nil {
		t.Fatal(err)
	}

	if left, err := RemoveMountPoints(); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v after the other bed ended; want nothing", left, err)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}
