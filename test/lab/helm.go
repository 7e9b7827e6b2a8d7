package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Helm is the path of the program, which the first call builds of the module in the
// folder tools; Go's cache keeps it. It is compiled as the product is, whose packages of
// Kubernetes it shares.
func Helm(tools string) (string, error) {
	c := exec.Command("go", "-C", tools, "tool", "-n", "helm")
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false")
	var said strings.Builder
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("cannot build Helm: %w: %s", err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
}
