package gitsource

// GCPercent is what a program that holds a Source and a Ledger for days should
// give to debug.SetGCPercent. Nearly all of its memory are the documents of
// the branch, which live until they change: with Go's default of 100 it would
// take twice of them, to collect the little that a poll leaves behind.
const GCPercent = 30
