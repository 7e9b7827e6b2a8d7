package spec

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Defaults of the daemon's configuration.
const (
	DefaultBranch        = "main"
	DefaultLedgerBranch  = "tranship/ledger"
	DefaultInterval      = 30 * time.Second
	DefaultGitTimeout    = 60 * time.Second
	DefaultBatchInterval = 5 * time.Second
	DefaultGitOutage     = 3 * time.Minute
	DefaultConcurrency   = 10
	DefaultPerPair       = 5
)

// DecodeConfig reads the daemon's configuration strictly and fills defaults
// in. An empty ledger URL becomes the source's, with its credentials. With any
// problem the configuration is nil.
func DecodeConfig(path string, data []byte) (*DaemonConfig, []Problem) {
	d := &Document{Kind: KindDaemonConfig, File: path, Line: 1, text: data}
	fail := func(message string) (*DaemonConfig, []Problem) {
		d.add(nil, "", message)
		return nil, d.Problems
	}
	if len(data) > MaxFileBytes {
		return fail(fmt.Sprintf("the file has %d bytes, more than the %d that are read", len(data), MaxFileBytes))
	}
	root, err := parse(data)
	if err != nil {
		broken := brokenDocument(path, chunk{text: data}, err)
		return nil, broken.Problems
	}
	if root == nil {
		return fail("the file is empty: it needs a document of kind DaemonConfig")
	}
	h := readHead(root)
	if h.apiVersion != APIVersion {
		_, v, _ := strings.Cut(h.apiVersion, "/")
		return fail(versionSentence(h.apiVersion, v))
	}
	if h.kind != KindDaemonConfig {
		return fail(fmt.Sprintf("kind is %s: the daemon's configuration is a document of kind %s", quote(h.kind), KindDaemonConfig))
	}
	d.Line, d.Name = root.Line, h.name
	config := &DaemonConfig{}
	d.fill(root, config)
	if len(d.Problems) > 0 {
		return nil, d.Problems
	}
	config.setDefaults()
	return config, nil
}

func (c *DaemonConfig) setDefaults() {
	s := &c.Spec
	if s.Ledger.URL == "" {
		s.Ledger.URL, s.Ledger.CABundle = s.Source.URL, either(s.Ledger.CABundle, s.Source.CABundle)
		if s.Ledger.Credentials == nil {
			s.Ledger.Credentials = s.Source.Credentials
		}
		if s.Ledger.Proxy == nil {
			s.Ledger.Proxy = s.Source.Proxy
		}
	}
	ledger := DefaultLedgerBranch
	if s.Shard != nil {
		ledger += "-" + s.Shard.Name
	}
	if field, value := s.Source.Reads(); field == "branch" {
		s.Source.Branch = value
	}
	for _, f := range []struct {
		v   *string
		def string
	}{
		{&s.Ledger.Branch, ledger}, {&s.Namespace, DefaultNamespace},
		{&s.Ledger.AuthorName, "Tranship"}, {&s.Ledger.AuthorEmail, "tranship@localhost"},
		{&s.Mover.CPU, "100m"}, {&s.Mover.Memory, "512Mi"}, {&s.Mover.HolderImage, s.Mover.Image}, {&s.Mover.KubeletRoot, "/var/lib/kubelet"},
		{&s.Mover.Receiver, ReceiverPodIP},
	} {
		*f.v = either(*f.v, f.def)
	}
	for _, f := range []struct {
		v   **metav1.Duration
		def time.Duration
	}{
		{&s.Interval, DefaultInterval}, {&s.Source.Timeout, DefaultGitTimeout}, {&s.Ledger.Timeout, DefaultGitTimeout},
		{&s.Ledger.BatchInterval, DefaultBatchInterval}, {&s.GitOutage, DefaultGitOutage},
	} {
		*f.v = &metav1.Duration{Duration: orDefault(*f.v, f.def)}
	}
	s.Limits = s.Limits.OrDefault()
	if s.Concurrency == 0 {
		s.Concurrency = DefaultConcurrency
	}
	if s.ConcurrencyPerPair == 0 {
		s.ConcurrencyPerPair = DefaultPerPair
	}
}

var endsInYear = regexp.MustCompile(`(^|-)[0-9]{4}$`)

