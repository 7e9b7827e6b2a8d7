package spec

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// TypeMeta is the head of every document.
type TypeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Metadata names a document. Names are unique per kind in one repository.
type Metadata struct {
	Name string `json:"name"`
}

// PlanMetadata names a plan, and says with labels which shard runs it, where
// shards are told by labels (Shard.Selector). They are part of what is approved.
type PlanMetadata struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// SecretRef points at secret values outside Git: a Kubernetes Secret of the
// daemon's own namespace called From, or the directory From below the
// daemon's --secrets-dir. Key is the entry (a file name in the latter case);
// each field that takes a SecretRef documents its default keys.
type SecretRef struct {
	From string `json:"from"`
	Key  string `json:"key,omitempty"`
}

// Cluster is a source or target of migrations (CAM: MigCluster, F-105..F-113).
type Cluster struct {
	TypeMeta `json:",inline"`
	Metadata Metadata    `json:"metadata"`
	Spec     ClusterSpec `json:"spec"`
}

// ClusterSpec says how to reach a cluster. Exactly one of Server, Kubeconfig
// and InCluster is set.
type ClusterSpec struct {
	Server                string     `json:"server,omitempty"`
	Token                 *SecretRef `json:"token,omitempty"`      // default key "token"
	Kubeconfig            *SecretRef `json:"kubeconfig,omitempty"` // default key "kubeconfig"
	InCluster             bool       `json:"inCluster,omitempty"`
	CABundle              string     `json:"caBundle,omitempty"` // PEM
	InsecureSkipTLSVerify bool       `json:"insecureSkipTLSVerify,omitempty"`
	Registry              string     `json:"registry,omitempty"`
	VeleroNamespace       string     `json:"veleroNamespace,omitempty"` // default "velero"
	AzureResourceGroup    string     `json:"azureResourceGroup,omitempty"`
}

// ReplicationRepository is the object storage between the clusters (CAM:
// MigStorage, F-114..F-126).
type ReplicationRepository struct {
	TypeMeta `json:",inline"`
	Metadata Metadata       `json:"metadata"`
	Spec     RepositorySpec `json:"spec"`
}

// Provider is a kind of object storage.
type Provider string

// Providers. ProviderAWS serves every S3: AWS, MinIO, Ceph, Multi-Cloud Object Gateway.
const (
	ProviderAWS   Provider = "aws"
	ProviderGCP   Provider = "gcp"
	ProviderAzure Provider = "azure"
)

// RepositorySpec locates the bucket. Credentials default keys: "accessKey"
// and "secretKey" (aws), "cloud" (gcp JSON, azure INI). Encryption protects
// the volume data; its default key is "password".
type RepositorySpec struct {
	Provider              Provider   `json:"provider"`
	Bucket                string     `json:"bucket"`
	Prefix                string     `json:"prefix,omitempty"`
	Region                string     `json:"region,omitempty"`
	Endpoint              string     `json:"endpoint,omitempty"`
	Credentials           *SecretRef `json:"credentials"`
	Encryption            *SecretRef `json:"encryption"`
	CABundle              string     `json:"caBundle,omitempty"` // PEM
	InsecureSkipTLSVerify bool       `json:"insecureSkipTLSVerify,omitempty"`
	AzureStorageAccount   string     `json:"azureStorageAccount,omitempty"`
	AzureResourceGroup    string     `json:"azureResourceGroup,omitempty"`
}

// Hook is work of the user's at a certain point of a run (CAM: MigHook,
// F-066..F-080): an image with a command, or an Ansible playbook of the same
// commit.
type Hook struct {
	TypeMeta `json:",inline"`
	Metadata Metadata `json:"metadata"`
	Spec     HookSpec `json:"spec"`
}

// HookSpec describes the Job. BackoffLimit defaults to 6 (F-079),
// ActiveDeadline to 30m.
type HookSpec struct {
	Image          string           `json:"image,omitempty"`
	Command        []string         `json:"command,omitempty"`
	Args           []string         `json:"args,omitempty"`
	Playbook       string           `json:"playbook,omitempty"`
	BackoffLimit   *int32           `json:"backoffLimit,omitempty"`
	ActiveDeadline *metav1.Duration `json:"activeDeadline,omitempty"`
}

// MigrationPlan is what people approve (CAM: MigPlan, F-134..F-142).
type MigrationPlan struct {
	TypeMeta `json:",inline"`
	Metadata PlanMetadata `json:"metadata"`
	Spec     PlanSpec     `json:"spec"`
}

