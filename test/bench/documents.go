package main

import (
	"fmt"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
)

func (l *lab) ledger() string { return "tranship/ledger-" + l.name }

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

// password encrypts the volumes' data.
func (l *lab) password() string { return "the password of " + l.name }

// writeConfig writes the daemon's configuration and secrets. Only the poll
// interval is not the default: waiting for it is not what is measured.
func (l *lab) writeConfig() error {
	files := map[string]string{
		"git/password": l.bed.Git.Daemon.PasswordFile,
		"old/token":    l.bed.Source.TokenFile,
		"new/token":    l.bed.Target.TokenFile,
		"s3/accessKey": l.bed.S3.AccessKeyFile,
		"s3/secretKey": l.bed.S3.SecretKeyFile,
	}
	for name, path := range files {
		text, err := secret(path)
		if err != nil {
			return err
		}
		if err := l.write("secrets/"+name, text); err != nil {
			return err
		}
	}
	if err := l.write("secrets/git/username", l.bed.Git.Daemon.User); err != nil {
		return err
	}
	if err := l.write("secrets/s3/password", l.password()); err != nil {
		return err
	}
	ca, err := secret(l.bed.Git.CAFile)
	if err != nil {
		return err
	}
	return l.write("config.yaml", fmt.Sprintf(`apiVersion: tranship.dev/v1alpha1
kind: DaemonConfig
metadata: {name: %s}
spec:
  source:
    url: %s
    branch: %s
    credentials: {from: git}
    caBundle: |
%s
  ledger: {branch: %s}
  interval: 1s
  mover: {image: %s}
`, l.name, l.bed.Git.URL, l.name, indent(ca, "      "), l.ledger(), l.image))
}

// infrastructure is the documents that every plan needs.
func (l *lab) infrastructure() (map[string]string, error) {
	docs := map[string]string{}
	for name, c := range map[string]*cluster{"old": &l.bed.Source, "new": &l.bed.Target} {
		ca, err := secret(c.CAFile)
		if err != nil {
			return nil, err
		}
		docs["clusters/"+name+".yaml"] = fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: Cluster\nmetadata: {name: %s}\nspec:\n  server: %s\n  token: {from: %s}\n  caBundle: |\n%s\n", name, c.Server, name, indent(ca, "    "))
	}
	ca, err := secret(l.bed.S3.CAFile)
	if err != nil {
		return nil, err
	}
	docs["repositories/main.yaml"] = fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: ReplicationRepository\nmetadata: {name: main}\nspec:\n  provider: aws\n  bucket: %s\n  prefix: %s\n  region: %s\n  endpoint: %s\n  credentials: {from: s3}\n  encryption: {from: s3, key: password}\n  caBundle: |\n%s\n",
		l.bed.S3.Bucket, l.name, l.bed.S3.Region, l.bed.S3.Endpoint, indent(ca, "    "))
	return docs, nil
}

// newPlan remembers a plan, and the namespace of the same name, for the
// clean-up.
func (l *lab) newPlan(suffix string) string {
	name := l.name + "-" + suffix
	l.plans = append(l.plans, name)
	return name
}

// plan is a plan's document; request asks for a stage run, extra are lines of
// YAML of the plan's spec.
func plan(name string, state spec.State, request string, extra ...string) map[string]string {
	text := fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: {name: %s}\nspec:\n  state: %s\n  sourceCluster: old\n  targetCluster: new\n  replicationRepository: main\n  namespaces: [{name: %s}]\n  stage: {requestedAt: %q}\n", name, state, name, request)
	for _, line := range extra {
		text += "  " + line + "\n"
	}
	return map[string]string{name + ".yaml": text}
}

// planLabel selects what the product made for a plan.
func planLabel(plan string) string { return kube.LabelPlan + "=" + kube.Short(plan) }
