package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	ourNamespace    = "tranship-system"
	veleroNamespace = "velero"
	commandLimit    = 5 * time.Minute
)

// cluster is one side of the bed.
type cluster struct {
	Server     string   `json:"server"`
	Nodes      []string `json:"nodes"`
	CAFile     string   `json:"caFile"`
	TokenFile  string   `json:"tokenFile"`
	Kubeconfig string   `json:"kubeconfig"`

	name string
	kube kubernetes.Interface
	any  dynamic.Interface
}

type account struct {
	User         string `json:"user"`
	PasswordFile string `json:"passwordFile"`
}

// bed is bed.json of test/bed.
type bed struct {
	Source cluster `json:"source"`
	Target cluster `json:"target"`
	S3     struct {
		Endpoint      string `json:"endpoint"`
		Bucket        string `json:"bucket"`
		Region        string `json:"region"`
		CAFile        string `json:"caFile"`
		AccessKeyFile string `json:"accessKeyFile"`
		SecretKeyFile string `json:"secretKeyFile"`
	} `json:"s3"`
	Git struct {
		URL    string  `json:"url"`
		CAFile string  `json:"caFile"`
		Dev    account `json:"dev"`
		Daemon account `json:"daemon"`
	} `json:"git"`
	Images  map[string]string `json:"images"`
	Kubectl string            `json:"kubectl"`
}

// lab is this program's own branch, ledger, namespaces and daemon on the bed.
type lab struct {
	bed    bed
	bedDir string
	binary string
	image  string // of the product
	app    string // of the application whose volume is copied
	dir    string // clones, config, secrets, data
	name   string // unique; branches, plans and namespaces begin with it
	size   sizes
	plans  []string
	pushed []string // branches
	daemon *daemon
}

func (l *lab) clusters() []*cluster { return []*cluster{&l.bed.Source, &l.bed.Target} }

// newLab cleans up by itself when it fails.
func newLab(ctx context.Context, bedFile, binary string) (*lab, error) {
	raw, err := os.ReadFile(bedFile)
	if err != nil {
		return nil, fmt.Errorf("no bed is running (%w): start one with make bed-up", err)
	}
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("cannot make a name: %w", err)
	}
	l := &lab{name: "bench-" + hex.EncodeToString(id), bedDir: filepath.Dir(bedFile)}
	if err := json.Unmarshal(raw, &l.bed); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", bedFile, err)
	}
	if l.binary, err = filepath.Abs(binary); err != nil {
		return nil, fmt.Errorf("cannot find the product: %w", err)
	}
	if l.dir, err = os.MkdirTemp("", "tranship-bench-"); err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	if err := l.prepare(ctx); err != nil {
		return nil, errors.Join(err, l.cleanUp())
	}
	return l, nil
}

func (l *lab) prepare(ctx context.Context) error {
	l.bed.Source.name, l.bed.Target.name = "source", "target"
	for _, c := range l.clusters() {
		if err := c.connect(); err != nil {
			return err
		}
	}
	if err := l.loadImages(ctx); err != nil {
		return err
	}
	if err := l.initClone(ctx, "clone"); err != nil {
		return err
	}
	if err := l.writeConfig(); err != nil {
		return err
	}
	docs, err := l.infrastructure()
	if err != nil {
		return err
	}
	if _, err := l.commit(ctx, "Describe clusters and repository", docs); err != nil {
		return err
	}
	l.daemon, err = startDaemon(l)
	return err
}

func (c *cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read the access to cluster %s: %w", c.name, err)
	}
	config.QPS, config.Burst = 200, 400 // as the product's: nobody waits for his own client
	if c.kube, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("cannot use the access to cluster %s: %w", c.name, err)
	}
	if c.any, err = dynamic.NewForConfig(config); err != nil {
		return fmt.Errorf("cannot use the access to cluster %s: %w", c.name, err)
	}
	return nil
}

