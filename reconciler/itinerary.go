package reconciler

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// Fact decides once, when a run is frozen, whether a step belongs to it.
type Fact func(f *FreezeFacts) bool

// StepDef is one row of an itinerary: pure data. The same rows drive the run,
// `tranship explain`, the documentation and the progress "7/12".
type StepDef struct {
	Name string // stable for ever: it is in people's Git history
	Verb string // the executor's handler; "" means that recording is all there is to do
	Undo string // the handler that takes it back, or
	// NoUndo is the written reason why there is none. A test demands exactly one of the two.
	NoUndo string
	// UndoBefore puts the undo before the restart of the source: closing
	// traffic, stopping the target's pods and restarting the source itself.
	// Everything else is undone after it, and its failures are warnings.
	UndoBefore bool
	// UndoFirst puts the undo, which is one of UndoBefore, in front of all
	// others: what it ends could keep the source from starting.
	UndoFirst bool
	// UndoLate puts the undo, which is one of UndoBefore, behind all others of
	// them: it needs the source, and they do not.
	UndoLate bool
	// UndoWith names a step whose undo this one comes right in front of, where the
	// run has that step; both are of the same turn. Of several with the same, the
	// later step's comes first.
	UndoWith string
	// UndoTarget: the undo is about the target alone. Where that is gone for good,
	// and somebody has said so, there is nothing left to undo.
	UndoTarget bool
	// Redone: the step's own verb takes its undo back, which a rollback that copies
	// back and fails needs, so that the target runs again.
	Redone bool
	// UndoEnds: a final answer ends the undo, which has done by then whatever it can.
	UndoEnds bool
	// UndoWaits: what the undo waits for cannot be hurried and still makes objects,
	// so that an undo that works is never given up: it would leave them.
	UndoWaits bool
	When      Fact // nil: always
	// Intent makes the executor look while the step is pending; what it reads
	// is saved with the intent, before the effect.
	Intent bool
	// ReadOnly: the step has no effect on a cluster.
	ReadOnly bool
	// Push: everything recorded so far, this step's intent included, must be
	// in Git before the effect. Five of them lie on a cutover's way: the frozen
	// run, the stop, the volumes changing hands, the target going live, Migrated.
	Push bool
	// PushTimeout is how long that may take; nil is the step's own Timeout.
	PushTimeout Timeout
	// PushEnd: with Push, its end waits for Git too, also where there was nothing to
	// do: the next steps rely on a record that more than this daemon has.
	PushEnd bool
	// Gate asks, right before the step, whether the approval still stands.
	Gate bool
	// Stops: from this step on the application may be down in part, so that no later
	// gate makes it wait; one that says that the approval is gone still turns it round.
	Stops bool
	// NoReturn: from this step on a failure does not undo by itself.
	NoReturn bool
	// Soft: a failure is a warning of the run, not its end.
	Soft bool
	// Forever: it is tried until it succeeds, whatever the time limit says,
	// because giving up would leave the application down on both sides.
	Forever bool
	Retries int
	Timeout Timeout
	Help    string // one sentence for people
}

// undoneIn is in which turn an undo comes; within a turn the steps are read
// backwards.
func (d StepDef) undoneIn() int {
	switch {
	case d.UndoFirst:
		return 0
	case d.UndoLate:
		return 2
	case d.UndoBefore:
		return 1
	}
	return 3
}

// undoOrder is the order in which the steps of a run are undone, as indices: by
// turns, and in each backwards by place, which for some is another step's.
func undoOrder(defs []StepDef) []int {
	order, place := make([]int, len(defs)), make([]int, len(defs))
	for i, d := range defs {
		order[i], place[i] = i, i
		if d.UndoWith != "" {
			place[i] = max(i, slices.IndexFunc(defs, func(o StepDef) bool { return o.Name == d.UndoWith }))
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(defs[a].undoneIn()-defs[b].undoneIn(), place[b]-place[a], strings.Compare(defs[b].UndoWith, defs[a].UndoWith), b-a)
	})
	return order
}

// Timeout computes a step's time limit from the frozen plan.
type Timeout func(c *spec.Cutover) time.Duration

