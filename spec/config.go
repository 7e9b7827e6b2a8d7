package spec

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DaemonConfig is the daemon's own configuration (--config). It never lives
// in the repository that it protects and is read again on SIGHUP.
type DaemonConfig struct {
	TypeMeta `json:",inline"`
	Metadata Metadata         `json:"metadata"`
	Spec     DaemonConfigSpec `json:"spec"`
}

// DaemonConfigSpec says where plans are read, where the ledger is written and
// with which limits.
type DaemonConfigSpec struct {
	Source Repository `json:"source"`
	Ledger Ledger     `json:"ledger"`
	// Interval between two polls; default 30s, spread by 10 %.
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Namespace of ours on both clusters; default "tranship-system".
	Namespace string `json:"namespace,omitempty"`
	Mover     Mover  `json:"mover"`
	Limits    Limits `json:"limits,omitempty"`
	// Shard makes this daemon one of several of one repository of plans.
	Shard *Shard `json:"shard,omitempty"`
	// Concurrency is the number of runs at a time; default 10.
	Concurrency int `json:"concurrency,omitempty"`
	// ConcurrencyPerPair is how many of them go on between the same source and
	// target cluster; default 5. Rollbacks and cancels wait for neither limit.
	ConcurrencyPerPair int `json:"concurrencyPerPair,omitempty"`
	// GitOutage is how long a run waits for a push that it needs before it
	// goes back to the source; a plan's cutover.gitOutage wins. Default 3m.
	GitOutage *metav1.Duration `json:"gitOutage,omitempty"`
	// Trust says whose signatures approve which plans. Plans that no policy covers
	// are approved by whoever can merge.
	Trust Trust `json:"trust,omitempty"`
	// Webhooks let a Git host ask for a poll at once; --listen serves them.
	Webhooks []Webhook `json:"webhooks,omitempty"`
}

