package lab

import (
	"fmt"
	"strings"

	"github.com/tranship/tranship/spec"
)

// passphrase is the repository's; it must not be found in any output.
func (l *Lab) passphrase() string { return "correct horse battery staple " + l.Name }

// Secrets are the values that the lab knows and nobody may ever read.
func (l *Lab) Secrets() ([]string, error) {
	all := []string{l.passphrase()}
	for _, file := range []string{l.Bed.Git.Daemon.PasswordFile, l.Bed.Source.TokenFile, l.Bed.Target.TokenFile, l.Bed.S3.SecretKeyFile} {
		text, err := Text(file)
		if err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, nil
}

// Indent puts by before every line.
func Indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

// Configure writes the daemon's configuration and its secrets.
func (l *Lab) Configure(moverImage string) error {
	for name, file := range map[string]string{
		"git/password": l.Bed.Git.Daemon.PasswordFile, "old/token": l.Bed.Source.TokenFile, "new/token": l.Bed.Target.TokenFile,
		"s3/accessKey": l.Bed.S3.AccessKeyFile, "s3/secretKey": l.Bed.S3.SecretKeyFile,
	} {
		text, err := Text(file)
		if err == nil {
			err = l.Write("secrets/"+name, text)
		}
		if err != nil {
			return err
		}
	}
	if err := l.Write("secrets/git/username", l.Bed.Git.Daemon.User); err != nil {
		return err
	}
	if err := l.Write("secrets/s3/password", l.passphrase()); err != nil {
		return err
	}
	ca, err := Text(l.Bed.Git.CAFile)
	if err != nil {
		return err
	}
	return l.Write("config.yaml", fmt.Sprintf(`apiVersion: tranship.dev/v1alpha1
kind: DaemonConfig
metadata: {name: %s}
spec:
  source:
    url: %s
    branch: %s
    credentials: {from: git}
    caBundle: |
%s
  ledger: {branch: %s, batchInterval: 1s}
  interval: 1s
  mover: {image: %s}
`, l.Name, l.Bed.Git.URL, l.Name, Indent(ca, "      "), l.Ledger(), moverImage))
}

// Infrastructure is the documents that every plan needs.
func (l *Lab) Infrastructure() (map[string]string, error) {
	files := map[string]string{}
	for name, c := range map[string]Cluster{"old": l.Bed.Source, "new": l.Bed.Target} {
		ca, err := Text(c.CAFile)
		if err != nil {
			return nil, err
		}
		files["clusters/"+name+".yaml"] = fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: Cluster\nmetadata: {name: %s}\nspec:\n  server: %s\n  token: {from: %s}\n  caBundle: |\n%s\n",
			name, c.Server, name, Indent(ca, "    "))
	}
	ca, err := Text(l.Bed.S3.CAFile)
	files["repositories/main.yaml"] = fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: ReplicationRepository\nmetadata: {name: main}\nspec:\n  provider: aws\n  bucket: %s\n  prefix: %s\n  region: %s\n  endpoint: %s\n  credentials: {from: s3}\n  encryption: {from: s3, key: password}\n  caBundle: |\n%s\n",
		l.Bed.S3.Bucket, l.Name, l.Bed.S3.Region, l.Bed.S3.Endpoint, Indent(ca, "    "))
	return files, err
}

// Plan is the document of a plan that covers the namespace of its own name;
// extra is YAML below spec.
func Plan(name string, state spec.State, extra string) string {
	return fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: {name: %s}\nspec:\n  state: %s\n  sourceCluster: old\n  targetCluster: new\n  replicationRepository: main\n  namespaces: [{name: %s}]\n%s\n", name, state, name, Indent(extra, "  "))
}
