package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

// approveFlags are the flags of `tranship approve`.
type approveFlags struct {
	state   string
	attempt int
	key     string
	name    string
	// passphrase asks for the one of a key file; tests replace it.
	passphrase func(file string) ([]byte, error)
}

// sshAgent as --key means: the only key that the agent holds.
const sshAgent = "ssh-agent"

func approveCommand() *cobra.Command {
	f := &approveFlags{passphrase: askPassphrase}
	c := &cobra.Command{
		Use:   "approve PLAN PATH",
		Short: "Sign a plan as it is in a checkout, for an approval policy that asks for signatures",
		Long: "Shows what would be approved, signs it, and writes the signature below PATH/" + spec.ApprovalsDir + ", for you\n" +
			"to commit. PATH is the folder that the daemon reads: the repository's root, or its source.path.\n" +
			"The signature is for this plan, state, attempt and digest alone: whoever changes one of them\n" +
			"asks for another approval. The daemon counts it once it is on the branch.",
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return f.approve(c.OutOrStdout(), args[0], args[1])
		},
	}
	c.Flags().StringVar(&f.state, "state", "", "the state to approve; default is what the plan says")
	c.Flags().IntVar(&f.attempt, "attempt", 0, "the cutover.attempt to approve; default is what the plan says")
	c.Flags().StringVar(&f.key, "key", sshAgent, "file of a private SSH key; a .pub file names a key that the SSH agent holds; "+sshAgent+" is the only one there")
	c.Flags().StringVar(&f.name, "name", "", "name of the file that is written, without .sig; default is the key's comment")
	return c
}

func (f *approveFlags) approve(w io.Writer, plan, folder string) error {
	closure, err := closureIn(folder, plan)
	if err != nil {
		return err
	}
	p := &closure.Plan.Spec
	state, attempt, digest := p.State, p.Cutover.AttemptOrDefault(), closure.Digest()
	if f.state != "" {
		state = spec.State(f.state)
	}
	if f.attempt != 0 {
		attempt = f.attempt
	}
	if known := []spec.State{spec.Staged, spec.Migrated, spec.RolledBack, spec.Closed}; !slices.Contains(known, state) || attempt < 1 {
		return fmt.Errorf("cannot approve state %q with attempt %d: write --state Staged, Migrated, RolledBack or Closed, and an --attempt of 1 or more", state, attempt)
	}
	show(w, closure, state, attempt, digest)
	key, comment, done, err := f.signer()
	if err != nil {
		return err
	}
	defer done()
	sig, err := gitsource.SignSSH(key, spec.ApprovalNamespace, spec.ApprovalText(plan, state, attempt, digest))
	if err != nil {
		return err
	}
	name := f.name
	if name == "" {
		name = comment
	}
	file := filepath.Join(folder, filepath.FromSlash(spec.ApprovalDir(plan, digest)), fileName(name, key)+".sig")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("cannot write the approval: %w", err)
	}
	if err := os.WriteFile(file, sig, 0o644); err != nil {
		return fmt.Errorf("cannot write the approval: %w", err)
	}
	fmt.Fprintf(w, "signed     with %s\nwritten    %s\nCommit this file and merge it.\n", ssh.FingerprintSHA256(key.PublicKey()), file)
	return nil
}

// closureIn reads a plan with everything that it refers to.
func closureIn(folder, plan string) (*spec.Closure, error) {
	found, err := gitsource.Folder{Path: folder, Scope: folder}.Read()
	if err != nil {
		return nil, fmt.Errorf("cannot read the manifests: %w", err)
	}
	docs := found.Refused
	for _, f := range found.Files {
		d, _ := spec.Decode(f.File) // Assemble reports the problems of each document
		docs = append(docs, d...)
	}
	closures, problems, _, _ := spec.Assemble(docs)
	if c := closures[plan]; c != nil {
		return c, nil
	}
	var all []string
	for _, p := range problems[plan] {
		all = append(all, fmt.Sprintf("%s:%d: %s: %s", p.File, p.Line, p.Path, p.Message))
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no plan %s below %s: name the folder that the daemon reads", plan, folder)
	}
	return nil, fmt.Errorf("plan %s is not whole, so that nobody can approve it:\n%s", plan, strings.Join(all, "\n"))
}

