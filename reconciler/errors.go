package reconciler

import "errors"

// ErrSuperseded means that another daemon holds a higher epoch of this shard.
// This daemon stops and marks its journal; it never raises its epoch again
// without --take-over.
var ErrSuperseded = errors.New("another daemon has taken over this ledger")