// State is what a plan asks for.
type State string

// States of a plan. The flip from one to another, merged, is the approval.
const (
	Staged     State = "Staged"
	Migrated   State = "Migrated"
	RolledBack State = "RolledBack"
	Closed     State = "Closed"
)

// PlanSpec is the body of a MigrationPlan; ARCHITECTURE.md gives the meaning
// of every field.
type PlanSpec struct {
	State                 State                 `json:"state"`
	Suspend               *Suspend              `json:"suspend,omitempty"`
	SourceCluster         string                `json:"sourceCluster"`
	TargetCluster         string                `json:"targetCluster"`
	ReplicationRepository string                `json:"replicationRepository"`
	Namespaces            []NamespaceMapping    `json:"namespaces"`
	LabelSelector         *metav1.LabelSelector `json:"labelSelector,omitempty"`
	Volumes               Volumes               `json:"volumes,omitempty"`
	Hooks                 []PlanHook            `json:"hooks,omitempty"`
	Stage                 Stage                 `json:"stage,omitempty"`
	Windows               []Window              `json:"windows,omitempty"`
	Cutover               Cutover               `json:"cutover,omitempty"`
	Rollback              Rollback              `json:"rollback,omitempty"`
	Existing              ExistingPolicy        `json:"existing,omitempty"` // default Fail
	// DependsOn names plans that come first: a cutover waits until each of them is
	// migrated, a stage run until each was staged once.
	DependsOn []string `json:"dependsOn,omitempty"`
}

// Suspend stops new stage runs and cutovers, with a reason for people.
type Suspend struct {
	Reason string       `json:"reason"`
	Until  *metav1.Time `json:"until,omitempty"`
}

// NamespaceMapping names a source namespace and, if it differs, its name on
// the target.
type NamespaceMapping struct {
	Name       string `json:"name"`
	TargetName string `json:"targetName,omitempty"`
}

// Target is the namespace's name on the target cluster.
func (n NamespaceMapping) Target() string {
	if n.TargetName != "" {
		return n.TargetName
	}
	return n.Name
}

// Volumes says what happens to the persistent volume claims of a plan. A claim
// with volumeMode Block is copied as the device that it is, whatever is on it; its
// class on the target must give devices too, and it is at least as large. Method
// filesystem is the word for both: through the mover, and not by snapshots.
type Volumes struct {
	Defaults  VolumeDefaults   `json:"defaults,omitempty"`
	Overrides []VolumeOverride `json:"overrides,omitempty"`
}

// VolumeDefaults hold for every claim without an override. Empty fields mean
// copy, filesystem, no verify, Fail, Repository.
type VolumeDefaults struct {
	Action string `json:"action,omitempty"` // copy | move | skip (F-052, F-053)
	Method string `json:"method,omitempty"` // filesystem | snapshot (F-056, F-058)
	// Verify reads the copy back from the target's disk and compares it with the
	// checksums of what was read on the source, metadata included (F-061). A stage
	// run reads back what it wrote; a cutover everything, before the stop, and in
	// the last restore what that wrote. It costs one more read of the target.
	Verify bool `json:"verify,omitempty"`
	// OnVerifyError is Fail or Warn: with Fail the step fails with VerifyErrors
	// and is tried again, with Warn the run goes on and the plan has the condition
	// VerifyErrors (F-179).
	OnVerifyError string `json:"onVerifyError,omitempty"`
	// Transfer is Repository or Direct, which is past the repository: from mover to
	// mover with method filesystem, by snapshots that the volume's provider takes
	// itself with method snapshot, where both clusters are in one of its regions.
	Transfer string `json:"transfer,omitempty"`
}

// VolumeOverride is the exception for one claim of the source.
type VolumeOverride struct {
	Namespace        string `json:"namespace"`
	Claim            string `json:"claim"`
	Action           string `json:"action,omitempty"`
	Method           string `json:"method,omitempty"`
	Verify           *bool  `json:"verify,omitempty"`
	OnVerifyError    string `json:"onVerifyError,omitempty"`
	Transfer         string `json:"transfer,omitempty"`
	StorageClassName string `json:"storageClassName,omitempty"` // F-063
	AccessMode       string `json:"accessMode,omitempty"`
	TargetClaim      string `json:"targetClaim,omitempty"`
}

