package reconciler

import "errors"

// ErrSuperseded means that another daemon holds a higher epoch of this shard.
// This daemon stops and marks its journal; it never raises its epoch again
// without --take-over.
var ErrSuperseded = errors.New("another daemon has taken over this ledger")

// ErrLedgerChanged means that somebody else than a daemon has rewritten or
// edited the ledger. Nothing new starts on the ground of it (safety property 12).
var ErrLedgerChanged = errors.New("somebody else changed the ledger")

// ErrAdopted means that a person has adopted a ledger that this daemon has not
// loaded since: what it has in memory may not be what the ledger says.
var ErrAdopted = errors.New("somebody has adopted the ledger, which is to be loaded anew")
