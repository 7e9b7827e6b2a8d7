package spec

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RunKind is the itinerary that a run follows.
type RunKind string

// Run kinds. A cutover is a run of kind Migrate; RunRollback undoes a
// finished cutover, RunClose ends a plan.
const (
	RunStage    RunKind = "stage"
	RunMigrate  RunKind = "migrate"
	RunRollback RunKind = "rollback"
	RunClose    RunKind = "close"
)

// RunPhase is where a run as a whole stands.
type RunPhase string

// Run phases. All but Running are final; a finished record is immutable.
const (
	RunRunning    RunPhase = "Running"
	RunSucceeded  RunPhase = "Succeeded"
	RunFailed     RunPhase = "Failed"     // failed, and everything that had been done is undone
	RunCanceled   RunPhase = "Canceled"   // undone because Git asked for it
	RunIncomplete RunPhase = "Incomplete" // failed, and the undo needs a person
)

// Run is the record of one execution: who approved it, the documents it was
// frozen with, and every step with its times, attempts and results. It lives
// at runs/<yyyy>/<mm>/<plan>/<run>.yaml of the ledger.
type Run struct {
	TypeMeta `json:",inline"`
	Metadata Metadata  `json:"metadata"`
	Spec     RunSpec   `json:"spec"`
	Steps    []Step    `json:"steps"`
	Facts    Facts     `json:"facts,omitempty"`
	Status   RunStatus `json:"status"`
	Cut      *Cut      `json:"cut,omitempty"` // what was left out for the record's size
	Redacted *Redacted `json:"redacted,omitempty"`
}

// Redacted counts secret values in a run's record and logs: those that were taken
// out, and those that nobody looks for.
type Redacted struct {
	Record int `json:"record,omitempty"` // places in the record with a mark instead
	Logs   int `json:"logs,omitempty"`   // and in the logs
	// NotSearched are values in the Secrets of the plan's namespaces that are too short
	// or too plain to be told from ordinary words. They may stand in the logs.
	NotSearched int `json:"notSearched,omitempty"`
}

// RunSpec is what a run was started with; it never changes.
type RunSpec struct {
	Plan       string       `json:"plan"`
	Kind       RunKind      `json:"kind"`
	Number     int          `json:"number"`
	Attempt    int          `json:"attempt,omitempty"` // cutover.attempt of the plan
	Commit     string       `json:"commit"`            // the commit that asked for the run
	ApprovedBy *Approval    `json:"approvedBy,omitempty"`
	Digest     string       `json:"digest"` // of the closure
	Closure    Closure      `json:"closure"`
	Slot       *metav1.Time `json:"slot,omitempty"`   // stage runs: the cron slot
	Undoes     string       `json:"undoes,omitempty"` // rollback runs: the cutover's name
	Epoch      int64        `json:"epoch"`
	Previous   string       `json:"previous,omitempty"` // sha256 of the plan's previous run record
}

// Approval says who merged what.
type Approval struct {
	Commit    string      `json:"commit"`
	Author    string      `json:"author"`
	Committer string      `json:"committer"`
	Time      metav1.Time `json:"time"`
	Subject   string      `json:"subject"`
	// Asked is the commit that changed the plan, where the signature that was
	// missing came in a later one.
	Asked string `json:"asked,omitempty"`
	// Signers are the keys that stand behind it, and Changer is the owner of the
	// one that signed the change itself; both only where a policy asked for them.
	Signers []Signer `json:"signers,omitempty"`
	Changer string   `json:"changer,omitempty"`
}

// Closure is a plan with every document that it refers to, as they were in
// one commit.
type Closure struct {
	Plan       MigrationPlan         `json:"plan"`
	Source     Cluster               `json:"source"`
	Target     Cluster               `json:"target"`
	Repository ReplicationRepository `json:"repository"`
	Hooks      []Hook                `json:"hooks,omitempty"`

	origin *origin // where the documents were read; nil in a record
}

// StepState is where one step stands.
type StepState string

// Step states. StepRunning means "may or may not have happened": intent is
// recorded before the effect.
const (
	StepPending  StepState = ""
	StepRunning  StepState = "Running"
	StepDone     StepState = "Done"
	StepFailed   StepState = "Failed"
	StepUndoing  StepState = "Undoing"
	StepUndone   StepState = "Undone"
	StepUndoFail StepState = "UndoFailed" // bounded retries spent; a warning after the source's restart, a stop before it
)

