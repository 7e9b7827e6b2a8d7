package main

import (
	"context"
	"fmt"
)

// stageRuns come before the cutover: the first copies everything, the others
// what the writes under way changed meanwhile.
const stageRuns = 3

// Questions to PostgreSQL about its own files. Reading a page checks its
// checksum; verify_heapam reads every row, bt_index_check every index and that
// it has every row of its table.
const (
	checkedTables = `SELECT count(*), coalesce(string_agg(v.msg, '; '), '') FROM pg_class c, LATERAL (SELECT msg FROM verify_heapam(c.oid) LIMIT 5) v
		WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p'`
	countTables    = `SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm', 't') AND relpersistence = 'p'`
	checkedIndexes = `SELECT count(bt_index_check(c.oid, true)) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
		WHERE a.amname = 'btree' AND i.indisvalid AND c.relpersistence = 'p'`
	failedPages = `SELECT coalesce(sum(checksum_failures), 0)::bigint FROM pg_stat_database`
)

// checkDatabase lets PostgreSQL on the target look for damage.
func checkDatabase(ctx context.Context, to addresses) (string, error) {
	db, err := connect(ctx, to)
	if err != nil {
		return "", err
	}
	defer db.Close(ctx)
	var checksums, messages string
	if err := db.QueryRow(ctx, "SHOW data_checksums").Scan(&checksums); err != nil || checksums != "on" {
		return "", fmt.Errorf("data checksums are %q: %w", checksums, err)
	}
	if _, err := db.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS amcheck"); err != nil {
		return "", fmt.Errorf("cannot look for damage: %w", err)
	}
	var tables, indexes, bad, pages int
	for query, into := range map[string][]any{checkedTables: {&bad, &messages}, countTables: {&tables}, checkedIndexes: {&indexes}, failedPages: {&pages}} {
		if err := db.QueryRow(ctx, query).Scan(into...); err != nil {
			return "", fmt.Errorf("PostgreSQL finds its files damaged: %w", err)
		}
	}
	if bad > 0 || pages > 0 {
		return "", fmt.Errorf("PostgreSQL finds %d damaged rows and %d pages with a wrong checksum: %s", bad, pages, messages)
	}
	if tables == 0 || indexes == 0 {
		return "", fmt.Errorf("PostgreSQL looked at %d tables and %d indexes", tables, indexes)
	}
	return fmt.Sprintf("PostgreSQL finds no damage: data checksums are on, amcheck read %d tables and %d indexes", tables, indexes), nil
}
