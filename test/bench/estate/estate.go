// Package estate is the repository of plans that Git is measured with, and what
// the benchmark and its client say to each other. It is small on purpose: the
// client's memory is measured.
package estate

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

// The size of the estate: folders full of plans, and commits after those that
// made the folders, with three plans each.
const (
	Folders   = 1000
	PerFolder = 10
	Changes   = 1000
	Plans     = Folders * PerFolder
)

// Common are the documents that every plan refers to.
const Common = `apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: old}
spec: {server: "https://old.example.com:6443", token: {from: old}}
---
apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: new}
spec: {server: "https://new.example.com:6443", token: {from: new}}
---
apiVersion: tranship.dev/v1alpha1
kind: ReplicationRepository
metadata: {name: main}
spec: {provider: aws, bucket: migrations, region: eu-central-1, credentials: {from: s3}, encryption: {from: s3}}
`

// Plan is a plan of about 500 bytes; rev makes its text another one.
func Plan(folder, n, rev int, schedule string) string {
	return fmt.Sprintf(`# owned by team %[1]d
apiVersion: tranship.dev/v1alpha1
kind: MigrationPlan
metadata:
  name: app-%04[1]d-%[2]d
spec:
  state: Staged
  sourceCluster: old
  targetCluster: new
  replicationRepository: main
  namespaces:
    - name: app-%04[1]d-%[2]d
    - name: app-%04[1]d-%[2]d-db
      targetName: app-%04[1]d-%[2]d-data
  labelSelector:
    matchLabels: {app: "a%[1]d", rev: "r%[3]d"}
  stage:
    schedule: "%[4]s"
    timeZone: Europe/Berlin
    startingDeadline: 1h
  cutover:
    timeout: 4h
    healthTimeout: 10m
`, folder, n, rev, schedule)
}

// File is where a plan lies.
func File(folder, n int) string { return fmt.Sprintf("plans/app-%04d/plan-%d.yaml", folder, n) }

// Order is one line to the worker; Times repeats it.
type Order struct {
	Do    string `json:"do"` // read, ledger, plans, event or batch
	Times int    `json:"times,omitempty"`
	From  int    `json:"from,omitempty"`
}

// Answer is one line from the worker.
type Answer struct {
	CPU     float64 `json:"cpu"`  // milliseconds, of all threads, in user and kernel
	Wall    float64 `json:"wall"` // milliseconds
	RSS     float64 `json:"rss"`  // MiB, after the order
	Peak    float64 `json:"peak"` // MiB, since the start
	Plans   int     `json:"plans"`
	Commits int     `json:"commits"`
	Error   string  `json:"error,omitempty"`
}

// Status is the record of a plan; rev makes it another one.
func Status(folder, n, rev int) *spec.PlanStatus {
	at := metav1.NewTime(time.Unix(1_800_000_000+int64(rev)*60, 0).UTC())
	return &spec.PlanStatus{
		TypeMeta: spec.TypeMeta{APIVersion: spec.APIVersion, Kind: spec.KindPlanStatus},
		Metadata: spec.Metadata{Name: fmt.Sprintf("app-%04d-%d", folder, n)},
		Recorded: spec.Recorded{SeenState: spec.Staged, SeenAttempt: 1, Since: &at},
		Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Staged", LastTransitionTime: at,
			Message: "the next stage run is due at " + at.Format(time.RFC3339)}},
		NextStage: &at,
	}
}

// Config leads to the repository at url, with a data folder.
func Config(url, data string) gitsource.Config {
	return gitsource.Config{DataDir: data, AllowLoopbackHTTP: true, Version: "bench",
		Spec: spec.DaemonConfigSpec{Source: spec.Repository{URL: url, Branch: spec.DefaultBranch}, Ledger: spec.Ledger{Repository: spec.Repository{Branch: spec.DefaultLedgerBranch}}}}
}

// Peak is what the kernel has seen this process take at most, in KiB. The
// figure that a parent gets of its child (ru_maxrss) is no use: until exec the
// child has the parent's memory, and that counts there.
func Peak() (kib int64, err error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("cannot read how much memory this process took: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib, nil
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}

// Memory is this process's resident memory now and at most, in MiB.
func Memory() (rss, most float64, err error) {
	kib, err := Peak()
	if err != nil {
		return 0, 0, err
	}
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read how much memory this process takes: %w", err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0, 0, fmt.Errorf("/proc/self/statm says %q: %w", text, err)
	}
	return float64(pages*int64(os.Getpagesize())) / (1 << 20), float64(kib) / 1024, nil
}
