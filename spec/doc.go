// Package spec holds every file format that Tranship reads from or writes to
// Git: the documents people write (Cluster, ReplicationRepository, Hook,
// MigrationPlan), the daemon's own configuration, and the records that the
// daemon writes back (Run, PlanStatus). It decodes strictly, validates with
// field paths and line numbers, computes digests and schedules, and knows
// nothing of clusters, networks or files: no client and no I/O lives here.
package spec

const (
	// APIVersion is the format of every document of this release. A newer one
	// is refused, an older one is migrated; golden files of each version stay
	// in testdata for ever.
	APIVersion = "tranship.dev/v1alpha1"

	KindCluster               = "Cluster"
	KindReplicationRepository = "ReplicationRepository"
	KindHook                  = "Hook"
	KindMigrationPlan         = "MigrationPlan"
	KindDaemonConfig          = "DaemonConfig"
	KindRun                   = "Run"
	KindPlanStatus            = "PlanStatus"
	KindDaemonStatus          = "DaemonStatus"
)
