package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A file that the caller left open must not stay open in what is started.
func TestKeepFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	for _, kept := range []bool{true, false} {
		if !kept {
			if err := keepFiles(); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command("ls", "-l", "/proc/self/fd").Output()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out), name) != kept {
			t.Errorf("inherited: want %t:\n%s", kept, out)
		}
	}
}