// kubectl runs the bed's own.
func (l *lab) kubectl(ctx context.Context, c *cluster, stdin string, args ...string) (string, error) {
	return l.run(ctx, stdin, l.bed.Kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
}

// run executes a program and returns what it prints; the error has what it
// says.
func (l *lab) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, commandLimit)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "GIT_SSL_CAINFO="+l.bed.Git.CAFile, "GIT_TERMINAL_PROMPT=0")
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(errs.String()+out.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// loadImages puts the product and the benchmarks' application into images of
// their own content and loads them into every node.
func (l *lab) loadImages(ctx context.Context) error {
	program := filepath.Join(l.dir, "load")
	if _, err := l.run(ctx, "", "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./test/bench/load"); err != nil {
		return fmt.Errorf("cannot build the application whose volume is copied: %w", err)
	}
	var err error
	if l.image, err = l.loadImage(ctx, "tranship", l.binary); err != nil {
		return err
	}
	l.app, err = l.loadImage(ctx, "load", program)
	return err
}

func (l *lab) loadImage(ctx context.Context, name, program string) (ref string, err error) {
	raw, err := os.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("cannot read the program %s (%w): build the product with make build", name, err)
	}
	sum := sha256.Sum256(raw)
	ref = "localhost/" + name + ":" + hex.EncodeToString(sum[:6])
	tar := filepath.Join(l.dir, name+".tar")
	for _, args := range [][]string{
		{"image", "--out", tar, "--ref", ref, "--entrypoint", "/" + name, name + "=" + program},
		{"load", "--dir", l.bedDir, tar},
	} {
		if _, err := l.run(ctx, "", "go", append([]string{"-C", filepath.Join("test", "bed"), "run", "."}, args...)...); err != nil {
			return "", fmt.Errorf("cannot load %s into the bed: %w", name, err)
		}
	}
	return ref, nil
}

// git runs C git in one of the lab's clones.
func (l *lab) git(ctx context.Context, clone string, args ...string) (string, error) {
	base := []string{"-C", filepath.Join(l.dir, clone), "-c", "user.name=Dana Dev", "-c", "user.email=dana@example.com"}
	return l.run(ctx, "", "git", append(base, args...)...)
}

func (l *lab) initClone(ctx context.Context, clone string) error {
	u, err := url.Parse(l.bed.Git.URL)
	if err != nil {
		return fmt.Errorf("cannot read the address of the Git server: %w", err)
	}
	password, err := secret(l.bed.Git.Dev.PasswordFile)
	if err != nil {
		return err
	}
	u.User = url.UserPassword(l.bed.Git.Dev.User, password)
	if err := os.MkdirAll(filepath.Join(l.dir, clone), 0o700); err != nil {
		return fmt.Errorf("cannot make the clone's folder: %w", err)
	}
	if _, err := l.git(ctx, clone, "init", "-q", "-b", l.name); err != nil {
		return err
	}
	_, err = l.git(ctx, clone, "remote", "add", "origin", u.String())
	return err
}

// write puts a file below the lab's folder.
func (l *lab) write(name, text string) error {
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot make the folder of %s: %w", name, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

// commit writes documents and pushes them to the branch that the daemon reads.
func (l *lab) commit(ctx context.Context, message string, files map[string]string) (string, error) {
	for name, text := range files {
		if err := l.write(filepath.Join("clone", name), text); err != nil {
			return "", err
		}
	}
	return l.push(ctx, "clone", l.name, message)
}

// push commits everything in a clone and pushes it.
func (l *lab) push(ctx context.Context, clone, branch, message string) (string, error) {
	for _, args := range [][]string{{"add", "-A"}, {"commit", "-q", "-m", message}, {"push", "-q", "origin", "HEAD:refs/heads/" + branch}} {
		if _, err := l.git(ctx, clone, args...); err != nil {
			return "", err
		}
	}
	l.pushed = append(l.pushed, branch)
	return l.git(ctx, clone, "rev-parse", "HEAD")
}

// secret reads a file of one line.
func secret(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read a file of the bed: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
