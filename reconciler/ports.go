// Package reconciler is Tranship's core. Itineraries are tables (itinerary.go),
// a run freezes one of them (freeze.go), Decide and Next are pure functions
// from what is desired, recorded and observed to exactly one decision
// (decide.go, next.go), policies filter decisions (policy.go), and loop.go is
// the only file with effects. The interfaces of the outer world are declared
// here, where they are used.
package reconciler

import (
	"context"
	"time"

	"github.com/tranship/tranship/spec"
)

// Call names one effect: a step of a run, forwards or backwards, in one
// attempt. The same Call always means the same objects: names are derived
// from it, never generated.
type Call struct {
	Run  *spec.Run // frozen documents and the facts recorded so far; read only
	Step spec.Step // Step.Attempt is the attempt of the effect
	Verb string    // the step's Verb or Undo
	Undo bool
}

// Seen is what the clusters show of a Call.
type Seen int

// What a Look can find. Broken ends the attempt; Final in the Observation
// says that no other attempt can help.
const (
	Absent Seen = iota
	Working
	Succeeded
	Broken
)

// Observation is the answer of a Look.
type Observation struct {
	Seen    Seen
	Reason  string   // CamelCase, for conditions
	Message string   // one sentence: what, which object, what to do next
	Object  string   // the object that blocks, "source Deployment shop/web"
	Events  []string // what its cluster said of it lately, the newest first
	Final   bool     // with Broken: another attempt cannot help
	// Facts found or made; merged into the run with the state change that follows.
	Facts *spec.Facts
	// Log is text for the run's log file; redacted by the ledger.
	Log string
	// Progress of the copies that are going on. It is shown and not recorded.
	Progress []Progress
	// Wake is closed or sent on when the observed objects change; nil means
	// that only time can change them (the loop then looks again after Poll).
	Wake <-chan struct{}
	// Poll bounds the wait for Wake; zero means two seconds.
	Poll time.Duration
}

// Progress is how far the copy of one volume is.
type Progress struct {
	Volume         string    `json:"volume"`    // "<source namespace>/<claim>"
	Operation      string    `json:"operation"` // upload or restore
	Files          int64     `json:"files"`     // dealt with so far, changed or not
	Bytes          int64     `json:"bytes"`
	MovedBytes     int64     `json:"movedBytes"`           // read and written
	TotalFiles     int64     `json:"totalFiles,omitempty"` // of the newest known snapshot; 0: unknown
	TotalBytes     int64     `json:"totalBytes,omitempty"`
	BytesPerSecond float64   `json:"bytesPerSecond"`
	At             time.Time `json:"at"`
	// Still is how long nothing at all has moved, in nanoseconds; a copy that
	// stands still for ten minutes ends and is tried again.
	Still time.Duration `json:"still,omitempty"`
	// Syncing says that the volume is being synced: nothing shows how far that
	// is, and it has an hour.
	Syncing bool `json:"syncing,omitempty"`
}

// Remaining is the time that is left at the present rate, where it is known.
func (p Progress) Remaining() (left time.Duration, ok bool) {
	if p.BytesPerSecond <= 0 || p.TotalBytes <= 0 {
		return 0, false
	}
	return time.Duration(float64(max(p.TotalBytes-p.Bytes, 0)) / p.BytesPerSecond * float64(time.Second)), true
}

// Executor does things to clusters. Implementations are safe for concurrent
// use by different runs. Errors are transient by definition: the loop retries
// them inside the step's deadline; a definite failure is Seen == Broken.
type Executor interface {
	// Look observes a call without changing anything. It is also asked for a
	// step that is still pending when the verb has an intent: its Facts are
	// then saved with the intent, before the effect.
	Look(ctx context.Context, c Call) (Observation, error)
	// Ensure makes the effect of a call come true, or begins it. It is
	// idempotent: it may be called any number of times, by daemons that do
	// not remember earlier calls.
	Ensure(ctx context.Context, c Call) error
	// Survey connects to both clusters of a closure and lists the volumes it
	// covers, taking over what recorded knows of them. It changes nothing.
	Survey(ctx context.Context, c *spec.Closure, recorded []spec.Volume) (Survey, error)
}

// Survey is what a plan covers, found after every change of its closure and
// before a run is frozen.
type Survey struct {
	Volumes []spec.Volume
	// Problem says why no run could start now; "" means none was found.
	Reason  string
	Problem string
	// Scope is what the plan covers; nil where that could not be found out, which
	// ScopeProblem says.
	Scope        *spec.Scope
	ScopeProblem string
	// Pending is true when a claim waits for its volume, so that the same
	// question may soon have another answer.
	Pending bool
}

