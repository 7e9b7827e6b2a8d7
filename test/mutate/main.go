// Command mutate proves that the tests of the safety properties can fail: it
// breaks the product on purpose, one rule at a time, and demands that a named
// test notices. The working tree is not touched: each broken file is laid over
// it for one run of `go test`. It exits 1 when a test passes all the same.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mutation breaks one rule. From occurs in the file exactly once.
type mutation struct {
	rule     string
	file     string
	from, to string
	test     string // that must fail, in folder; it needs no cluster
	folder   string
}

var mutations = []mutation{
	{
		rule: "the intent is recorded before its effect", file: "reconciler/drive.go",
		from: "		if err := d.shell.saveRun(ctx, dec); err != nil {\n",
		to: "		if c, _, _, err := OpenCall(dec.Run); err == nil && c.Step.State == spec.StepRunning && c.Verb != \"\" {\n" +
			"			_ = d.executor.Ensure(ctx, c)\n		}\n		if err := d.shell.saveRun(ctx, dec); err != nil {\n",
		test: "TestKilledAtEveryInstant", folder: "./reconciler",
	},
	{
		rule: "the stop waits for its pushed record", file: "reconciler/next.go",
		from: "return Decision{Kind: Act, Call: Call{Run: in.Run, Step: s, Verb: s.Verb}, Push: d.Push && !in.Pushed, Step: s.Name}",
		to:   "return Decision{Kind: Act, Call: Call{Run: in.Run, Step: s, Verb: s.Verb}, Step: s.Name}",
		test: "TestKilledAtEveryInstant", folder: "./reconciler",
	},
	{
		rule: "a hook that has an undo is started on record", file: "reconciler/itinerary.go",
		from: "When: undoesHooks, Push: true,", to: "When: undoesHooks,",
		test: "TestAHookThatNobodyRemembersIsUndone", folder: "./reconciler",
	},
	{
		rule: "a push moves only the tip that was read", file: "gitsource/protocol.go",
		from: "	req := packp.NewReferenceUpdateRequest()\n",
		to:   "	if now, err := r.tip(ctx); err == nil {\n		old = now\n	}\n	req := packp.NewReferenceUpdateRequest()\n",
		test: "TestFourWritersLoseAndDoubleNothing", folder: "./gitsource",
	},
	{
		rule: "a ledger that does not descend from ours is refused", file: "gitsource/sync.go",
		from: "	if !h.linked && n.adopt == \"\" {\n		return n, fail(ErrLedgerRewritten,", to: "	if !h.linked && false {\n		return n, fail(ErrLedgerRewritten,",
		test: "TestRewrittenLedgerIsRefused", folder: "./gitsource",
	},
	{
		rule: "a daemon that remembers nothing judges the ledger", file: "gitsource/sync.go",
		from: "	if base.IsZero() {\n		if base, err = l.begin(", to: "	if false {\n		if base, err = l.begin(",
		test: "TestHandEditedLedgerIsRefusedByANewDaemon", folder: "./gitsource",
	},
	{
		rule: "a rewritten plan branch is noticed", file: "gitsource/source.go",
		from: "Rewritten: !base.IsZero() && !h.linked,", to: "Rewritten: false && !h.linked,",
		test: "TestHistoryRewrite", folder: "./gitsource",
	},
	{
		rule: "an approval needs as many owners as the policy says", file: "reconciler/trust.go",
		from: "max(need-len(out.counted), 0)", to: "max(need-1-len(out.counted), 0)",
		test: "TestNothingStartsWithoutEnoughSignatures", folder: "./reconciler",
	},
	{
		rule: "nothing is copied back while the target runs", file: "executor/mover/copyback.go",
		from: "!helper && usesClaim(p, v.TargetClaim)", to: "!helper && false && usesClaim(p, v.TargetClaim)",
		test: "TestTheSourceIsNotWrittenWhileTheTargetRuns", folder: "./executor/mover",
	},
	{
		rule: "names are derived, not generated", file: "executor/kube/names.go",
		from: `sha256.Sum256([]byte(fmt.Sprintf("%s/%s/%d/%s/%d/%s", `, to: `sha256.Sum256([]byte(fmt.Sprintf("%p/%s/%s/%d/%s/%d/%s", new(int), `,
		test: "TestUploadKilledAtEveryCall", folder: "./executor/mover",
	},
	{
		rule: "an unknown step is refused, not counted as done", file: "reconciler/next.go",
		from: "		if !ok {\n			return nil, fmt.Errorf(\"run %s has the step %q,", to: "		if !ok && false {\n			return nil, fmt.Errorf(\"run %s has the step %q,",
		test: "TestUnknownStepRefuses", folder: "./reconciler",
	},
	{
		rule: "what a hook did to a custom resource is put back", file: "executor/kube/keptundo.go",
		from: "now == nil || !alike(k.was, *now), err", to: "now == nil, err",
		test: "TestACustomResourceIsPutBack", folder: "./executor/kube",
	},
	{
		rule: "Git knows of the way back before anything is taken back", file: "reconciler/drive.go",
		from: "dec.Call.Undo && !d.turned {", to: "dec.Call.Undo && d.turned {",
		test: "TestKilledAtEveryInstant", folder: "./reconciler",
	},
	{
		rule: "the end of the last pod is waited for", file: "executor/workload/drained.go",
		from: "	return lookGone(ctx, e, e.Source, e.Namespaces(spec.Source), claims, items, places)\n",
		to:   "	_, _ = claims, places\n	return reconciler.Observation{Seen: reconciler.Succeeded}, nil\n",
		test: "TestDrainedWaitsFor", folder: "./executor/workload",
	},
}