var (
	branchName = &nameRule{regexp.MustCompile(`^[A-Za-z0-9_][-A-Za-z0-9_]*(\.[-A-Za-z0-9_]+)*(/[A-Za-z0-9_][-A-Za-z0-9_]*(\.[-A-Za-z0-9_]+)*)*$`), 200,
		"the short name of a branch, such as main or team/plans"}
	tagName = &nameRule{regexp.MustCompile(`^[A-Za-z0-9_][-A-Za-z0-9_+]*(\.[-A-Za-z0-9_+]+)*(/[A-Za-z0-9_][-A-Za-z0-9_+]*(\.[-A-Za-z0-9_+]+)*)*$`), 200,
		"the short name of a tag, such as v1.2.3"}
	refName = &nameRule{regexp.MustCompile(`^refs(/[A-Za-z0-9_][-A-Za-z0-9_+]*(\.[-A-Za-z0-9_+]+)*)+$`), 200,
		"a full reference name, such as refs/heads/main or refs/pull/7/head"}
	folder = &nameRule{regexp.MustCompile(`^[-_A-Za-z0-9]+(\.[-_A-Za-z0-9]+)*(/[-_A-Za-z0-9]+(\.[-_A-Za-z0-9]+)*)*$`), 512,
		"a folder of the repository such as clusters/plans, without './', '..' and '/' at its ends"}
	quantity     = &nameRule{regexp.MustCompile(`^[0-9]+(\.[0-9]+)?(m|k|M|G|Ki|Mi|Gi)?$`), 32, "a Kubernetes quantity such as 100m or 512Mi"}
	absolutePath = &nameRule{regexp.MustCompile(`^(/[-_A-Za-z0-9]+(\.[-_A-Za-z0-9]+)*)+$`), 512, "an absolute path such as /var/lib/kubelet"}
	authorName   = &nameRule{regexp.MustCompile(`^[^<>\n\r\x00]+$`), 128, "a name without '<', '>' and line breaks"}
	authorEmail  = &nameRule{regexp.MustCompile(`^[^<>\s\x00]+@[^<>\s\x00]+$`), 254, "an e-mail address"}
)

var configRules = map[string]rule{
	"metadata.name":                {name: subdomain},
	"spec.source.url":              {need: "the URL of the repository that holds the plans, such as https://git.example.com/team/plans.git"},
	"spec.source.branch":           {name: branchName},
	"spec.source.tag":              {name: tagName},
	"spec.source.ref":              {name: refName},
	"spec.source.path":             {name: folder},
	"spec.source.credentials.from": {need: "the name of a Secret in the daemon's namespace", name: subdomain},
	"spec.source.credentials.key":  {name: secretKey},
	"spec.source.proxy.from":       {need: "the name of a Secret in the daemon's namespace", name: subdomain},
	"spec.ledger.proxy.from":       {need: "the name of a Secret in the daemon's namespace", name: subdomain},
	"spec.ledger.branch":           {name: branchName},
	"spec.ledger.credentials.from": {need: "the name of a Secret in the daemon's namespace", name: subdomain},
	"spec.ledger.credentials.key":  {name: secretKey},
	"spec.ledger.authorName":       {name: authorName},
	"spec.ledger.rotation":         {enum: []string{RotationYearly, RotationNever}},
	"spec.ledger.signingKey.from":  {need: "the name of a Secret in the daemon's namespace", name: subdomain},
	"spec.ledger.signingKey.key":   {name: secretKey},
	"spec.ledger.signers[].name":   {need: "a name for the key, which reports use", name: subdomain},
	"spec.ledger.signers[].owner":  {need: "who holds the key", name: authorName},
	"spec.ledger.authorEmail":      {name: authorEmail},
	"spec.namespace":               {name: label},
	"spec.shard.name":              {need: "a short name that no other shard of this repository has", name: label},
	"spec.shard.paths[]":           {name: folder},
	"spec.mover.image":             {need: "the image that holds the tranship program; the Jobs that copy volumes run it", name: imageName},
	"spec.mover.cpu":               {name: quantity},
	"spec.mover.memory":            {name: quantity},
	"spec.mover.bytesPerSecond":    {name: quantity},
	"spec.mover.holderImage":       {name: imageName},
	"spec.mover.kubeletRoot":       {name: absolutePath},
	"spec.webhooks[].type": {need: "who sends it: GitHub, GitLab, Gitea, Bitbucket, BitbucketServer, Standard or Generic",
		enum: []string{WebhookGitHub, WebhookGitLab, WebhookGitea, WebhookBitbucket, WebhookBitbucketServer, WebhookStandard, WebhookGeneric}},
	"spec.webhooks[].secret.from":  {need: "the name of a Secret in the daemon's namespace with the key token", name: subdomain},
	"spec.webhooks[].secret.key":   {name: secretKey},
	"spec.mover.receiver":          {enum: []string{ReceiverPodIP, ReceiverNodePort, ReceiverLoadBalancer}},
	"spec.trust.keys[].name":       {need: "a name for the key, which policies and records use", name: label},
	"spec.trust.keys[].owner":      {need: "the person who holds the key", name: authorName},
	"spec.trust.hostKeys[]":        {name: label},
	"spec.trust.policies[].paths":  {need: "patterns over the files of plans, such as [plans/prod/**]"},
	"spec.trust.policies[].keys":   {need: "the names of the keys that count"},
	"spec.trust.policies[].keys[]": {name: label},
	"spec.trust.policies[].ways":   {need: "SignedCommits, Signatures, MergeCommits, or several of them"},
	"spec.trust.policies[].ways[]": {enum: []string{string(SignedCommits), string(Signatures), string(MergeCommits)}},
}

