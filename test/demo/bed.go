package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// bed is where the clusters and services are.
type bed struct {
	Source  cluster `json:"source"`
	Target  cluster `json:"target"`
	S3      s3      `json:"s3"`
	Git     git     `json:"git"`
	Kubectl string  `json:"kubectl"`

	dir string
}

type cluster struct {
	Server     string   `json:"server"`
	CAFile     string   `json:"caFile"`
	TokenFile  string   `json:"tokenFile"`
	Kubeconfig string   `json:"kubeconfig"`
	Nodes      []string `json:"nodes"`

	name string
	bed  *bed
}

type s3 struct {
	Endpoint      string `json:"endpoint"`
	Bucket        string `json:"bucket"`
	Region        string `json:"region"`
	CAFile        string `json:"caFile"`
	AccessKeyFile string `json:"accessKeyFile"`
	SecretKeyFile string `json:"secretKeyFile"`
}

type git struct {
	URL    string  `json:"url"`
	CAFile string  `json:"caFile"`
	Dev    account `json:"dev"`
	Daemon account `json:"daemon"`
}

type account struct {
	User         string `json:"user"`
	PasswordFile string `json:"passwordFile"`
}

func readBed(path string) (*bed, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the demonstration reads the bed's disks: run it as root")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("no bed is running (%w): start one with `make bed-up`", err)
	}
	b := &bed{dir: filepath.Dir(path)}
	if err := json.Unmarshal(raw, b); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	b.Source.name, b.Target.name = "source", "target"
	b.Source.bed, b.Target.bed = b, b
	return b, nil
}

func (b *bed) clusters() []*cluster { return []*cluster{&b.Source, &b.Target} }

// host is the address under which pods reach this program.
func (b *bed) host() (string, error) {
	u, err := url.Parse(b.Git.URL)
	if err != nil {
		return "", fmt.Errorf("cannot read the address of the Git server: %w", err)
	}
	return u.Hostname(), nil
}

// volume is the folder of a volume's files. The bed's storage driver keeps
// volumes as folders; handles may have the driver's name in front.
func (b *bed) volume(handle string) string {
	return filepath.Join(b.dir, "csi", "volumes", filepath.Base(handle), "data")
}

// command runs one of the bed's own commands.
func (b *bed) command(ctx context.Context, name string, args ...string) error {
	_, err := output(exec.CommandContext(ctx, filepath.Join(b.dir, "bin", "bed"), append([]string{name}, args...)...))
	return err
}

func (c *cluster) kubectl(ctx context.Context, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, c.bed.Kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...))
}

// apply creates or changes what the manifests say.
func (c *cluster) apply(ctx context.Context, manifests string) error {
	cmd := exec.CommandContext(ctx, c.bed.Kubectl, "--kubeconfig", c.Kubeconfig, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	_, err := output(cmd)
	return err
}

// get reads objects as JSON.
func (c *cluster) get(ctx context.Context, into any, args ...string) error {
	text, err := c.kubectl(ctx, append([]string{"get", "-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("cannot read what kubectl says about %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// serviceIP is the address of a Service of the shop; the host reaches it.
func (c *cluster) serviceIP(ctx context.Context, name string) (string, error) {
	return c.kubectl(ctx, "get", "service", "-n", namespace, name, "-o", "jsonpath={.spec.clusterIP}")
}

// output runs a command and returns what it prints; the error has what it says.
func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(errs.String())
		if said == "" {
			said = strings.TrimSpace(out.String())
		}
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err, said)
	}
	return strings.TrimSpace(out.String()), nil
}
