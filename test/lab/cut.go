package lab

import (
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
)

// Cut lets no packet of a group's processes through to a server, which is a URL, until
// the returned function is called.
func Cut(gid int, server string) (mend func() error, err error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("cannot read an address: %w", err)
	}
	rule := []string{"OUTPUT", "-p", "tcp", "-m", "owner", "--gid-owner", strconv.Itoa(gid), "-d", u.Hostname(), "--dport", u.Port(), "-j", "DROP"}
	if err := iptables(append([]string{"-I"}, rule...)...); err != nil {
		return nil, err
	}
	return func() error { return iptables(append([]string{"-D"}, rule...)...) }, nil
}

// Mend takes away every cut of a group, also those of a process that was ended before
// it could.
func Mend(gid int) error {
	out, err := exec.Command("iptables", "-w", "-S", "OUTPUT").CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables: %w: %s", err, out)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if rest, ours := strings.CutPrefix(line, "-A "); ours && strings.Contains(line, "--gid-owner "+strconv.Itoa(gid)) {
			err = errors.Join(err, iptables(append([]string{"-D"}, strings.Fields(rest)...)...))
		}
	}
	return err
}

func iptables(args ...string) error {
	if out, err := exec.Command("iptables", append([]string{"-w"}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("iptables: %w: %s", err, out)
	}
	return nil
}
