package main

import (
	"context"
	"embed"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed files/plans files/daemon.yaml
var documents embed.FS

// plans is a clone of the repository of plans, used with the git command as the
// user dev would.
type plans struct {
	dir  string
	env  []string
	base string // the newest commit of main when the plan was pushed
}

func newPlans(d *demo) (*plans, error) {
	secret, err := os.ReadFile(d.bed.Git.Dev.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the password of the user %s: %w", d.bed.Git.Dev.User, err)
	}
	basic := base64.StdEncoding.EncodeToString([]byte(d.bed.Git.Dev.User + ":" + strings.TrimSpace(string(secret))))
	p := &plans{dir: filepath.Join(d.dir, "plans")}
	p.env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "NO_PROXY=*", "no_proxy=*",
		"GIT_SSL_CAINFO="+d.bed.Git.CAFile, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: Basic "+basic)
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		p.env = append(p.env, "GIT_"+who+"_NAME=Dev Eloper", "GIT_"+who+"_EMAIL=dev@example.com")
	}
	return p, nil
}

func (p *plans) git(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	return output(cmd)
}

// all runs one command after the other.
func (p *plans) all(ctx context.Context, commands ...[]string) error {
	for _, args := range commands {
		if _, err := p.git(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// fill puts values for the @NAMES@ of a document. Certificates are indented for
// their place in YAML.
func (d *demo) fill(name string) (string, error) {
	text, err := documents.ReadFile("files/" + name)
	if err != nil {
		return "", err
	}
	values := []string{
		"@OLD_SERVER@", d.bed.Source.Server, "@NEW_SERVER@", d.bed.Target.Server, "@S3_BUCKET@", d.bed.S3.Bucket, "@S3_REGION@", d.bed.S3.Region,
		"@S3_ENDPOINT@", d.bed.S3.Endpoint, "@S3_PREFIX@", fmt.Sprintf("demo/%d", d.start.Unix()), "@CLIENT@", d.images.client,
		"@COMPARE_URL@", d.judge.url, "@GIT_URL@", d.bed.Git.URL, "@BRANCH@", d.branch, "@LEDGER@", d.ledger, "@TRANSHIP@", d.images.tranship,
	}
	for name, file := range map[string]string{"@OLD_CA@": d.bed.Source.CAFile, "@NEW_CA@": d.bed.Target.CAFile, "@S3_CA@": d.bed.S3.CAFile, "@GIT_CA@": d.bed.Git.CAFile} {
		pem, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("cannot read a certificate of the bed: %w", err)
		}
		indent := "    "
		if name == "@GIT_CA@" {
			indent = "      "
		}
		values = append(values, name, indent+strings.ReplaceAll(strings.TrimSpace(string(pem)), "\n", "\n"+indent))
	}
	return strings.NewReplacer(values...).Replace(string(text)), nil
}

// pushPlans starts the repository anew: a branch with the documents, no ledger.
func (d *demo) pushPlans(ctx context.Context) (err error) {
	if d.plans, err = newPlans(d); err != nil {
		return err
	}
	if err := os.MkdirAll(d.plans.dir, 0o755); err != nil {
		return err
	}
	if err := d.plans.all(ctx, []string{"init", "-q", "-b", "main"}, []string{"remote", "add", "origin", d.bed.Git.URL}); err != nil {
		return err
	}
	for _, commit := range []struct {
		subject string
		files   map[string]string
	}{
		{"Describe both clusters and the repository between them", map[string]string{"clusters/old.yaml": "old.yaml", "clusters/new.yaml": "new.yaml", "repositories/main.yaml": "main.yaml"}},
		{"Stage the shop every minute", map[string]string{"hooks/compare.yaml": "compare.yaml", "plans/shop.yaml": "shop.yaml"}},
	} {
		for path, name := range commit.files {
			text, err := d.fill("plans/" + name)
			if err != nil {
				return err
			}
			if err := writeFile(filepath.Join(d.plans.dir, path), text, 0o644); err != nil {
				return err
			}
		}
		if err := d.plans.all(ctx, []string{"add", "."}, []string{"commit", "-q", "-m", commit.subject}); err != nil {
			return err
		}
	}
	if err := d.plans.dropLedger(ctx, d.ledger); err != nil {
		return err
	}
	if _, err := d.plans.git(ctx, "push", "-q", "--force", "origin", "main:"+d.branch); err != nil {
		return err
	}
	if d.plans.base, err = d.plans.git(ctx, "rev-parse", "--short", "HEAD"); err != nil {
		return err
	}
	d.say("git", "pushed clusters, repository, hook and plan (state: Staged) as %s", d.plans.base)
	return nil
}

func (p *plans) dropLedger(ctx context.Context, branch string) error {
	there, err := p.git(ctx, "ls-remote", "origin", "refs/heads/"+branch)
	if err != nil || there == "" {
		return err
	}
	_, err = p.git(ctx, "push", "-q", "origin", ":refs/heads/"+branch)
	return err
}

// merge is the approval: a branch that flips the plan, merged into main.
func (d *demo) merge(ctx context.Context) error {
	path := filepath.Join(d.plans.dir, "plans", "shop.yaml")
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	flipped := strings.Replace(string(raw), "state: Staged", "state: Migrated", 1)
	if err := d.plans.all(ctx, []string{"checkout", "-q", "-b", "migrate-the-shop"}); err != nil {
		return err
	}
	if err := writeFile(path, flipped, 0o644); err != nil {
		return err
	}
	if err := d.plans.all(ctx, []string{"commit", "-q", "-a", "-m", "Migrate the shop"}, []string{"checkout", "-q", "main"},
		[]string{"merge", "-q", "--no-ff", "-m", "Merge branch 'migrate-the-shop'", "migrate-the-shop"}, []string{"push", "-q", "origin", "main:" + d.branch}); err != nil {
		return err
	}
	commit, err := d.plans.git(ctx, "rev-parse", "--short", "HEAD")
	if err != nil {
		return err
	}
	d.merged = time.Now()
	d.say("merge", "state: Migrated, merged as %s; %s acknowledged so far", commit, d.writer.counts())
	return nil
}

func writeFile(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), mode)
}