// config holds the rules about several fields of the configuration.
func (c checker) config(s *DaemonConfigSpec) {
	c.git("spec.source", &s.Source)
	c.git("spec.ledger", &s.Ledger.Repository)
	c.trust(&s.Trust)
	c.reads(&s.Source)
	for _, f := range []struct{ field, value string }{{"path", s.Ledger.Path}, {"tag", s.Ledger.Tag}, {"semver", s.Ledger.SemVer}, {"ref", s.Ledger.Ref}} {
		if f.value != "" {
			c.addf("spec.ledger."+f.field, "%s goes with source only; the ledger is a branch with its own layout: remove it", f.field)
		}
	}
	if len(s.Ledger.Ignore) > 0 {
		c.addf("spec.ledger.ignore", "ignore goes with source only; the ledger is read whole: remove it")
	}
	for i, p := range s.Source.Ignore {
		if problem := PatternProblem(p); problem != "" {
			c.addf(fmt.Sprintf("spec.source.ignore[%d]", i), "%s", problem)
		}
	}
	if k := s.Ledger.SigningKey; k != nil && k.Key != "" {
		c.addf("spec.ledger.signingKey.key", "the entries of this Secret have fixed names, identity or openPGP, and password: remove key")
	}
	for i, k := range s.Ledger.Signers {
		if (k.SSH == "") == (k.OpenPGP == "") {
			c.addf(fmt.Sprintf("spec.ledger.signers[%d]", i), "a signer has one key: write either ssh or openPGP")
		}
	}
	same := s.Ledger.URL == "" || sameRepository(s.Ledger.URL, s.Source.URL)
	if branch := either(s.Ledger.Branch, DefaultLedgerBranch); same && (branch == s.Source.branch() || s.Source.Ref == "refs/heads/"+branch) {
		c.addf("spec.ledger.branch", "the ledger must not be written to %s, the branch that people merge to: write another name, such as %s", quote(branch), DefaultLedgerBranch)
	}
	for path, n := range map[string]int{
		"spec.limits.namespaces": s.Limits.Namespaces, "spec.limits.pods": s.Limits.Pods, "spec.limits.volumes": s.Limits.Volumes,
		"spec.limits.moversPerCluster": s.Limits.MoversPerCluster, "spec.limits.moversPerPlan": s.Limits.MoversPerPlan,
		"spec.concurrency": s.Concurrency, "spec.concurrencyPerPair": s.ConcurrencyPerPair, "spec.mover.parallel": s.Mover.Parallel,
	} {
		if n < 0 {
			c.addf(path, "%s must be 0 (the default) or more, not %d", leafName(path), n)
		}
	}
	c.shard(s)
	if s.Interval != nil && s.Interval.Duration > 0 && s.Interval.Duration < time.Second {
		c.addf("spec.interval", "interval must be 1s or longer, not %s", s.Interval.Duration)
	}
}

