package spec

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// PlanStatus is status/<fan-out>/<plan>.yaml of the ledger: what is recorded
// of a plan. Conditions follow kstatus (Ready, Reconciling, Stalled); Summary
// types of ours stand beside them.
type PlanStatus struct {
	TypeMeta `json:",inline"`
	Metadata Metadata `json:"metadata"`
	// Recorded is what has been done; the desired state is in the plan itself.
	Recorded   Recorded           `json:"recorded"`
	Commit     string             `json:"commit,omitempty"` // newest commit that changed this plan's closure
	Digest     string             `json:"digest,omitempty"` // of the closure in Commit
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	Problems   []Problem          `json:"problems,omitempty"` // of the document, with file and line
	Volumes    []Volume           `json:"volumes,omitempty"`
	// Covers is what the newest run took hold of: other plans stay off it while
	// nobody can read this one's documents. Absent before the first run, and in
	// records of versions that did not keep it.
	Covers *Covered `json:"covers,omitempty"`
	// Scope is what the newest survey found; ApprovedScope what was known when the
	// cutover was approved or, with cutover.scope, the survey that found just that.
	Scope         *Scope `json:"scope,omitempty"`
	ApprovedScope *Scope `json:"approvedScope,omitempty"`

	WaitsFor  *Waiting      `json:"waitsFor,omitempty"`
	LastStage *StageNote    `json:"lastStage,omitempty"`
	NextStage *metav1.Time  `json:"nextStage,omitempty"`
	Missed    []metav1.Time `json:"missed,omitempty"` // newest 20 missed slots
	Estimate  *Estimate     `json:"estimate,omitempty"`
	// Migrated is the closure digest of the newest successful cutover.
	Migrated string `json:"migrated,omitempty"`
	// LastFailure is what the newest run said when it did not succeed.
	LastFailure string `json:"lastFailure,omitempty"`
	// Cut is what was left out for the status' size since the newest daemon that
	// knew all of it began.
	Cut *Cut `json:"cut,omitempty"`
}

// CutoverDigest is the digest that the finished cutover was approved with.
func (s *PlanStatus) CutoverDigest() string { return s.Migrated }

// Covered is where the objects of a plan are.
type Covered struct {
	Source        Place                 `json:"source"`
	Target        Place                 `json:"target"`
	Namespaces    []NamespaceMapping    `json:"namespaces"`
	LabelSelector *metav1.LabelSelector `json:"labelSelector,omitempty"`
}

// Place is a cluster by its document's name and, where that says it, by its
// address: two documents may stand for one cluster.
type Place struct {
	Cluster   string `json:"cluster"`
	Server    string `json:"server,omitempty"`
	InCluster bool   `json:"inCluster,omitempty"`
}

// Recorded is the part of a status that decisions are made from.
type Recorded struct {
	State State `json:"state,omitempty"` // Staged until a cutover finished
	// Since is the time of the commit in which the plan first appeared; absent
	// in records of versions that did not keep it.
	Since *metav1.Time `json:"since,omitempty"`
	// Seen* is the (state, attempt) of the plan in the newest accepted commit;
	// a difference to the next one is a flip.
	SeenState   State  `json:"seenState,omitempty"`
	SeenAttempt int    `json:"seenAttempt,omitempty"`
	Flip        *Flip  `json:"flip,omitempty"`    // accepted, and not yet served by a run
	OpenRun     string `json:"openRun,omitempty"` // name of the run that is going on
	LastRun     string `json:"lastRun,omitempty"` // newest finished run
	LastRunPath string `json:"lastRunPath,omitempty"`
	LastDigest  string `json:"lastDigest,omitempty"` // sha256 of its record
	Cutover     string `json:"cutover,omitempty"`    // newest successful cutover that is not rolled back
	CutoverPath string `json:"cutoverPath,omitempty"`
	// Live is since when the target of that cutover has its volumes and writes to
	// them; absent in records of versions that did not keep it.
	Live *metav1.Time `json:"live,omitempty"`
	// LastBackPath is the newest rollback of that cutover that failed, and SourceWritten
	// that one of them has begun to write into the source's volumes. Both go with it.
	LastBackPath  string `json:"lastBackPath,omitempty"`
	SourceWritten bool   `json:"sourceWritten,omitempty"`
	// Numbers holds the newest run number a kind.
	Numbers   map[RunKind]int `json:"numbers,omitempty"`
	Approvals []string        `json:"approvals,omitempty"` // commits whose approval is used up, for ever
	LastSlot  *metav1.Time    `json:"lastSlot,omitempty"`  // newest cron slot that was run or missed
	// HandledRequest is the newest stage.requestedAt that was served.
	HandledRequest *metav1.Time `json:"handledRequest,omitempty"`
	Unrecorded     bool         `json:"unrecorded,omitempty"` // appeared as Migrated, RolledBack or Closed: nothing starts by itself
	Removed        bool         `json:"removed,omitempty"`
	CutoverFailed  bool         `json:"cutoverFailed,omitempty"`  // no stage is due until Git says Staged
	RollbackFailed bool         `json:"rollbackFailed,omitempty"` // nobody knows on which side the application runs
	Trust          *TrustNote   `json:"trust,omitempty"`          // once an approval policy has held for the plan
}