func main() {
	dir, err := os.MkdirTemp("", "tranship-mutate-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate: cannot make a folder:", err)
		os.Exit(2)
	}
	survived := 0
	for i, m := range mutations {
		began := time.Now()
		err := m.try(filepath.Join(dir, fmt.Sprint(i)))
		said := m.test + " fails"
		if err != nil {
			survived++
			said = "SURVIVED: " + err.Error()
		}
		fmt.Printf("%5.1f s  without %q: %s\n", time.Since(began).Seconds(), m.rule, said)
	}
	_ = os.RemoveAll(dir)
	fmt.Printf("mutations=%d survived=%d\n", len(mutations), survived)
	if survived > 0 {
		os.Exit(1)
	}
}

// try runs the test without and with the mutation; an error says that it does
// not tell the two apart.
func (m mutation) try(dir string) error {
	overlay, err := m.overlay(dir)
	if err != nil {
		return err
	}
	if out, err := m.run(); err != nil {
		return fmt.Errorf("%s fails without the mutation: %w\n%s", m.test, err, out)
	}
	out, err := m.run("-overlay", overlay)
	switch {
	case err == nil:
		return fmt.Errorf("%s passes all the same", m.test)
	case !strings.Contains(out, "--- FAIL: "+m.test):
		return fmt.Errorf("%s was not run: %w\n%s", m.test, err, out)
	}
	return nil
}

func (m mutation) run(more ...string) (string, error) {
	args := append([]string{"test", "-short", "-count=1", "-timeout=2m", "-run", "^" + m.test + "$"}, more...)
	out, err := exec.Command("go", append(args, m.folder)...).CombinedOutput()
	if err == nil && strings.Contains(string(out), "no tests to run") {
		err = errors.New("there is no such test")
	}
	return string(out), err
}

// overlay writes the broken file, and the file that lays it over the tree.
func (m mutation) overlay(dir string) (string, error) {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return "", fmt.Errorf("run it in the root of the repository: %w", err)
	}
	if n := strings.Count(string(text), m.from); n != 1 {
		return "", fmt.Errorf("%s has the text %d times, not once: adapt the mutation to it", m.file, n)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	broken, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	file, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: broken}})
	if err != nil {
		return "", err
	}
	return overlay, errors.Join(os.WriteFile(broken, []byte(strings.Replace(string(text), m.from, m.to, 1)), 0o600), os.WriteFile(overlay, replace, 0o600))
}
