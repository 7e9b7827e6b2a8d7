package gitsource

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"sigs.k8s.io/yaml"

	"github.com/tranship/tranship/spec"
)

const (
	checkpointFile    = "checkpoint.yaml"
	checkpointTrailer = "Tranship-Checkpoint" // <records> <digest>
)

// checkpoint sums up every run that has ended: how many there are, and a digest
// over their records and logs in the order in which they ended. Each new one goes
// on from the last, so a checkpoint that somebody has kept says whether a ledger
// still holds all of what it held then. It uses SHA-256, whatever the repository
// names its objects with.
type checkpoint struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Records    int    `json:"records"`
	Digest     string `json:"digest"`
}

// ended is one run for a checkpoint.
type ended struct {
	path   string // of its record
	record []byte
	logs   map[string][]byte // by name
}

// with goes on with runs that have ended, sorted by path.
func (c checkpoint) with(runs []ended) checkpoint {
	h := sha256.New()
	fmt.Fprintln(h, c.Digest)
	for _, r := range runs {
		fmt.Fprintln(h, r.path, digestOf(r.record), logsDigest(r.logs))
	}
	return checkpoint{APIVersion: spec.APIVersion, Kind: "Checkpoint", Records: c.Records + len(runs), Digest: "sha256:" + hex.EncodeToString(h.Sum(nil))}
}

func (c checkpoint) String() string { return fmt.Sprintf("%d %s", c.Records, c.Digest) }

func (c checkpoint) encode() ([]byte, error) { return yaml.Marshal(c) }

func decodeCheckpoint(data []byte) (checkpoint, error) {
	var c checkpoint
	if err := yaml.UnmarshalStrict(data, &c); err != nil || c.Kind != "Checkpoint" {
		return checkpoint{}, fail(ErrLedgerEdited, nil, "cannot read %s of the ledger; put back the version before in Git, then run `tranship ledger adopt`", checkpointFile)
	}
	return c, nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func logsDigest(logs map[string][]byte) string {
	var names []string
	for n := range logs {
		names = append(names, n)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintln(h, n, digestOf(logs[n]))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// logDir is where the logs of a run lie, from the path of its record.
func logDir(record string) string {
	return "logs/" + strings.TrimSuffix(strings.TrimPrefix(record, "runs/"), ".yaml")
}

// logsAt reads the logs of a run.
func logsAt(s *store, root plumbing.Hash, dir string) (map[string][]byte, error) {
	logs := map[string][]byte{}
	h, err := subtree(s, root, dir)
	if err != nil {
		return nil, err
	}
	entries, err := s.tree(h)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if logs[e.Name], err = s.blob(e.Hash); err != nil {
			return nil, err
		}
	}
	return logs, nil
}

// check adds the new checkpoint to the files of a commit where runs end in it.
// It returns the trailer that quotes it, or nothing.
func (l *Ledger) check(root plumbing.Hash, files map[string][]byte, ends []string) ([]string, error) {
	slices.Sort(ends)
	var runs []ended
	for _, file := range slices.Compact(ends) {
		now, err := fileAt(l.store, root, file)
		if err != nil {
			return nil, err
		}
		if files[file] == nil || now == plumbing.ComputeHash(plumbing.BlobObject, files[file]) {
			continue
		}
		logs, err := logsAt(l.store, root, logDir(file))
		if err != nil {
			return nil, err
		}
		for p, data := range files {
			if path.Dir(p) == logDir(file) {
				logs[path.Base(p)] = data
			}
		}
		runs = append(runs, ended{path: file, record: files[file], logs: logs})
	}
	if len(runs) == 0 {
		return nil, nil
	}
	var last checkpoint
	data, err := readFile(l.store, root, checkpointFile)
	if err == nil && data != nil {
		last, err = decodeCheckpoint(data)
	}
	if err != nil {
		return nil, err
	}
	next := last.with(runs)
	files[checkpointFile], err = next.encode()
	return []string{checkpointTrailer + ": " + next.String()}, err
}