// Event is something that people and machines may want to know.
type Event struct {
	Plan    string
	Run     string
	Step    string
	State   string // of the step or the run
	Reason  string
	Message string
	Took    time.Duration
}

// Notifier is told of events; it must not block.
type Notifier interface {
	Notify(Event)
	// Progress replaces what is known of the copies of a plan that are going on.
	Progress(plan string, now []Progress)
}

// Recorded is everything the ledger knows, at one revision.
type Recorded struct {
	Daemon spec.DaemonStatus
	Plans  map[string]*spec.PlanStatus
	Open   map[string]*spec.Run // unfinished runs by name
	// Origin is true when the ledger has never been written: plans that ask
	// for anything but Staged are then Unrecorded.
	Origin bool
	// Changed says how somebody else has changed the ledger in Git, "" when
	// nobody has. The rest is then what this daemon last knew.
	Changed string
}

// Change is a set of records to write. All of them land in one commit.
type Change struct {
	Plans    []*spec.PlanStatus
	Runs     []*spec.Run
	Daemon   *spec.DaemonStatus
	Logs     []Log
	Message  string            // subject line
	Trailers map[string]string // Migration-Plan, Migration-Run, Migration-Step, Source-Commit, Plan-Digest
}

// Log is a piece of a log file of a run.
type Log struct {
	Plan string
	Run  string
	Name string // file name without directory, e.g. "mover-upload.log"
	Text string
}

// Ledger is the record in Git with the journal in front of it. Record and
// Push are safe for concurrent use.
type Ledger interface {
	// Load returns the newest record: Git's, overlaid with the journal's. Until it
	// has been called after an adoption, Record answers ErrAdopted.
	Load(ctx context.Context) (*Recorded, error)
	// Record appends changes to the journal (fsynced before it returns, all of
	// them together) and queues them for the next commit. After an error none of
	// them counts. It sets LastDigest of a plan whose last run is among a change's
	// ended runs: what is written may differ by what was redacted.
	Record(ctx context.Context, changes ...Change) error
	// Push returns nil once everything recorded so far is in Git. A higher
	// epoch found there is ErrSuperseded: stop acting for ever. After
	// ErrLedgerChanged it fails until somebody has adopted the ledger.
	Push(ctx context.Context) error
	// Run reads the record of a run by its path in the ledger (spec.RunPath).
	Run(ctx context.Context, path string) (*spec.Run, error)
}

// Desired is the state of the manifests at one accepted commit.
type Desired struct {
	Commit    string
	Approval  spec.Approval             // of the tip
	Closures  map[string]*spec.Closure  // plans whose closure is complete, by plan name
	Problems  map[string][]spec.Problem // by plan; such a plan is held
	Other     []spec.Problem            // of documents that belong to no plan
	Commits   []PlanCommit              // first-parent commits since the previous Read, oldest first
	Rewritten bool                      // the previous tip is not an ancestor of this one
	Unchanged bool                      // same tip as at the previous Read
	Documents map[string]int            // kind -> count
	NoFolder  string                    // the folder that is read, where the tip has none of that name
	Trust     *Trust                    // what approvals must show now; nil: nothing
	Partial   bool                      // only a part was looked at, so that what is missing says nothing
}

// PlanCommit is what one first-parent commit changed.
type PlanCommit struct {
	Approval spec.Approval
	// Plans whose (state, attempt) differs from the parent commit; where there
	// are approval policies, also those whose closure, file or approvals differ.
	Plans   map[string]PlanFlip
	Removed []string
}

// PlanFlip is the (state, attempt) of a plan after a commit, and the digest of
// its closure there. Appeared is true when the parent commit had no such plan.
type PlanFlip struct {
	State    spec.State
	Attempt  int
	Digest   string
	Appeared bool

	// The rest is there only where there are approval policies. Was is the digest
	// in the parent commit, "" where the plan was not or could not be read.
	Was     string
	Path    string      // the plan's file
	WasPath string      // in the parent commit
	Proof   *spec.Proof // nil: nothing is signed
}

// Source reads the manifests.
type Source interface {
	// Read polls the branch and returns its state. Since is the commit that
	// was accepted last ("" at the first start). It never returns a partly
	// read state: an error means that nothing is known about the tip.
	Read(ctx context.Context, since string) (*Desired, error)
}

// Clock is time, so that tests own it.
type Clock interface {
	Now() time.Time
	// After fires once after d.
	After(d time.Duration) <-chan time.Time
}