func fixed(d time.Duration) Timeout {
	return func(*spec.Cutover) time.Duration { return d }
}

var (
	short  = fixed(2 * time.Minute)
	medium = fixed(10 * time.Minute)
)

func copying(c *spec.Cutover) time.Duration { return c.CopyTimeoutOrDefault() }
func outage(c *spec.Cutover) time.Duration  { return c.GitOutageOrDefault() }
func healing(c *spec.Cutover) time.Duration { return c.HealthTimeoutOrDefault() }

// FreezeFacts is what the conditions of steps may ask.
type FreezeFacts struct {
	Volumes   bool // the plan copies at least one claim
	HalfBack  bool // a copy back that failed has overwritten at least one claim of the source
	Moves     bool // the plan moves at least one claim
	Direct    bool // at least one of them goes from mover to mover
	Snapshots bool // at least one of them is copied by snapshot
	Quiesce   bool
	Updates   bool                // what is on the target and not ours is updated
	Live      bool                // a cutover stands: what is on the target is the application's
	Hooks     map[spec.Phase]bool // phases with a hook that runs in this kind of run
	UndoHooks bool                // a PreBackup hook of them has an undo of its own
}

func hasVolumes(f *FreezeFacts) bool      { return f.Volumes }
func halfBackVolumes(f *FreezeFacts) bool { return f.HalfBack }
func hasSnapshots(f *FreezeFacts) bool    { return f.Snapshots }
func movesVolumes(f *FreezeFacts) bool    { return f.Moves }
func hasClaims(f *FreezeFacts) bool       { return f.Volumes || f.Moves }
func quiesces(f *FreezeFacts) bool        { return f.Quiesce }
func hasDirect(f *FreezeFacts) bool       { return f.Direct }

// standsBy: the two movers of a direct transfer are started together, when both
// sides are ready for it.
func standsBy(f *FreezeFacts) bool { return f.Volumes && f.Quiesce && !f.Direct }

// notLive: what a cutover had updated and its undo did not put back is still to be put back.
func notLive(f *FreezeFacts) bool { return !f.Live }

func updatesEarly(f *FreezeFacts) bool { return f.Updates && noPreRestoreHooks(f) }
func updatesLate(f *FreezeFacts) bool  { return f.Updates && hasPreRestoreHooks(f) }

func hasHooks(f *FreezeFacts) bool           { return len(f.Hooks) > 0 }
func hooksIn(p spec.Phase) Fact              { return func(f *FreezeFacts) bool { return f.Hooks[p] } }
func undoesHooks(f *FreezeFacts) bool        { return f.Hooks[spec.PreBackup] && f.UndoHooks }
func plainHooks(f *FreezeFacts) bool         { return f.Hooks[spec.PreBackup] && !f.UndoHooks }
func hasPreRestoreHooks(f *FreezeFacts) bool { return f.Hooks[spec.PreRestore] }
func noPreRestoreHooks(f *FreezeFacts) bool  { return !f.Hooks[spec.PreRestore] }

// Itineraries holds every kind of run. A rollback of a finished cutover has
// no list of its own: it is the undo column of what was done, read backwards,
// with copyBackSteps in it where the plan says so.
var Itineraries = map[spec.RunKind][]StepDef{
	spec.RunStage:   stageSteps,
	spec.RunMigrate: migrateSteps,
	spec.RunClose:   closeSteps,
}

