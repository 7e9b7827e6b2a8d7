// Package kube is the ground on which every verb stands: connections to the
// two clusters of a run, deterministic names, labels and marks, watches that
// wake the loop, and the verbs that deal with plain objects.
package kube

import (
	"context"
	"log/slog"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Cluster is one side of a run. It is safe for concurrent use.
type Cluster struct {
	Side      spec.Side
	Name      string // metadata.name of the Cluster document
	UID       string // of kube-system: the cluster's identity
	Config    *rest.Config
	Kube      kubernetes.Interface
	Dynamic   dynamic.Interface
	Discovery discovery.CachedDiscoveryInterface
	Mapper    meta.ResettableRESTMapper
	// Exec runs a command in one of our pods.
	Exec Exec
	// VeleroNamespace is where Velero lives on this cluster.
	VeleroNamespace string

	tails tails
	clock skew
	fails fails
}

// Settings are what verbs need of the daemon's configuration.
type Settings struct {
	Namespace string // ours, on both clusters
	Mover     spec.Mover
	Limits    spec.Limits
	Epoch     int64
	// Shard tells this daemon's ledger from another's that works on the same
	// clusters; empty means that no epoch is kept there.
	Shard string
	// Ledger is where that ledger is, for people: no credentials.
	Ledger string
	// RaiseAbove raises the daemon's epoch above one that a cluster remembers,
	// where `--take-over` or a Lease allows that; nil where not. It must ask Git
	// whether the daemon still holds its ledger.
	RaiseAbove func(ctx context.Context, seen int64) (int64, error)
}

// Secrets reads secret values by reference. Values never reach a log, an
// error or a record.
type Secrets interface {
	// Read returns the value of ref, or of its entry defaultKey when ref names
	// no key. The error names the reference, not the value.
	Read(ctx context.Context, ref spec.SecretRef, defaultKey string) ([]byte, error)
}

// Env is what a verb works with in one call.
type Env struct {
	reconciler.Call
	Source   *Cluster
	Target   *Cluster
	Secrets  Secrets
	Settings Settings
	Log      *slog.Logger
}

// On returns the cluster of a side.
func (e *Env) On(side spec.Side) *Cluster {
	if side == spec.Source {
		return e.Source
	}
	return e.Target
}

// Plan is the frozen plan of the run.
func (e *Env) Plan() *spec.PlanSpec { return &e.Run.Spec.Closure.Plan.Spec }

// Verb is one entry of the executor's registry: Look observes, Ensure makes
// it so. Both may be called any number of times.
//
// A verb that only reads has no Ensure.
type Verb struct {
	Look   func(ctx context.Context, e *Env) (reconciler.Observation, error)
	Ensure func(ctx context.Context, e *Env) error
	// Needs lists the clusters without which the verb can do nothing; empty
	// means both. A cluster that is not listed is nil in Env when it does not
	// answer at once: the source must be startable while the target is dead.
	Needs []spec.Side
}