func (c checker) shard(s *DaemonConfigSpec) {
	if s.Shard == nil {
		return
	}
	if endsInYear.MatchString(s.Shard.Name) {
		c.addf("spec.shard.name", "name must not end in a year, as the branches do that keep old ledgers: write another one")
	}
	for i, p := range s.Shard.Paths {
		if !covers(s.Source.Path, p) {
			c.addf(fmt.Sprintf("spec.shard.paths[%d]", i), "nothing outside of source.path is read: write a folder below %s", s.Source.Path)
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s.Shard.Selector)
	switch {
	case err != nil:
		c.addf("spec.shard.selector", "selector cannot be understood: %v", err)
	case s.Shard.Selector != nil && selector.Empty():
		c.addf("spec.shard.selector", "selector is empty and would match every plan: write matchLabels or matchExpressions, or remove it")
	case s.Shard.Selector == nil && len(s.Shard.Paths) == 0:
		c.addf("spec.shard", "shard does not say which plans this daemon runs: write paths, the folders that hold them, or selector, over metadata.labels of plans")
	}
}

// branch is the branch that is read, "" when something else is.
func (r *Repository) branch() string {
	if field, value := r.Reads(); field == "branch" {
		return value
	}
	return ""
}

// reads allows one of branch, tag, semver and ref.
func (c checker) reads(r *Repository) {
	read, _ := r.Reads()
	for _, f := range []struct{ field, value string }{{"branch", r.Branch}, {"tag", r.Tag}, {"semver", r.SemVer}} {
		if f.value != "" && f.field != read {
			c.addf("spec.source."+f.field, "only one of branch, tag, semver and ref says what is read: remove %s or %s", f.field, read)
		}
	}
	if _, err := semver.NewConstraint(r.SemVer); r.SemVer != "" && err != nil {
		c.addf("spec.source.semver", "semver must be a range of versions, such as '>=1.2.0 <2.0.0', not %s", quote(r.SemVer))
	}
}

// git checks a repository's address. file:// and plain paths serve tests and
// trials on one machine.
func (c checker) git(path string, r *Repository) {
	if r.CABundle != "" {
		c.certificates(path+".caBundle", r.CABundle)
	}
	if r.Proxy != nil && r.Proxy.Key != "" {
		c.addf(path+".proxy.key", "a proxy is more than one entry of its Secret (address, username, password): remove key")
	}
	if r.URL == "" {
		return
	}
	if _, ok := SSHAddress(r.URL); ok {
		c.overSSH(path, r)
		return
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		c.addf(path+".url", "url cannot be understood: write one such as https://git.example.com/team/plans.git, not %s", quote(redactURL(r.URL)))
		return
	}
	switch {
	case u.Scheme == "https" || u.Scheme == "http":
		if u.Host == "" {
			c.addf(path+".url", "url has no host: write one such as https://git.example.com/team/plans.git")
		}
		if u.User != nil {
			c.addf(path+".url", "url must not hold a user or password: put them into the Secret that credentials names")
		}
		if u.Scheme == "http" && r.Credentials != nil {
			c.addf(path+".credentials", "credentials never go over http://, where everybody on the way can read them: write https:// in url")
		}
	case u.Scheme == "file" || u.Scheme == "" && strings.HasPrefix(r.URL, "/"):
	default:
		c.addf(path+".url", "url must start with https:// or ssh://, or be like git@git.example.com:team/plans.git, not %s", quote(redactURL(r.URL)))
	}
}

// overSSH refuses what has no meaning on an SSH connection.
func (c checker) overSSH(path string, r *Repository) {
	if r.Credentials == nil {
		c.addf(path+".credentials", "credentials is missing: SSH needs a Secret with the entries identity and known_hosts")
	}
	if r.Proxy != nil {
		c.addf(path+".proxy", "proxy goes with https:// only: remove it")
	}
	if r.CABundle != "" {
		c.addf(path+".caBundle", "caBundle goes with https:// only; an SSH server is known by the Secret's known_hosts: remove it")
	}
}

// sameRepository compares addresses as Git servers do: without ".git", the
// last slash, and the case of the host.
func sameRepository(a, b string) bool {
	plain := func(s string) string {
		if a, ok := SSHAddress(s); ok {
			s = a.String()
		}
		s = strings.TrimSuffix(strings.TrimRight(s, "/"), ".git")
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			u.Host, u.User = strings.ToLower(u.Host), nil
			return u.Host + strings.TrimRight(u.Path, "/")
		}
		return strings.TrimPrefix(s, "file://")
	}
	return plain(a) == plain(b)
}