// Shard is a part of the plans, with a ledger, an epoch and a daemon of its own:
// those below Paths whose labels match Selector. Either may be left out. Another
// plan is another daemon's: it is neither run nor recorded nor counted here. What
// is no plan belongs to all shards.
type Shard struct {
	// Name is recorded in the ledger, which no other shard may use; the default of
	// ledger.branch ends in it.
	Name string `json:"name"`
	// Paths are folders of the repository; none stands for all of them.
	Paths []string `json:"paths,omitempty"`
	// Selector is over metadata.labels of plans, as in Kubernetes. No plan may belong
	// to two shards: ShardProblems compares configurations.
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// The kinds of webhook: how the sender proves that it knows the secret.
const (
	WebhookGitHub          = "GitHub"
	WebhookGitLab          = "GitLab"
	WebhookGitea           = "Gitea" // and Forgejo
	WebhookBitbucket       = "Bitbucket"
	WebhookBitbucketServer = "BitbucketServer" // and Data Center
	WebhookStandard        = "Standard"        // Standard Webhooks, such as GitLab's signing tokens
	WebhookGeneric         = "Generic"
)

// Webhook is one sender that may ask for a poll. What it sends is never looked
// at otherwise.
type Webhook struct {
	Type string `json:"type"`
	// Secret is shared with the sender, at least 16 characters, with type Standard
	// whsec_ and the base64 of at least 24 bytes; default key "token".
	Secret SecretRef `json:"secret"`
}

// Repository is a Git repository, by an https:// or SSH address. docs/git.md
// lists the entries of the Secrets.
type Repository struct {
	URL string `json:"url"`
	// Branch, or for the source one of Tag, SemVer (the newest tag in a range)
	// and Ref (a full reference name); default the branch main.
	Branch string `json:"branch,omitempty"`
	Tag    string `json:"tag,omitempty"`
	SemVer string `json:"semver,omitempty"`
	Ref    string `json:"ref,omitempty"`
	Path   string `json:"path,omitempty"` // only documents below it
	// Ignore are patterns in the syntax of gitignore, from the repository's root:
	// documents that they match are not read. They come after those of the
	// repository's own .transhipignore files, and win.
	Ignore      []string   `json:"ignore,omitempty"`
	Credentials *SecretRef `json:"credentials,omitempty"`
	// Proxy names a Secret with address, and username and password where the
	// proxy wants them. Without it the environment decides.
	Proxy    *SecretRef       `json:"proxy,omitempty"`
	CABundle string           `json:"caBundle,omitempty"`
	Timeout  *metav1.Duration `json:"timeout,omitempty"` // of one Git call; default 60s
}

// Reads says what is read of the repository: a field of branch, tag, semver
// and ref, and its value.
func (r Repository) Reads() (field, value string) {
	for _, f := range []struct{ field, value string }{{"ref", r.Ref}, {"semver", r.SemVer}, {"tag", r.Tag}} {
		if f.value != "" {
			return f.field, f.value
		}
	}
	return "branch", either(r.Branch, DefaultBranch)
}

// Ledger says where records go; an empty URL means the source repository.
type Ledger struct {
	Repository `json:",inline"`
	// Author of the commits; default "Tranship <tranship@localhost>".
	AuthorName  string `json:"authorName,omitempty"`
	AuthorEmail string `json:"authorEmail,omitempty"`
	// BatchInterval is how long records that no run waits for are gathered; default 5s.
	BatchInterval *metav1.Duration `json:"batchInterval,omitempty"`
	// Rotation is Yearly (default): with the first change of a year the branch begins
	// anew, and the old one stays as <branch>-<year>; or Never.
	Rotation string `json:"rotation,omitempty"`
	// SigningKey names a secret with the private key that signs every commit: entry
	// identity (SSH) or openPGP, and password where it is locked.
	SigningKey *SecretRef `json:"signingKey,omitempty"`
	// Signers are the public keys that commits of the ledger may be signed with, those
	// of earlier years included; `tranship audit verify` asks for one of them.
	Signers []TrustedKey `json:"signers,omitempty"`
}

// The rotations of a ledger.
const (
	RotationYearly = "Yearly"
	RotationNever  = "Never"
)

// The ways to a receiver of a direct transfer.
const (
	ReceiverPodIP        = "PodIP"
	ReceiverNodePort     = "NodePort"
	ReceiverLoadBalancer = "LoadBalancer"
)

// Mover configures the Jobs that copy volumes.
type Mover struct {
	Image    string `json:"image"`
	CPU      string `json:"cpu,omitempty"`    // request, default 100m
	Memory   string `json:"memory,omitempty"` // limit, default 512Mi
	Parallel int    `json:"parallel,omitempty"`
	// HolderImage runs in application namespaces without any credential; default Image.
	HolderImage string `json:"holderImage,omitempty"`
	// KubeletRoot is where kubelets keep pods; default /var/lib/kubelet.
	KubeletRoot string `json:"kubeletRoot,omitempty"`
	// BytesPerSecond limits what one mover sends to the store, and what it receives from it: a
	// Kubernetes quantity such as 50Mi. Default: no limit.
	BytesPerSecond string `json:"bytesPerSecond,omitempty"`
	// Receiver is how the source's pods reach the target's movers in a direct transfer: by their
	// PodIP (default), or by a Service of type NodePort or LoadBalancer that is made for each.
	Receiver string `json:"receiver,omitempty"`
}

// Limits mirror CAM's (F-127..F-132): more namespaces are refused, more pods
// or volumes are a warning. Zero means CAM's default: 10, 100, 100.
type Limits struct {
	Namespaces int `json:"namespaces,omitempty"`
	Pods       int `json:"pods,omitempty"`
	Volumes    int `json:"volumes,omitempty"`
	// MoversPerCluster and MoversPerPlan are how many movers copy at a time on one
	// cluster, for all plans and for one; default 20 and 10. Others wait, but never
	// the last copy of a stopped application.
	MoversPerCluster int `json:"moversPerCluster,omitempty"`
	MoversPerPlan    int `json:"moversPerPlan,omitempty"`
}
