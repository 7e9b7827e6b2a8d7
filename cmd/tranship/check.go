package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/cmd/tranship/forge"
	"github.com/tranship/tranship/gitsource"
)

// checkFlags say with what is checked, and as whom the host is asked.
type checkFlags struct {
	configFlags
	host      forge.Host
	tokenEnv  string
	tokenFile string
	output    string
}

// checkTimeout bounds all questions together.
const checkTimeout = 5 * time.Minute

func checkCommand() *cobra.Command {
	f := &checkFlags{}
	c := &cobra.Command{
		Use:   "check",
		Short: "Say whether the daemon has the rights and keys that it needs, and no more",
		Long: "Asks the Git servers with the daemon's own credentials, and changes nothing: it pushes branches to where they\n" +
			"are. With a token it asks the host for the rules of both branches too. The daemon does the first part when it starts.\n\n" +
			"The token is sent to the address of --url only; it may read the repository: GitHub metadata read, GitLab read_api as\n" +
			"Maintainer, Gitea read:repository as administrator of the repository.\n\n" +
			"Exit status: 0 all is fine, 1 something is missing, 2 nothing is known to be missing, and something could not be asked.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := context.WithTimeout(c.Context(), checkTimeout)
			defer stop()
			all, err := f.check(ctx)
			if err != nil {
				fmt.Fprintln(c.ErrOrStderr(), "tranship:", err)
				return exitError(2)
			}
			if f.output == "json" {
				err = writeJSON(c.OutOrStdout(), map[string]any{"verdict": gitsource.Worst(all), "rights": all})
			} else {
				tellRights(c.OutOrStdout(), all)
			}
			if code := checkCodes[gitsource.Worst(all)]; err == nil && code != 0 {
				err = exitError(code)
			}
			return err
		},
	}
	f.bind(c)
	s := c.Flags()
	s.StringVar(&f.host.Provider, "provider", "", "github, gitlab or gitea (also Forgejo); asks that host for the branches' rules")
	s.StringVar(&f.host.URL, "url", "", "address of the host's web pages (default: https:// and the host of the plans' repository)")
	s.StringVar(&f.tokenEnv, "token-env", "", "name of the environment variable with the token")
	s.StringVar(&f.tokenFile, "token-file", "", "file with the token")
	s.StringVarP(&f.output, "output", "o", "text", "text or json")
	return c
}

var checkCodes = map[gitsource.Verdict]int{gitsource.Missing: 1, gitsource.Unknown: 2}

func (f *checkFlags) check(ctx context.Context) ([]gitsource.Right, error) {
	if f.output != "text" && f.output != "json" {
		return nil, fmt.Errorf("cannot write %q: give --output text or json", f.output)
	}
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	s := &remembering{}
	if cfg.Spec.Source.Credentials != nil || cfg.Spec.Ledger.Credentials != nil || cfg.Spec.Ledger.SigningKey != nil {
		if s, err = f.secrets(cfg); err != nil {
			return nil, err
		}
	}
	git := gitConfig(cfg, "", s, slog.New(slog.DiscardHandler))
	rules, err := f.rules(ctx, &git)
	if err != nil {
		return nil, err
	}
	return append(gitsource.CheckRights(ctx, git), rules...), nil
}

// rules asks the host's API about both branches.
func (f *checkFlags) rules(ctx context.Context, git *gitsource.Config) ([]gitsource.Right, error) {
	plans, ledger := git.Branches()
	const unasked = "the host was not asked: name it with --provider, and a token; see yourself that "
	if f.host.Provider == "" {
		return []gitsource.Right{
			{Item: rulesOfPlans, Verdict: gitsource.Unknown, Text: unasked + "changes of the plans need a review, and no force push is taken (docs/rulesets.md)"},
			{Item: rulesOfLedger, Verdict: gitsource.Unknown, Text: unasked + "no force push is taken (docs/rulesets.md)"},
		}, nil
	}
	var err error
	if f.host.Token, err = (&commentFlags{tokenEnv: f.tokenEnv, tokenFile: f.tokenFile}).token(); err != nil {
		return nil, err
	}
	if f.host.URL == "" {
		f.host.URL = "https://" + plans.Host
	}
	all, err := f.protection(ctx, rulesOfPlans, plans, "source")
	if err != nil {
		return nil, err
	}
	if ledger.Host != plans.Host {
		return append(all, gitsource.Right{Item: rulesOfLedger, Verdict: gitsource.Unknown, Text: "the ledger is on another host, which was not asked: see yourself that its branch takes no force push"}), nil
	}
	more, err := f.protection(ctx, rulesOfLedger, ledger, "ledger")
	return append(all, more...), err
}

const (
	rulesOfPlans  = "rules of the plans' branch"
	rulesOfLedger = "rules of the ledger's branch"
)

// protection is what the host says of one branch. An error is a mistake in the flags.
func (f *checkFlags) protection(ctx context.Context, item string, at gitsource.BranchOf, field string) ([]gitsource.Right, error) {
	if at.Branch == "" {
		return []gitsource.Right{{Item: item, Verdict: gitsource.Unknown, Text: "the plans are read from no branch; rules of tags are not asked for"}}, nil
	}
	host := f.host
	host.Repository = at.Repository
	client, err := forge.Open(host)
	if err != nil {
		return nil, err
	}
	p, err := client.Protection(ctx, at.Branch)
	if err != nil {
		return []gitsource.Right{{Item: item, Verdict: gitsource.Unknown, Text: "the host does not say which rules hold: " + err.Error()}}, nil
	}
	all := []gitsource.Right{ruled(item, at, p.NoForcePush, "takes no force push")}
	if field == "source" {
		all = append(all, ruled(item, at, p.Reviewed, "takes changes only with a review"))
	}
	return all, nil
}

func ruled(item string, at gitsource.BranchOf, a forge.Answer, rule string) gitsource.Right {
	where := fmt.Sprintf("branch %s of %s", at.Branch, at.Repository)
	switch a {
	case forge.Yes:
		return gitsource.Right{Item: item, Verdict: gitsource.Fine, Text: where + " " + rule + " (who may pass that rule by is not asked)"}
	case forge.No:
		return gitsource.Right{Item: item, Verdict: gitsource.Missing, Text: "no rule says that " + where + " " + rule + "; docs/rulesets.md has one"}
	}
	return gitsource.Right{Item: item, Verdict: gitsource.Unknown, Text: "the host does not say whether " + where + " " + rule + "; see yourself"}
}

func tellRights(w io.Writer, all []gitsource.Right) {
	for _, r := range all {
		fmt.Fprintf(w, "%-8s %s: %s\n", r.Verdict, r.Item, r.Text)
	}
}

// checkRights says in the log what is missing. It keeps nothing from starting.
func (d *daemon) checkRights(ctx context.Context, git gitsource.Config) error {
	git.Log = nil // the keys are read a second time, and complain once
	ctx, stop := context.WithTimeout(ctx, checkTimeout)
	defer stop()
	all := gitsource.CheckRights(ctx, git)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	for _, r := range all {
		switch r.Verdict {
		case gitsource.Missing:
			d.log.Warn("rights: "+r.Text, "item", r.Item)
		case gitsource.Unknown:
			d.log.Info("rights, not known: "+r.Text, "item", r.Item)
		}
	}
	return nil
}