var stageSteps = []StepDef{
	{Name: "preflight", Verb: "preflight.check", ReadOnly: true, NoUndo: "it only reads", Timeout: short, Retries: 2,
		Help: "Checks both clusters, the repository, every covered object and the volumes."},
	{Name: "locations", Verb: "velero.locations", NoUndo: "locations and credentials stay until the plan is closed", Timeout: short, Retries: 2,
		Help: "Puts backup locations and credentials on both clusters, in namespaces of ours."},
	{Name: "stage-hooks-before", Verb: "hook.pre-backup", Undo: "hook.clean-up", UndoBefore: true, When: hooksIn(spec.PreBackup), Timeout: copying,
		Help: "Runs the PreBackup hooks that ask for stage runs."},
	{Name: "direct-claims", Verb: "mover.claims", NoUndo: "staged claims stay in our namespace for the next copy", When: hasDirect, Intent: true, Timeout: short, Retries: 2,
		Help: "Makes the claims in our namespace on the target, before anything is sent to them."},
	{Name: "direct", Verb: "mover.direct", Undo: "mover.stop-upload", UndoBefore: true, When: hasDirect, Timeout: copying, Retries: 2,
		Help: "Sends the changes from mover to mover, where the plan says so; what cannot go that way goes through the repository."},
	{Name: "upload", Verb: "mover.upload", Undo: "mover.stop-upload", UndoBefore: true, When: hasVolumes, Timeout: copying, Retries: 2,
		Help: "Takes a snapshot of every source claim into the repository; only what changed is uploaded."},
	{Name: "snapshot", Verb: "mover.snapshot", Undo: "mover.stop-snapshot", When: hasSnapshots, Timeout: copying, Retries: 2,
		Help: "Has Velero move a snapshot of the claims of method snapshot into the repository; the cutover restores each of them whole."},
	{Name: "claims", Verb: "mover.claims", NoUndo: "staged claims stay in our namespace for the next copy", When: hasVolumes, Intent: true, Timeout: short, Retries: 2,
		Help: "Makes the claims in our namespace on the target."},
	{Name: "restore-volumes", Verb: "mover.restore", Undo: "mover.stop-restore", When: hasVolumes, Timeout: copying, Retries: 2,
		Help: "Writes the changes into the target's claims."},
	{Name: "stage-hooks-after", Verb: "hook.post-backup", Undo: "hook.clean-up", UndoBefore: true, When: hooksIn(spec.PostBackup), Timeout: copying,
		Help: "Runs the PostBackup hooks that ask for stage runs."},
	{Name: "estimate", Verb: "mover.estimate", ReadOnly: true, NoUndo: "it only reads", Timeout: short,
		Help: "Estimates from this run how long the cutover will stop the application."},
	{Name: "clean-up-hooks", Verb: "hook.clean-up", NoUndo: "what it removes is not needed again", When: hasHooks, Soft: true, Timeout: short, Retries: 2,
		Help: "Removes the Jobs of hooks; their output is in the ledger."},
	{Name: "clean-up", Verb: "mover.clean-up", NoUndo: "what it removes is not needed again", Soft: true, Timeout: short, Retries: 2,
		Help: "Removes this run's helpers from both clusters."},
}