// TrustNote is what is remembered of a plan whose approvals a policy judges.
type TrustNote struct {
	// Paths are files that the plan has been in, one for each policy that has ever
	// held for it: all of these hold, wherever the file is moved.
	Paths []string `json:"paths"`
	// Digest is the closure that was reached by approved changes only; "" for none.
	Digest string `json:"digest,omitempty"`
	// Attempt is the highest one that was approved: its signatures are used up.
	Attempt int `json:"attempt,omitempty"`
	// Asked is the highest one that was asked for without enough approvals: a signed
	// branch that may stand on it counts only for higher ones.
	Asked int `json:"asked,omitempty"`
	// Proposal is what Git asks for without enough approvals.
	Proposal *Proposal `json:"proposal,omitempty"`
}

// Proposal is a change of (state, attempt) that is not approved.
type Proposal struct {
	To      State  `json:"to"`
	Attempt int    `json:"attempt"`
	Digest  string `json:"digest"`
	// From is what goes on meanwhile.
	From        State `json:"from"`
	FromAttempt int   `json:"fromAttempt"`
	// Approval is of the commit that asks for it, with what its own signatures show.
	Approval Approval `json:"approval"`
	Reason   string   `json:"reason"`  // Unapproved or ApprovalUsed
	Message  string   `json:"message"` // who has signed, how many are missing, what to do
}

// Flip is an accepted change of (state, attempt).
type Flip struct {
	To       State    `json:"to"`
	Attempt  int      `json:"attempt"`
	Approval Approval `json:"approval"`
	Digest   string   `json:"digest"`
}

// Waiting is what a plan waits for: no wait without a reason and a deadline
// (safety property 9).
type Waiting struct {
	Reason   string       `json:"reason"`
	Message  string       `json:"message"`
	Object   string       `json:"object,omitempty"`
	Look     string       `json:"look,omitempty"`   // the command that shows the object
	Events   []string     `json:"events,omitempty"` // of the object, the newest first
	Since    metav1.Time  `json:"since"`
	Deadline *metav1.Time `json:"deadline,omitempty"`
}

// StageNote remembers the newest finished stage run.
type StageNote struct {
	Run          string      `json:"run"`
	Ended        metav1.Time `json:"ended"`
	Seconds      float64     `json:"seconds"`
	ChangedBytes int64       `json:"changedBytes"`
	Result       RunPhase    `json:"result"`
}

// Problem is one thing that is wrong with a document.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Path    string `json:"path,omitempty"` // field path, e.g. spec.namespaces[0].name
	Message string `json:"message"`
	// Document is "Kind/name" when the problem belongs to one document.
	Document string `json:"document,omitempty"`
}

// DaemonStatus is status/_daemon.yaml: the observed tip and who runs. It
// carries the epoch of the shard (one daemon at a time).
type DaemonStatus struct {
	TypeMeta  `json:",inline"`
	Version   string         `json:"version"`
	Commit    string         `json:"commit"` // observed tip
	Time      metav1.Time    `json:"time"`
	Epoch     int64          `json:"epoch"`
	Holder    string         `json:"holder"`
	Shard     string         `json:"shard,omitempty"`     // whose ledger it is
	Problems  []Problem      `json:"problems,omitempty"`  // that belong to no plan
	Documents map[string]int `json:"documents,omitempty"` // kind -> count
	Hold      *Waiting       `json:"hold,omitempty"`      // everything is held: rewritten branch, mass removal
	Accepted  string         `json:"accepted,omitempty"`  // newest accepted commit
	// Acknowledged is a commit that a person takes over with `tranship acknowledge`;
	// gone once a commit is accepted.
	Acknowledged string `json:"acknowledged,omitempty"`
	// LastHandledAt is when somebody last asked for a poll: a webhook, POST /reconcile or SIGHUP.
	LastHandledAt *metav1.Time `json:"lastHandledAt,omitempty"`
	// Trust says which plans no approval policy covers, and which keys count for nothing.
	Trust string `json:"trust,omitempty"`
}
