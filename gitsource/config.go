package gitsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/tranship/tranship/spec"
)

// Config says which repositories to use and how to reach them.
type Config struct {
	Spec spec.DaemonConfigSpec
	// DataDir holds the Git caches and the journal. One process at a time.
	DataDir string
	// Secrets reads the credentials; needed only when the configuration has any.
	Secrets SecretReader
	// SecretValues gives every secret value known now; they are redacted from
	// whatever is written. May be nil.
	SecretValues func() [][]byte
	// SecretsPlain says how many values in the Secrets of a plan's namespaces are not
	// among these, because they cannot be told from ordinary words. May be nil.
	SecretsPlain func(plan string) int
	// SecretMade is told every secret value that is made from others, such as a
	// GitHub App's token. May be nil.
	SecretMade func(value []byte)
	Version    string // of this program, for status/_daemon.yaml
	// Person is who adopts a ledger, for its record; empty where nobody does.
	Person string
	// SeenWithin is how long another daemon counts as alive after it last wrote
	// to the ledger; zero means ten minutes.
	SeenWithin time.Duration
	// AllowLoopbackHTTP permits http:// to this machine; for tests.
	AllowLoopbackHTTP bool
	Log               *slog.Logger // nil discards
}

const defaultSeenWithin = 10 * time.Minute

func (c *Config) log() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

func (c *Config) source() (*remote, error) { return c.newRemote(c.Spec.Source) }

// ledgerRepository is the source repository, with its credentials, unless the
// ledger has a URL of its own. Credentials are never carried over to another server.
func (c *Config) ledgerRepository() spec.Repository {
	repo := c.Spec.Ledger.Repository
	if repo.Branch == "" {
		repo.Branch = defaultLedgerBranch
	}
	if repo.URL == "" {
		src := c.Spec.Source
		repo.URL = src.URL
		if repo.Credentials == nil {
			repo.Credentials = src.Credentials
		}
		if repo.CABundle == "" {
			repo.CABundle = src.CABundle
		}
		if repo.Proxy == nil {
			repo.Proxy = src.Proxy
		}
		if repo.Timeout == nil {
			repo.Timeout = src.Timeout
		}
	}
	return repo
}

func (c *Config) ledger() (*remote, error) {
	repo := c.ledgerRepository()
	src := c.Spec.Source
	field, value := src.Reads()
	if repo.URL == src.URL && (field == "branch" && value == repo.Branch || src.Ref == "refs/heads/"+repo.Branch) {
		return nil, fail(ErrMisconfigured, nil, "cannot use branch %q for the ledger: it is the branch that people merge to; choose another ledger.branch", repo.Branch)
	}
	r, err := c.newRemote(repo)
	if err == nil {
		r.most = urgentRest
	}
	return r, err
}

// cache opens the store called name below the data directory, for this
// process alone.
func (c *Config) cache(name string) (*store, *os.File, error) {
	if c.DataDir == "" {
		return nil, nil, fail(ErrMisconfigured, nil, "cannot keep a Git cache: no data directory is given; set --data-dir")
	}
	dir := filepath.Join(c.DataDir, "git")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot make the data directory: %w; give the daemon a writable --data-dir", err)
	}
	lock, err := lockFile(filepath.Join(dir, name+".lock"))
	if err != nil {
		return nil, nil, err
	}
	s, err := openStore(filepath.Join(dir, name))
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	return s, lock, nil
}

// backoff waits between attempts: 50 ms to 5 s, doubling, each spread by half.
type backoff struct{ last time.Duration }

func (b *backoff) wait(ctx context.Context) error {
	b.last = min(max(2*b.last, 50*time.Millisecond), 5*time.Second)
	t := time.NewTimer(b.last/2 + rand.N(b.last/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