var migrateSteps = []StepDef{
	{Name: "preflight", Verb: "preflight.check", ReadOnly: true, NoUndo: "it only reads", Timeout: short, Retries: 2,
		Help: "Checks both clusters, the repository, every covered object and the volumes."},
	{Name: "locations", Verb: "velero.locations", NoUndo: "locations and credentials stay until the plan is closed", Timeout: short, Retries: 2,
		Help: "Puts backup locations and credentials on both clusters, in namespaces of ours."},
	{Name: "namespaces", Verb: "kube.namespaces", Undo: "kube.namespaces-undo", UndoTarget: true, Timeout: short, Retries: 2,
		Help: "Creates the target namespaces with the source's labels and annotations."},
	{Name: "dry-run", Verb: "kube.dry-run", ReadOnly: true, NoUndo: "a server-side dry run leaves nothing", Timeout: medium, Retries: 1,
		Help: "Asks the target to create every object without keeping it."},
	{Name: "direct-claims", Verb: "mover.claims", Undo: "mover.claims-undo", UndoTarget: true, When: hasDirect, Intent: true, Timeout: short, Retries: 2,
		Help: "Makes the claims in our namespace on the target, before anything is sent to them."},
	{Name: "direct", Verb: "mover.direct", Undo: "mover.stop-upload", UndoBefore: true, When: hasDirect, Timeout: copying, Retries: 2,
		Help: "Sends volumes from mover to mover while the application still runs, where the plan says so; what cannot go that way goes through the repository."},
	{Name: "upload", Verb: "mover.upload", Undo: "mover.stop-upload", UndoBefore: true, When: hasVolumes, Timeout: copying, Retries: 2,
		Help: "Copies the volumes while the application still runs."},
	{Name: "snapshot", Verb: "mover.snapshot", Undo: "mover.stop-snapshot", When: hasSnapshots, Timeout: copying, Retries: 2,
		Help: "Has Velero move a snapshot of the claims of method snapshot into the repository while the application still runs, so that the last one is small."},
	{Name: "claims", Verb: "mover.claims", Undo: "mover.claims-undo", UndoTarget: true, When: hasVolumes, Intent: true, Timeout: short, Retries: 2,
		Help: "Makes the claims in our namespace on the target."},
	{Name: "restore-volumes", Verb: "mover.restore", Undo: "mover.stop-restore", UndoTarget: true, When: hasVolumes, Timeout: copying, Retries: 2,
		Help: "Writes the changes into the target's claims while the application still runs."},
	{Name: "keep-custom-resources", Verb: "kube.keep", Undo: "kube.keep-undo", UndoBefore: true, UndoWith: "stop", Timeout: short, Retries: 2,
		Help: "Keeps the custom resources as they are, before a hook stops an operator's workloads through them, and the pods without a controller, which the stop deletes."},
	{Name: "pre-backup-hooks", Verb: "hook.pre-backup", Undo: "hook.clean-up", UndoBefore: true, When: plainHooks, Timeout: copying,
		Help: "Runs the PreBackup hooks."},
	{Name: "hooks-with-undo", Verb: "hook.pre-backup", Undo: "hook.undo", UndoBefore: true, UndoWith: "stop", When: undoesHooks, Push: true, Gate: true, Stops: true, Timeout: copying,
		Help: "Runs the PreBackup hook that has an undo of its own, as one that stops an operator has."},
	{Name: "backup", Verb: "velero.backup", Undo: "velero.backup-undo", UndoWaits: true, Timeout: medium, Retries: 2,
		Help: "Backs up the Kubernetes objects, without volumes and without pods of controllers."},
	{Name: "restore", Verb: "velero.restore", Undo: "velero.restore-undo", UndoWaits: true, UndoTarget: true, When: noPreRestoreHooks, Timeout: medium, Retries: 2,
		Help: "Restores the objects on the target with every workload held at zero."},
	{Name: "update", Verb: "kube.update", Undo: "kube.update-undo", UndoTarget: true, When: updatesEarly, Intent: true, Timeout: medium, Retries: 2,
		Help: "Updates what is on the target and not ours to what the source has, with every workload held at zero, after remembering what it was."},
	{Name: "movers", Verb: "mover.stand-by", Undo: "mover.stop-upload", UndoBefore: true, UndoFirst: true, When: standsBy, Gate: true, Timeout: short,
		Help: "Starts the movers of the last copy, so that they only have to be told after the stop."},
	{Name: "retain", Verb: "workload.retain", Undo: "workload.retain-undo", When: hasClaims, Intent: true, Timeout: short, Retries: 2,
		Help: "Sets every covered volume and StatefulSet of the source to Retain, so that stopping deletes no data."},
	{Name: "stop", Verb: "workload.stop", Undo: "workload.start-source", UndoBefore: true, When: quiesces, Intent: true, Push: true, Gate: true, Timeout: medium, Retries: 2,
		Help: "Stops the application on the source, remembering exactly what ran."},
	{Name: "drained", Verb: "workload.drained", ReadOnly: true, NoUndo: "it only reads", When: quiesces, Timeout: medium,
		Help: "Waits until no pod but our own reader uses a covered claim."},
	{Name: "list-again", Verb: "kube.list-again", NoUndo: "what it applies is removed with the restored objects", When: noPreRestoreHooks, Timeout: short, Retries: 2,
		Help: "Applies to the target what changed on the source since the backup."},
	{Name: "last-direct", Verb: "mover.direct", Undo: "mover.stop-upload", UndoBefore: true, When: hasDirect, Timeout: copying, Retries: 2,
		Help: "Sends the last changes of the stopped application from mover to mover, where the plan says so."},
	{Name: "last-upload", Verb: "mover.upload", Undo: "mover.stop-upload", UndoBefore: true, When: hasVolumes, Timeout: copying, Retries: 2,
		Help: "Copies the last changes of the stopped application."},
	{Name: "last-restore", Verb: "mover.restore", Undo: "mover.stop-restore", UndoTarget: true, When: hasVolumes, Timeout: copying, Retries: 2,
		Help: "Writes the last changes into the target's claims."},
	{Name: "last-snapshot", Verb: "mover.snapshot", Undo: "mover.stop-snapshot", When: hasSnapshots, Timeout: copying, Retries: 2,
		Help: "Has Velero move a last snapshot of the stopped application's claims of method snapshot."},
	{Name: "land", Verb: "mover.land", Undo: "mover.stop-land", UndoTarget: true, When: hasSnapshots, Timeout: copying, Retries: 2,
		Help: "Has Velero make a volume of each of these snapshots on the target, in claims of ours."},
	{Name: "post-backup-hooks", Verb: "hook.post-backup", Undo: "hook.clean-up", UndoBefore: true, When: hooksIn(spec.PostBackup), Timeout: copying,
		Help: "Runs the PostBackup hooks."},
	{Name: "pre-restore-hooks", Verb: "hook.pre-restore", Undo: "hook.clean-up", UndoBefore: true, UndoTarget: true, When: hooksIn(spec.PreRestore), Timeout: copying,
		Help: "Runs the PreRestore hooks."},
	{Name: "late-restore", Verb: "velero.restore", Undo: "velero.restore-undo", UndoWaits: true, UndoTarget: true, When: hasPreRestoreHooks, Timeout: medium, Retries: 2,
		Help: "Restores the objects on the target with every workload held at zero, after the PreRestore hooks."},
	{Name: "late-update", Verb: "kube.update", Undo: "kube.update-undo", UndoTarget: true, When: updatesLate, Intent: true, Timeout: medium, Retries: 2,
		Help: "Updates what is on the target and not ours to what the source has, with every workload held at zero, after remembering what it was."},
	{Name: "late-list-again", Verb: "kube.list-again", NoUndo: "what it applies is removed with the restored objects", When: hasPreRestoreHooks, Timeout: short, Retries: 2,
		Help: "Applies to the target what changed on the source since the backup."},
	{Name: "still-stopped", Verb: "workload.still-stopped", ReadOnly: true, NoUndo: "it only reads", When: quiesces, Timeout: short,
		Help: "Makes sure that nobody has started the application on the source while its last changes were copied."},
	{Name: "move", Verb: "mover.move", Undo: "mover.move-undo", UndoBefore: true, When: movesVolumes, Intent: true, Push: true, PushTimeout: outage, Timeout: medium, Retries: 2,
		Help: "Gives the target the moved volumes: the same storage, which the source keeps at Retain and must not use any more."},
	{Name: "hand-over", Verb: "mover.hand-over", Undo: "mover.hand-back", UndoTarget: true, When: hasVolumes, Push: true, PushTimeout: outage, Timeout: medium, Retries: 2,
		Help: "Binds the copied volumes to the application's claims on the target."},
	{Name: "live", Verb: "mover.live", NoUndo: "the hand-back marks the claims dirty", Push: true, PushEnd: true, Timeout: outage, Retries: 2,
		Help: "Marks the claims live: from here on they belong to the application on the target."},
	{Name: "start", Verb: "workload.start", Undo: "workload.stop-target", UndoBefore: true, UndoTarget: true, Redone: true, Intent: true, Timeout: short, Retries: 2,
		Help: "Starts the application on the target with the counts it had on the source."},
	{Name: "custom-resources", Verb: "kube.custom", Undo: "kube.custom-undo", UndoBefore: true, UndoTarget: true, Redone: true, Timeout: short, Retries: 2,
		Help: "Creates the custom resources on the target, whose operators start what belongs to them, and the pods without a controller."},
	{Name: "health", Verb: "workload.health", ReadOnly: true, NoUndo: "it only reads", Timeout: healing,
		Help: "Waits until every workload on the target is ready."},
	{Name: "autoscalers", Verb: "kube.autoscalers", Undo: "kube.autoscalers-undo", UndoBefore: true, UndoTarget: true, Redone: true, Timeout: short, Retries: 2,
		Help: "Creates what scales the target's workloads, now that they run."},
	{Name: "post-restore-hooks", Verb: "hook.post-restore", Undo: "hook.clean-up", UndoBefore: true, UndoTarget: true, When: hooksIn(spec.PostRestore), Timeout: copying,
		Help: "Runs the PostRestore hooks."},
	{Name: "stopped-to-the-end", Verb: "workload.still-stopped", ReadOnly: true, NoUndo: "it only reads", When: quiesces, Timeout: short,
		Help: "Makes sure of that once more before users are led to the target, and before the cutover can no longer be undone by itself."},
	{Name: "traffic", Verb: "kube.traffic", Undo: "kube.traffic-undo", UndoBefore: true, UndoTarget: true, Redone: true, Intent: true, NoReturn: true, Timeout: medium, Retries: 2,
		Help: "Creates what leads users to the application: Ingress, LoadBalancer and NodePort Services, webhooks, APIServices."},
	{Name: "one-side-only", Verb: "workload.still-stopped", ReadOnly: true, NoUndo: "it only reads", When: quiesces, NoReturn: true, Soft: true, Timeout: short,
		Help: "Warns when somebody has started the application on the source while users were led to the target: both would write."},
	{Name: "migrated", NoUndo: "it is a record", NoReturn: true, Push: true, Timeout: short,
		Help: "Records in Git that the application lives on the target."},
	{Name: "clean-up-hooks", Verb: "hook.clean-up", NoUndo: "what it removes is not needed again", When: hasHooks, NoReturn: true, Soft: true, Timeout: short, Retries: 2,
		Help: "Removes the Jobs of hooks; their output is in the ledger."},
	{Name: "clean-up-movers", Verb: "mover.clean-up", NoUndo: "what it removes is not needed again", NoReturn: true, Soft: true, Timeout: medium, Retries: 2,
		Help: "Removes holders, readers and writers of volumes from both clusters."},
	{Name: "clean-up", Verb: "velero.clean-up", NoUndo: "what it removes is not needed again", NoReturn: true, Soft: true, Timeout: medium, Retries: 2,
		Help: "Removes this run's restore and helpers; its backup stays until the plan is closed."},
}

