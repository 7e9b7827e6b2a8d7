package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

// ledgerFlags find the ledger for commands that only read Git.
type ledgerFlags struct{ configFlags }

// view fetches the newest commit of the ledger.
func (f *ledgerFlags) view(ctx context.Context) (*gitsource.View, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	s, err := f.secrets(cfg)
	if l := cfg.Spec.Ledger; err != nil && l.Credentials == nil && l.Proxy == nil {
		s, err = &remembering{}, nil
	}
	if err != nil {
		return nil, err
	}
	return gitsource.OpenView(ctx, gitConfig(cfg, "", s, slog.New(slog.DiscardHandler)))
}

// eachYear looks at a ledger, and at those of the years before as long as more is
// wanted.
func eachYear(ctx context.Context, v *gitsource.View, look func(*gitsource.View) (more bool, err error)) error {
	more, err := look(v)
	if err != nil || !more {
		return err
	}
	older, err := v.Older(ctx)
	if err != nil || older == nil {
		return err
	}
	defer older.Close()
	return eachYear(ctx, older, look)
}

// runsThis names the account and the machine of whoever runs this program.
func runsThis() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// newestRun is the open run of a plan, or else its last one; nil when it never ran.
func newestRun(v *gitsource.View, st *spec.PlanStatus) (*spec.Run, error) {
	name := newestName(st)
	if name == "" {
		return nil, nil
	}
	return v.Run(st.Metadata.Name, name)
}

func newestName(st *spec.PlanStatus) string {
	if st.Recorded.OpenRun != "" {
		return st.Recorded.OpenRun
	}
	return st.Recorded.LastRun
}

func ledgerCommand() *cobra.Command {
	c := &cobra.Command{Use: "ledger", Short: "Look after the ledger"}
	var from ledgerFlags
	var to daemonFlags
	var by string
	adopt := &cobra.Command{
		Use:   "adopt",
		Short: "Accept the ledger as it is, after somebody edited or rewrote it",
		Long: "Accepts the ledger branch as it is on the server; every daemon of this ledger respects that. Where a\n" +
			"daemon is named with --server, it also takes the states of plans that no record explains (Unrecorded) as done.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if to.server != "" {
				return to.post(c.Context(), "/adopt", nil)
			}
			cfg, err := from.load()
			if err != nil {
				return err
			}
			s, err := from.secrets(cfg)
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "tranship-adopt-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			git := gitConfig(cfg, dir, s, slog.New(slog.DiscardHandler))
			if git.Person = by; by == "" {
				git.Person = runsThis()
			}
			l, err := gitsource.OpenLedger(git)
			if err != nil {
				return err
			}
			defer l.Close()
			return l.Adopt(c.Context())
		},
	}
	adopt.Flags().StringVar(&by, "by", "", "who accepts it, for the record; default the account and the machine that run this")
	from.bind(adopt)
	to.bind(adopt, "")
	c.AddCommand(adopt)
	return c
}

func acknowledgeCommand() *cobra.Command {
	var to daemonFlags
	c := &cobra.Command{
		Use:   "acknowledge COMMIT",
		Short: "Take over a branch that was rewritten, or lost many plans at once, as of COMMIT",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return to.post(c.Context(), "/acknowledge", url.Values{"commit": {args[0]}})
		},
	}
	to.bind(c, "http://127.0.0.1:9440")
	return c
}

func rollbackCommand() *cobra.Command {
	var to daemonFlags
	var dead bool
	c := &cobra.Command{
		Use:   "rollback PLAN --target-is-dead",
		Short: "Let a rollback that is going on do without a target that is gone for good",
		Long: "A rollback is asked for in Git, by state: RolledBack. It starts the source only when nothing runs on\n" +
			"the target any more, and waits for a target that does not answer. With --target-is-dead it does not\n" +
			"wait: say that only of a cluster that is off for good, since two applications would write otherwise.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !dead {
				return errors.New("a rollback is asked for in Git: set the plan to state: RolledBack; here only --target-is-dead can be said")
			}
			return to.post(c.Context(), "/target-is-dead", url.Values{"plan": {args[0]}})
		},
	}
	c.Flags().BoolVar(&dead, "target-is-dead", false, "the target cluster is gone for good")
	to.bind(c, "http://127.0.0.1:9440")
	return c
}

// daemonFlags reach a running daemon.
type daemonFlags struct {
	server    string
	tokenFile string
}

func (f *daemonFlags) bind(c *cobra.Command, server string) {
	c.Flags().StringVar(&f.server, "server", server, "address of the running daemon")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with the daemon's bearer token (its --reconcile-token-file)")
}

func (f *daemonFlags) post(ctx context.Context, path string, form url.Values) error {
	token, err := readToken(f.tokenFile)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(f.server, "/")+path, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("cannot ask the daemon: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+string(token))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return fmt.Errorf("cannot ask the daemon at %s: %w", f.server, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusAccepted {
		return fmt.Errorf("the daemon at %s answered %s to %s: was it started with --reconcile-token-file?", f.server, res.Status, path)
	}
	return nil
}