// show prints what a signature would stand for.
func show(w io.Writer, c *spec.Closure, state spec.State, attempt int, digest string) {
	cluster := func(c *spec.Cluster) string {
		at := c.Spec.Server
		if c.Spec.Kubeconfig != nil {
			at = "kubeconfig of secret " + c.Spec.Kubeconfig.From
		}
		if c.Spec.InCluster {
			at = "the cluster that the daemon runs in"
		}
		return fmt.Sprintf("%s (%s)", c.Metadata.Name, at)
	}
	var namespaces, hooks []string
	for _, n := range c.Plan.Spec.Namespaces {
		if n.TargetName != "" && n.TargetName != n.Name {
			n.Name += " as " + n.TargetName
		}
		namespaces = append(namespaces, n.Name)
	}
	for _, h := range c.Hooks {
		hooks = append(hooks, h.Metadata.Name)
	}
	r := &c.Repository.Spec
	fmt.Fprintf(w, "plan       %s\n", c.Plan.Metadata.Name)
	if set := c.Plan.Metadata.Labels; len(set) > 0 { // they may say which daemon does it
		fmt.Fprintf(w, "labels     %s\n", labels.FormatLabels(set))
	}
	fmt.Fprintf(w, "state      %s, attempt %d\nnamespaces %s\nfrom       %s\nto         %s\nrepository %s %s\n",
		state, attempt, strings.Join(namespaces, ", "), cluster(&c.Source), cluster(&c.Target), c.Repository.Metadata.Name,
		strings.Trim(r.Endpoint+"/"+r.Bucket+"/"+r.Prefix, "/"))
	if len(hooks) > 0 {
		fmt.Fprintf(w, "hooks      %s\n", strings.Join(hooks, ", "))
	}
	if state == spec.RolledBack {
		fmt.Fprintf(w, "rollback   data written on the target since the cutover: %s\n", orDash(string(c.Plan.Spec.Rollback.TargetWrites)))
	}
	fmt.Fprintf(w, "digest     %s\n", digest)
}

// signer finds the key; done frees the connection to the agent.
func (f *approveFlags) signer() (key ssh.Signer, comment string, done func(), err error) {
	done = func() {}
	if f.key == sshAgent {
		return fromAgent(nil)
	}
	data, err := os.ReadFile(f.key)
	if err != nil {
		return nil, "", done, fmt.Errorf("cannot read the key: %w; name it with --key", err)
	}
	if pub, comment, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
		key, _, done, err := fromAgent(pub)
		return key, comment, done, err
	}
	if pub, err := os.ReadFile(f.key + ".pub"); err == nil {
		_, comment, _, _, _ = ssh.ParseAuthorizedKey(pub) // only a name for the file
	}
	key, err = ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		word, asked := f.passphrase(f.key)
		if asked != nil {
			return nil, "", done, asked
		}
		key, err = ssh.ParsePrivateKeyWithPassphrase(data, word)
	}
	if err != nil {
		return nil, "", done, fmt.Errorf("cannot use key %s: %w; approvals need a private SSH key, or the .pub file of one that the agent holds", f.key, err)
	}
	return key, comment, done, nil
}

// fromAgent finds a key in the SSH agent: the given one, or the only one.
func fromAgent(want ssh.PublicKey) (key ssh.Signer, comment string, done func(), err error) {
	done = func() {}
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, "", done, errors.New("no SSH agent is running (SSH_AUTH_SOCK is not set): start one, or name a key file with --key")
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, "", done, fmt.Errorf("cannot reach the SSH agent: %w; name a key file with --key", err)
	}
	done = func() { _ = conn.Close() }
	client := agent.NewClient(conn)
	keys, err := client.List()
	signers, err2 := client.Signers()
	if err = errors.Join(err, err2); err != nil {
		done()
		return nil, "", func() {}, fmt.Errorf("cannot read the SSH agent's keys: %w", err)
	}
	var have []string
	for i, k := range keys {
		have = append(have, k.Comment)
		if i < len(signers) && (want == nil && len(keys) == 1 || want != nil && string(k.Blob) == string(want.Marshal())) {
			return signers[i], k.Comment, done, nil
		}
	}
	done()
	return nil, "", func() {}, fmt.Errorf("the SSH agent holds %d keys (%s): name the .pub file of the one to use with --key", len(keys), strings.Join(have, ", "))
}

func askPassphrase(file string) ([]byte, error) {
	fmt.Fprintf(os.Stderr, "passphrase of %s: ", file)
	word, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("cannot read the passphrase of %s from a terminal: %w; load the key into the SSH agent and name its .pub file with --key", file, err)
	}
	return word, nil
}

// fileName makes a name of a comment such as ada@example.com; a key without
// one is called by its fingerprint.
func fileName(name string, key ssh.Signer) string {
	name = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._@", r) {
			return r
		}
		return '-'
	}, name), "-.")
	if name == "" {
		return fileName(strings.TrimPrefix(ssh.FingerprintSHA256(key.PublicKey()), "SHA256:")[:16], key)
	}
	return name[:min(len(name), 64)]
}