var closeSteps = []StepDef{
	{Name: "put-existing-back", Verb: "kube.update-undo", NoUndo: "it puts back what a cutover had changed", When: notLive, Timeout: short, Retries: 2,
		Help: "Gives objects that were on the target before what they held, where no undo could."},
	{Name: "policies", Verb: "mover.policies", NoUndo: "it puts back what the plan had changed", Timeout: short, Retries: 2,
		Help: "Sets the reclaim and retention policies on the target to their own values."},
	{Name: "put-source-back", Verb: putSourceBack.Verb, NoUndo: "it puts back what a copy back had changed", When: halfBackVolumes, Timeout: copying, Retries: 2, Help: putSourceBack.Help},
	{Name: "claims", Verb: "mover.close-claims", NoUndo: "staged copies of a closed plan are not needed again", Timeout: short, Retries: 2,
		Help: "Deletes the claims left in our namespace on the target, by UID."},
	{Name: "purge-data", Verb: "mover.purge", NoUndo: "copies of a closed plan's volumes are not needed again", When: hasVolumes, Timeout: copying, Retries: 2,
		Help: "Deletes the plan's volume data in the replication repository."},
	{Name: "purge", Verb: "velero.purge", NoUndo: "backups of a closed plan are not needed again", Timeout: copying, Retries: 2,
		Help: "Deletes the plan's backups, its snapshots, its locations and its credentials."},
	{Name: "closed", NoUndo: "it is a record", NoReturn: true, Push: true, Timeout: short,
		Help: "Records in Git that the plan is closed."},
	{Name: "release", Verb: "kube.release", NoUndo: "a closed plan is never rolled back, and by nothing else are its marks asked for", NoReturn: true, Soft: true, Timeout: medium, Retries: 2,
		Help: "Takes the plan's labels and annotations off everything that stays on both clusters."},
}
