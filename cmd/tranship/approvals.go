package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

func approvalsCommand() *cobra.Command {
	var from ledgerFlags
	var output string
	c := &cobra.Command{
		Use:   "approvals PLAN [PATH]",
		Short: "Show who has approved what of a plan, what is missing, and what to run",
		Long: "Reads the ledger, as the daemon has written it last, and the policies of the configuration. With PATH, the\n" +
			"folder that the daemon reads in a checkout, it also looks at the documents there and at the approvals for them,\n" +
			"which may not be merged yet.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("cannot write %q: give --output text or json", output)
			}
			cfg, err := from.load()
			if err != nil {
				return err
			}
			v, err := from.view(c.Context())
			if err != nil {
				return err
			}
			defer v.Close()
			plans, err := v.Plans()
			if err != nil {
				return err
			}
			st := plans[args[0]]
			if st == nil {
				return fmt.Errorf("the ledger has no plan %s; it has %s", args[0], strings.Join(slices.Sorted(maps.Keys(plans)), ", "))
			}
			s := standingOf(st, cfg.Spec.Trust)
			if len(args) == 2 {
				if s.Checkout, err = inCheckout(args[1], args[0], cfg.Spec.Trust); err != nil {
					return err
				}
			}
			if output == "json" {
				return writeJSON(c.OutOrStdout(), s)
			}
			tellStanding(c.OutOrStdout(), s)
			return nil
		},
	}
	from.bind(c)
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// standing is how far the approvals of a plan have come.
type standing struct {
	Plan     string                `json:"plan"`
	Recorded spec.State            `json:"recorded"`
	Asked    *asked                `json:"asked,omitempty"` // nil: nothing that needs an approval
	Signers  []spec.Signer         `json:"signers,omitempty"`
	Policies []spec.ApprovalPolicy `json:"policies,omitempty"` // that have held for it; none: whoever can merge can approve
	// Used is the highest attempt that was approved: another one must be higher.
	Used     int       `json:"used,omitempty"`
	Command  string    `json:"command,omitempty"` // that approves, in a checkout of the digest
	Checkout *checkout `json:"checkout,omitempty"`
}

// asked is what Git says, and the daemon makes of it.
type asked struct {
	State   spec.State `json:"state"`
	Attempt int        `json:"attempt"`
	Digest  string     `json:"digest"`
	Commit  string     `json:"commit"`
	Reason  string     `json:"reason"` // Approved, Unapproved or ApprovalUsed
	Message string     `json:"message,omitempty"`
}

func standingOf(st *spec.PlanStatus, t spec.Trust) standing {
	r := &st.Recorded
	s := standing{Plan: st.Metadata.Name, Recorded: r.State}
	if s.Recorded == "" {
		s.Recorded = spec.Staged
	}
	ready := meta.FindStatusCondition(st.Conditions, "Ready")
	switch {
	case r.Trust != nil && r.Trust.Proposal != nil:
		p := r.Trust.Proposal
		s.Asked, s.Signers = &asked{p.To, p.Attempt, p.Digest, p.Approval.Commit, p.Reason, p.Message}, p.Approval.Signers
	case ready != nil && ready.Reason == "Unapproved": // not the state, but the documents
		s.Asked = &asked{r.SeenState, r.SeenAttempt, st.Digest, st.Commit, ready.Reason, ready.Message}
	case r.Flip != nil:
		f := r.Flip
		s.Asked, s.Signers = &asked{f.To, f.Attempt, f.Digest, f.Approval.Commit, "Approved", "it is not served yet"}, f.Approval.Signers
	}
	if r.Trust == nil {
		return s
	}
	s.Used = r.Trust.Attempt
	held := map[int]bool{} // a plan that has moved keeps the policies of where it was
	for _, file := range r.Trust.Paths {
		if i := spec.PolicyFor(t.Policies, file); i >= 0 && !held[i] {
			held[i] = true
			s.Policies = append(s.Policies, t.Policies[i])
		}
	}
	byFile := slices.ContainsFunc(s.Policies, func(p spec.ApprovalPolicy) bool { return slices.Contains(p.Ways, spec.Signatures) })
	if a := s.Asked; a != nil && a.Reason == "Unapproved" && byFile {
		s.Command = fmt.Sprintf("tranship approve %s . --state %s --attempt %d", s.Plan, a.State, max(a.Attempt, 1))
	}
	return s
}

