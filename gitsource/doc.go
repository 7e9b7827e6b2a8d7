// Package gitsource is Tranship's connection to Git. Source polls the branch
// that people merge to and says what each commit changed. Ledger writes
// statuses, run records and logs to a branch of its own, with a fsynced
// journal in front of it. View reads a ledger for the command line.
//
// Only go-git's plumbing is used: no worktree, no porcelain push, no checkout.
// A fetch always names the shallow boundary, because without it a server
// leaves out objects that a shallow clone does not have. A push carries the
// expected old tip, so the server itself compares and swaps; whatever a push
// answers, the branch is listed again before anything is concluded. Nothing
// is ever forced, and the text of an answer never decides anything.
package gitsource