// Step is the record of one step of a run. Name and Verb are frozen.
type Step struct {
	Name    string            `json:"name"`
	Verb    string            `json:"verb"`
	Undo    string            `json:"undo,omitempty"`
	State   StepState         `json:"state,omitempty"`
	Attempt int               `json:"attempt,omitempty"` // of the do or, when undoing, of the undo; from 1
	Started *metav1.MicroTime `json:"started,omitempty"`
	Ended   *metav1.MicroTime `json:"ended,omitempty"`
	// Deadline of the current attempt; computed from Started, so that it survives restarts.
	Deadline *metav1.Time `json:"deadline,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	Message  string       `json:"message,omitempty"`
	Undid    *Undid       `json:"undid,omitempty"`
}

// Undid is the record of a step's undo.
type Undid struct {
	Started *metav1.MicroTime `json:"started,omitempty"`
	Ended   *metav1.MicroTime `json:"ended,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Message string            `json:"message,omitempty"`
}

// RunStatus sums a run up.
type RunStatus struct {
	Phase   RunPhase          `json:"phase"`
	Reason  string            `json:"reason,omitempty"`
	Message string            `json:"message,omitempty"`
	Started metav1.MicroTime  `json:"started"`
	Ended   *metav1.MicroTime `json:"ended,omitempty"`
	Cancel  string            `json:"cancel,omitempty"` // why the run must be undone, once decided
	// TargetDead is what somebody has said about the target, once it was said that
	// it is gone for good: its part of the undo is not waited for any more.
	TargetDead string   `json:"targetDead,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
	// StopSeconds is from the first workload scaled down on the source to the
	// target proven healthy; OwnSeconds is the part of it that the
	// application itself took to stop and to become ready.
	StopSeconds float64 `json:"stopSeconds,omitempty"`
	OwnSeconds  float64 `json:"ownSeconds,omitempty"`
}

// Facts are what the steps of a run found or made. Every step adds its own
// fields; later steps and the undo read them. They are part of the record, so
// a restarted daemon knows them.
type Facts struct {
	SourceUID  string      `json:"sourceUID,omitempty"` // UID of kube-system
	TargetUID  string      `json:"targetUID,omitempty"`
	Namespaces []Object    `json:"namespaces,omitempty"` // created by this run on the target
	Workloads  []Workload  `json:"workloads,omitempty"`  // what the stop's own list found
	Volumes    []Volume    `json:"volumes,omitempty"`
	Backup     string      `json:"backup,omitempty"`
	Restore    string      `json:"restore,omitempty"`
	Created    []Object    `json:"created,omitempty"` // on the target, by this run
	Traffic    []Traffic   `json:"traffic,omitempty"`
	Jobs       []Object    `json:"jobs,omitempty"` // hook Jobs
	Estimate   *Estimate   `json:"estimate,omitempty"`
	Times      []NamedTime `json:"times,omitempty"` // named instants, e.g. stop.begin, live
	// Skipped are objects of the target that were there before, are not of this
	// plan, and were left as they are (existing: Skip).
	Skipped []Object `json:"skipped,omitempty"`
	// Updated are objects of the target that were there before, are not of this
	// plan, and were made what the source has (existing: Update).
	Updated []Object `json:"updated,omitempty"`
	// OnTarget is what ran on the target when a rollback that copies back stopped
	// it: if that fails, it is started there so again.
	OnTarget []Workload `json:"onTarget,omitempty"`
	Counts   []Count    `json:"counts,omitempty"`
	Changes  []Change   `json:"changes,omitempty"`
	// Custom are the custom resources, and the pods without a controller, that the plan
	// moves, as they were on the source before anything was stopped.
	Custom []CustomResource `json:"custom,omitempty"`
}

// CustomResource is one that an operator acts on, or a pod without a controller.
type CustomResource struct {
	Object `json:",inline"`
	Ready  int32 `json:"ready,omitempty"` // pods below it that were ready; of a pod 1 when it was
	Back   bool  `json:"back,omitempty"`  // an undo found it and its pods as they were; what keeps it may go
}

// Count is how many objects of a kind the plan covered on the source when it
// had stopped, and how many of these were found on the target when it was healthy.
type Count struct {
	Kind   string `json:"kind"` // with its group: "Deployment.apps"
	Source int    `json:"source"`
	Target int    `json:"target"`
}

// Change is one field that objects have otherwise on the target than on the
// source, because of the move. Values of Secrets are never recorded.
type Change struct {
	Field string `json:"field"` // path in the object, without the indices of lists
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"` // empty: removed, or given by the target
	// Held says that it is so only until the application is started on the
	// target, or its traffic is opened.
	Held    bool     `json:"held,omitempty"`
	Objects []string `json:"objects"`        // of the source, the first 10 of them
	More    int      `json:"more,omitempty"` // objects beyond these
}

