package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// configFlags name the daemon's configuration and where secrets are.
type configFlags struct {
	config     string
	secretsDir string
}

func (f *configFlags) bind(c *cobra.Command) {
	c.Flags().StringVar(&f.config, "config", "/etc/tranship/config.yaml", "the daemon's configuration (kind: DaemonConfig)")
	c.Flags().StringVar(&f.secretsDir, "secrets-dir", "", "folder with a folder a secret and a file an entry; without it secrets are those of the pod's namespace")
}

func (f *configFlags) load() (*spec.DaemonConfig, error) {
	data, err := os.ReadFile(f.config)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w; name it with --config", err)
	}
	cfg, problems := spec.DecodeConfig(f.config, data)
	if len(problems) > 0 {
		var all []string
		for _, p := range problems {
			all = append(all, fmt.Sprintf("%s:%d: %s: %s", p.File, p.Line, p.Path, p.Message))
		}
		return nil, fmt.Errorf("the configuration has %d problems:\n%s", len(all), strings.Join(all, "\n"))
	}
	if err := gitsource.CheckTrust(cfg.Spec.Trust); err != nil {
		return nil, fmt.Errorf("the configuration's spec.trust: %w", err)
	}
	return cfg, nil
}

// secrets reads files below --secrets-dir or the Secrets of our own namespace.
func (f *configFlags) secrets(cfg *spec.DaemonConfig) (*remembering, error) {
	if f.secretsDir != "" {
		return &remembering{secretStore: kube.FileSecrets{Dir: f.secretsDir}}, nil
	}
	rc, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("secrets are neither in a cluster nor in a folder: give --secrets-dir (%w)", err)
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("cannot use the pod's own access: %w", err)
	}
	return &remembering{secretStore: kube.NamespaceSecrets{Client: client, Namespace: cfg.Spec.Namespace}}, nil
}

// live is the configuration that holds now. Safe for concurrent use.
type live struct {
	flags *configFlags
	mu    sync.Mutex
	now   *spec.DaemonConfig
}

func (l *live) get() *spec.DaemonConfig {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *live) reload() error {
	cfg, err := l.flags.load()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = cfg
	return nil
}

// publicEntries are those of a Git credential, or of a key that signs the
// ledger, that are no secret: redacting them would blank ordinary words. Every
// other entry is taken for one.
var publicEntries = []string{"username", "address", "known_hosts", "identity.pub", "tls.crt", "ca.crt",
	"githubAppID", "githubAppInstallationID", "githubAppBaseURL"}

// entries gives gitsource the entries of a credential.
func (r *remembering) entries(ctx context.Context, from string) (map[string][]byte, error) {
	found, err := r.Entries(ctx, from)
	if err != nil {
		return nil, err
	}
	trimmed := map[string][]byte{}
	for key, v := range found {
		trimmed[key] = bytes.TrimSpace(v)
		if !slices.Contains(publicEntries, key) {
			r.keep(trimmed[key])
		}
	}
	return trimmed, nil
}

func readToken(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the token of POST /reconcile: %w", err)
	}
	if b = bytes.TrimSpace(b); len(b) < 16 {
		return nil, fmt.Errorf("the token in %s is shorter than 16 characters", file)
	}
	return b, nil
}