// checkout is what a folder says, and the approvals that lie there for it.
type checkout struct {
	State   spec.State `json:"state"`
	Attempt int        `json:"attempt"`
	Digest  string     `json:"digest"`
	Files   []signFile `json:"files"`
}

type signFile struct {
	File    string `json:"file"`
	Key     string `json:"key,omitempty"`
	Owner   string `json:"owner,omitempty"`
	Problem string `json:"problem,omitempty"` // why it does not count
}

func inCheckout(folder, plan string, t spec.Trust) (*checkout, error) {
	closure, err := closureIn(folder, plan)
	if err != nil {
		return nil, err
	}
	ring, err := gitsource.NewKeyring(t.Keys, nil)
	if err != nil {
		return nil, err
	}
	p := &closure.Plan.Spec
	out := &checkout{State: p.State, Attempt: p.Cutover.AttemptOrDefault(), Digest: closure.Digest(), Files: []signFile{}}
	dir := filepath.Join(folder, filepath.FromSlash(spec.ApprovalDir(plan, out.Digest)))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the approvals: %w", err)
	}
	text := spec.ApprovalText(plan, out.State, out.Attempt, out.Digest)
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".sig" || !e.Type().IsRegular() {
			continue
		}
		data, err := readSome(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("cannot read the approvals: %w", err)
		}
		by := ring.Approval(text, data)
		if slices.Contains(t.HostKeys, by.Key) {
			by.Problem = "it is the Git host's key, which is everyone's"
		}
		out.Files = append(out.Files, signFile{e.Name(), by.Key, by.Owner, by.Problem})
	}
	return out, nil
}

// readSome reads a file that anybody may have written: more than a signature
// needs, and not without end.
func readSome(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

func tellStanding(w io.Writer, s standing) {
	fmt.Fprintf(w, "plan       %s, recorded as %s\n", s.Plan, s.Recorded)
	if a := s.Asked; a == nil {
		fmt.Fprintln(w, "asks for   nothing that needs an approval")
	} else {
		fmt.Fprintf(w, "asks for   %s with attempt %d, in %.12s\ndigest     %s\n%-10s %s\n", a.State, a.Attempt, a.Commit, a.Digest, strings.ToLower(a.Reason), a.Message)
	}
	for _, by := range s.Signers {
		fmt.Fprintln(w, "signed    ", saySigner(by))
	}
	for _, p := range s.Policies {
		author := "the author does not count"
		if p.CountAuthor {
			author = "the author counts"
		}
		fmt.Fprintf(w, "policy     %s: %d owners of the keys %s, by %s; %s\n", strings.Join(p.Paths, ", "), p.Require, strings.Join(p.Keys, ", "), joined(p.Ways), author)
	}
	if len(s.Policies) == 0 {
		fmt.Fprintln(w, "policy     none has held for it so far: whoever can merge can approve")
	}
	if s.Used > 0 {
		fmt.Fprintf(w, "used       attempts up to %d\n", s.Used)
	}
	if c := s.Checkout; c != nil {
		tellCheckout(w, s, c)
	}
	if s.Command != "" {
		fmt.Fprintf(w, "run        %s\n", s.Command)
	}
}

func tellCheckout(w io.Writer, s standing, c *checkout) {
	same := "what is asked for"
	if a := s.Asked; a == nil || a.Digest != c.Digest || a.State != c.State || max(a.Attempt, 1) != c.Attempt {
		same = "not what is asked for on the branch: an approval of this counts once this is merged"
	}
	fmt.Fprintf(w, "checkout   %s with attempt %d, %s: %s\n", c.State, c.Attempt, c.Digest, same)
	for _, f := range c.Files {
		say := fmt.Sprintf("by %s with key %s", f.Owner, f.Key)
		if f.Problem != "" {
			say = "does not count: " + f.Problem
		}
		fmt.Fprintf(w, "  %s %s\n", printable(f.File), say)
	}
}

func joined(ways []spec.Way) string {
	all := make([]string, 0, len(ways))
	for _, way := range ways {
		all = append(all, string(way))
	}
	return strings.Join(all, " or ")
}
