package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/gitserver"
	"github.com/tranship/tranship/test/bed/kubeapi"
	"github.com/tranship/tranship/test/bed/machine"
	"github.com/tranship/tranship/test/bed/pki"
)

const (
	s3Address  = cluster.BridgeIP + ":7443"
	gitAddress = cluster.BridgeIP + ":8443"
	bucket     = "migrations"
	repository = "plans.git"
	developer  = "dev"
	daemonUser = "tranship"
)

// servicesDir is the folder of what serves both clusters.
func servicesDir(l cluster.Layout, more ...string) string {
	return filepath.Join(append([]string{l.Dir, "services"}, more...)...)
}

// startServices starts the object store and the Git server on the host's side of
// the bridge, under an authority of their own that no machine trusts by itself.
func startServices(ctx context.Context, l cluster.Layout) error {
	if err := os.MkdirAll(servicesDir(l, "s3", bucket), 0o755); err != nil {
		return fmt.Errorf("cannot make the bucket: %w", err)
	}
	if err := servicePKI(l); err != nil {
		return err
	}
	secrets := map[string]string{}
	for _, name := range []string{"s3-access-key", "s3-secret-key", "git-" + developer, "git-" + daemonUser} {
		secrets[name] = rand.Text()
		if err := os.WriteFile(servicesDir(l, name), []byte(secrets[name]), 0o600); err != nil {
			return fmt.Errorf("cannot save a password: %w", err)
		}
	}
	if err := gitserver.CreateRepository(ctx, servicesDir(l, "git"), repository, daemonUser); err != nil {
		return err
	}
	config, err := json.Marshal(gitserver.Config{
		Listen: gitAddress, Root: servicesDir(l, "git"), CertFile: servicesDir(l, "server.crt"), KeyFile: servicesDir(l, "server.key"),
		Users: map[string]string{developer: secrets["git-"+developer], daemonUser: secrets["git-"+daemonUser]},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(servicesDir(l, "git.json"), config, 0o600); err != nil {
		return fmt.Errorf("cannot write the configuration of the Git server: %w", err)
	}
	m := l.HostMachine()
	if err := m.Boot(ctx, l.Bin("bed"), machine.Host); err != nil {
		return err
	}
	if err := m.Script(ctx, "mount --make-rprivate /\nmount -t proc proc /proc\n"); err != nil {
		return err
	}
	if err := m.Start("git", []string{l.Bin("bed"), "serve-git", servicesDir(l, "git.json")}, nil); err != nil {
		return err
	}
	// The keys go through the environment: arguments are for everybody to see.
	return m.Start("s3", []string{
		l.Bin("versitygw"), "--port", s3Address, "--region", "us-east-1", "--quiet", "--health", "/health",
		"--cert", servicesDir(l, "server.crt"), "--key", servicesDir(l, "server.key"), "posix", servicesDir(l, "s3"),
	}, []string{"ROOT_ACCESS_KEY=" + secrets["s3-access-key"], "ROOT_SECRET_KEY=" + secrets["s3-secret-key"]})
}

func servicePKI(l cluster.Layout) error {
	ca, err := pki.NewCA("bed-services-ca")
	if err != nil {
		return err
	}
	server, err := ca.Issue(pki.Request{Name: "bed-services", Hosts: []string{cluster.BridgeIP}, Server: true})
	if err != nil {
		return err
	}
	if err := server.Save(servicesDir(l), "server"); err != nil {
		return err
	}
	if err := os.WriteFile(servicesDir(l, "ca.crt"), ca.CertPEM, 0o644); err != nil {
		return fmt.Errorf("cannot save the authority of the services: %w", err)
	}
	return nil
}

// waitServices waits until both answer at all: who may do what is not asked here.
func waitServices(ctx context.Context, l cluster.Layout) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // asks only whether somebody listens
	}}
	for name, address := range map[string]string{"s3": s3Address, "git": gitAddress} {
		err := kubeapi.Wait(ctx, 20*time.Second, "the service "+name, func(ctx context.Context) (bool, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/health", nil)
			if err != nil {
				return false, err
			}
			resp, err := client.Do(req)
			if err != nil {
				return false, err
			}
			return true, resp.Body.Close()
		})
		if err != nil {
			return fmt.Errorf("%w; see %s", err, l.HostMachine().Log(name))
		}
	}
	return nil
}