// NamedTime is an instant that later sums need.
type NamedTime struct {
	Name string           `json:"name"`
	Time metav1.MicroTime `json:"time"`
}

// Object identifies an object that a run made or changed.
type Object struct {
	Side       Side   `json:"side"`
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Resource   string `json:"resource,omitempty"` // plural, as in the URL
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`
}

// Workload is a thing that was scaled, with everything needed to put it back
// exactly (safety property 5).
type Workload struct {
	Object `json:",inline"`
	// Replicas is what was asked for; of a DaemonSet, how many nodes it ran on.
	Replicas int32 `json:"replicas"`
	Paused   bool  `json:"paused,omitempty"`
	// Suspended is a Job's or CronJob's own spec.suspend.
	Suspended bool `json:"suspended,omitempty"`
	// LastScheduled is a CronJob's status.lastScheduleTime at the stop: the
	// target must not run again what the source has run.
	LastScheduled string `json:"lastScheduled,omitempty"`
	// NodeSelector is the one of a DaemonSet's pods.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// Annotations are those by which the author of a ScaledObject or ScaledJob
	// has paused it.
	Annotations map[string]string `json:"annotations,omitempty"`
	// PartOf names what made the object and makes others on the target, such as
	// CronJob/nightly: it is stopped and put back on the source only.
	PartOf string `json:"partOf,omitempty"`
	// ClaimRetention is the StatefulSet's own policy before it was set to Retain/Retain.
	ClaimRetention *ClaimRetention `json:"claimRetention,omitempty"`
}

// ClaimRetention mirrors persistentVolumeClaimRetentionPolicy.
type ClaimRetention struct {
	WhenScaled  string `json:"whenScaled,omitempty"`
	WhenDeleted string `json:"whenDeleted,omitempty"`
}

// Mark is what a claim on the target holds (safety property 13).
type Mark string

// Marks: clean means that it holds Volume.Held completely; writing that it is
// on its way from Held to Snapshot; live that the application owns it; dirty
// that nothing may be assumed.
const (
	MarkNone    Mark = ""
	MarkClean   Mark = "clean"
	MarkWriting Mark = "writing"
	MarkLive    Mark = "live"
	MarkDirty   Mark = "dirty"
)

// Volume is one claim of a plan.
type Volume struct {
	Namespace        string                              `json:"namespace"`
	Claim            string                              `json:"claim"`
	ClaimUID         string                              `json:"claimUID,omitempty"`
	TargetNamespace  string                              `json:"targetNamespace"`
	TargetClaim      string                              `json:"targetClaim"`
	Action           string                              `json:"action"`
	Method           string                              `json:"method,omitempty"`
	StorageClassName string                              `json:"storageClassName,omitempty"` // on the target
	SnapshotClass    string                              `json:"snapshotClass,omitempty"`    // VolumeSnapshotClass on the source, method snapshot
	SnapshotPlugin   string                              `json:"snapshotPlugin,omitempty"`   // Velero's, whose provider takes the snapshots itself, method snapshot
	AccessModes      []corev1.PersistentVolumeAccessMode `json:"accessModes,omitempty"`
	Capacity         string                              `json:"capacity,omitempty"`
	VolumeMode       corev1.PersistentVolumeMode         `json:"volumeMode,omitempty"` // Block for a raw device, else empty
	Group            string                              `json:"group,omitempty"`      // claims mounted together by one pod: "<Kind>/<name>/<ordinal>"
	SourcePV         string                              `json:"sourcePV,omitempty"`
	SourcePolicy     string                              `json:"sourcePolicy,omitempty"` // reclaim policy before ours
	StagingClaim     string                              `json:"stagingClaim,omitempty"` // in our namespace on the target
	TargetPV         string                              `json:"targetPV,omitempty"`
	TargetHandle     string                              `json:"targetHandle,omitempty"`
	TargetPolicy     string                              `json:"targetPolicy,omitempty"` // reclaim policy of the target's class
	Mark             Mark                                `json:"mark,omitempty"`
	Held             string                              `json:"held,omitempty"`     // snapshot that the target claim holds completely
	Snapshot         string                              `json:"snapshot,omitempty"` // newest snapshot of the source
	// Transfer is Direct for a volume whose file contents go from mover to mover in this run.
	Transfer string `json:"transfer,omitempty"`
	// TransferReason says why a volume that should go directly goes through the repository in this run.
	TransferReason string   `json:"transferReason,omitempty"`
	Files          int64    `json:"files,omitempty"`
	Bytes          int64    `json:"bytes,omitempty"`
	ChangedFiles   int64    `json:"changedFiles,omitempty"`
	ChangedBytes   int64    `json:"changedBytes,omitempty"`
	Warnings       []string `json:"warnings,omitempty"`

	DiskBytes       int64          `json:"diskBytes,omitempty"` // that the files of the newest snapshot take up on the source
	SourceClassName string         `json:"sourceClassName,omitempty"`
	Owners          []string       `json:"owners,omitempty"`   // all that mount it, "<Kind>/<name>"
	Template        *ClaimTemplate `json:"template,omitempty"` // that it came from
	Notes           []string       `json:"notes,omitempty"`    // what is special about the way it will be migrated
	Verified        *Verified      `json:"verified,omitempty"` // the last verification of the copy
	Back            *CopiedBack    `json:"back,omitempty"`     // what a rollback brought back from the target
}

// CopiedBack is what a rollback with targetWrites: CopyBack knows of a volume.
type CopiedBack struct {
	// Cutover is the one that was taken back; the rest but Kept is about that.
	Cutover string `json:"cutover,omitempty"`
	// Kept are the snapshots of what the source's claim held before it was
	// overwritten, the newest last. They stay in the repository until the plan is closed.
	Kept []string `json:"kept,omitempty"`
	// Snapshot is the newest of the target's claim.
	Snapshot string `json:"snapshot,omitempty"`
	// Mark is the one of the source's claim: writing on its way from the newest
	// kept snapshot to Snapshot, clean when it holds that completely.
	Mark Mark `json:"mark,omitempty"`
	// Files and Bytes are those of Snapshot; NewBytes of it were not in the repository before.
	Files    int64 `json:"files,omitempty"`
	Bytes    int64 `json:"bytes,omitempty"`
	NewBytes int64 `json:"newBytes,omitempty"`
	// Continued says that an earlier try had written a part, which is not in what follows.
	Continued bool `json:"continued,omitempty"`
	// What was otherwise on the source: files rewritten there, bytes of them, and entries deleted.
	ChangedFiles   int64 `json:"changedFiles,omitempty"`
	WrittenBytes   int64 `json:"writtenBytes,omitempty"`
	DeletedEntries int64 `json:"deletedEntries,omitempty"`
}

// Verified is what reading a copy back from the target's disk has found. The
// checksums that it is compared with are those of the bytes read on the source.
type Verified struct {
	Run      string `json:"run"`
	Snapshot string `json:"snapshot"`
	// Complete says that the run has read back every file of the snapshot, and
	// not only those that it wrote. Files and Bytes count all that it has read back.
	Complete bool     `json:"complete,omitempty"`
	Files    int64    `json:"files"`
	Bytes    int64    `json:"bytes"`
	Errors   int64    `json:"errors,omitempty"` // entries that differ
	First    []string `json:"first,omitempty"`  // the first 20 of them
}

// ClaimTemplate is a volumeClaimTemplate of a StatefulSet and what it must say
// on the target, so that further ordinals get what the present ones have. What
// is empty stays as it is on the source.
type ClaimTemplate struct {
	StatefulSet      string                              `json:"statefulSet"`
	Name             string                              `json:"name"`
	StorageClassName string                              `json:"storageClassName,omitempty"`
	AccessModes      []corev1.PersistentVolumeAccessMode `json:"accessModes,omitempty"`
}

// Traffic is an object that leads users to the application, with its address
// on both clusters.
type Traffic struct {
	Object     `json:",inline"`
	OldAddress string `json:"oldAddress,omitempty"`
	NewAddress string `json:"newAddress,omitempty"`
}

// Estimate is what a stage run expects of the cutover. The cutover takes the
// newest one over and notes by how much it was wrong.
type Estimate struct {
	StopSeconds  float64 `json:"stopSeconds"`
	ChangedBytes int64   `json:"changedBytes"`
	// ErrorSeconds is the measured stop time minus StopSeconds; set by a
	// cutover that succeeded.
	ErrorSeconds *float64 `json:"errorSeconds,omitempty"`
}