// Phase is a point of a run at which hooks may run (F-070..F-073).
type Phase string

// Hook phases.
const (
	PreBackup   Phase = "PreBackup"
	PostBackup  Phase = "PostBackup"
	PreRestore  Phase = "PreRestore"
	PostRestore Phase = "PostRestore"
)

// Side is one of the two clusters of a plan.
type Side string

// Sides.
const (
	Source Side = "source"
	Target Side = "target"
)

// PlanHook runs a Hook in a phase. Cluster defaults to source for the backup
// phases and to target for the restore phases; Runs defaults to [Cutover].
type PlanHook struct {
	Hook               string   `json:"hook"`
	Phase              Phase    `json:"phase"`
	Cluster            Side     `json:"cluster,omitempty"`
	Namespace          string   `json:"namespace"`
	ServiceAccountName string   `json:"serviceAccountName,omitempty"` // default "default"
	Runs               []string `json:"runs,omitempty"`               // Cutover | Stage
	// Undo names a Hook that takes back what a PreBackup hook of cutovers has done
	// on the source. It runs when a run that has started the hook is undone, canceled
	// or rolled back, before the source's workloads are started, until it succeeds.
	Undo string `json:"undo,omitempty"`
}

// Side is the cluster on which the hook runs.
func (h PlanHook) Side() Side {
	if h.Cluster != "" {
		return h.Cluster
	}
	if h.Phase == PreBackup || h.Phase == PostBackup {
		return Source
	}
	return Target
}

// Stage plans the copies ahead of the cutover (F-143, F-144). Schedule is a
// five-field cron expression read in TimeZone (IANA, default UTC).
type Stage struct {
	Schedule         string           `json:"schedule,omitempty"`
	TimeZone         string           `json:"timeZone,omitempty"`
	StartingDeadline *metav1.Duration `json:"startingDeadline,omitempty"` // default 1h
	RequestedAt      *metav1.Time     `json:"requestedAt,omitempty"`
}

// Window allows or denies the start of runs: recurring (Schedule + Duration)
// or once (From + To). Deny wins.
type Window struct {
	Kind     string           `json:"kind"` // Allow | Deny
	Schedule string           `json:"schedule,omitempty"`
	Duration *metav1.Duration `json:"duration,omitempty"`
	From     *metav1.Time     `json:"from,omitempty"`
	To       *metav1.Time     `json:"to,omitempty"`
	TimeZone string           `json:"timeZone,omitempty"`
	Applies  []string         `json:"applies,omitempty"` // Stage | Cutover; default both
}

// Cutover governs the final migration. Defaults: quiesce true, onFailure
// RollBack, onWindowClose PauseAtSafePoint, timeout 4h, copyTimeout 1h
// (CAM's restic_timeout, F-177), healthTimeout 10m, gitOutage 3m, attempt 1.
type Cutover struct {
	Quiesce       *bool            `json:"quiesce,omitempty"` // F-146
	NotBefore     *metav1.Time     `json:"notBefore,omitempty"`
	NotAfter      *metav1.Time     `json:"notAfter,omitempty"`
	OnFailure     string           `json:"onFailure,omitempty"`     // RollBack | Stop
	OnWindowClose string           `json:"onWindowClose,omitempty"` // Finish | PauseAtSafePoint | Cancel
	Timeout       *metav1.Duration `json:"timeout,omitempty"`
	CopyTimeout   *metav1.Duration `json:"copyTimeout,omitempty"`
	HealthTimeout *metav1.Duration `json:"healthTimeout,omitempty"`
	GitOutage     *metav1.Duration `json:"gitOutage,omitempty"`
	Attempt       int              `json:"attempt,omitempty"`
	// Scope is the digest of what the plan covers, as `tranship plan` shows it. With
	// it the cutover starts only while the plan covers exactly that.
	Scope string `json:"scope,omitempty"`
}

// Rollback governs what an undo keeps. KeepVolumes defaults to true.
type Rollback struct {
	KeepVolumes  *bool  `json:"keepVolumes,omitempty"`
	TargetWrites string `json:"targetWrites,omitempty"` // Discard | CopyBack
}

// ExistingPolicy says what happens to objects on the target that are not ours.
type ExistingPolicy string

// Existing policies.
const (
	ExistingFail   ExistingPolicy = "Fail"
	ExistingSkip   ExistingPolicy = "Skip"
	ExistingUpdate ExistingPolicy = "Update"
)
