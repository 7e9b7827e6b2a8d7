package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/cmd/tranship/forge"
	"k8s.io/apimachinery/pkg/util/validation"
)

// commentFlags are the flags of `tranship comment`.
type commentFlags struct {
	host      forge.Host
	pull      int
	commit    string
	report    string
	tokenEnv  string
	tokenFile string
	statuses  bool
}

func commentCommand() *cobra.Command {
	f := &commentFlags{}
	c := &cobra.Command{
		Use:   "comment",
		Short: "Post what `tranship plan` says as one comment of a pull request, and a commit status a plan",
		Long: "Reads the report of `tranship plan -o json`. The pull request gets one comment, which later calls edit in\n" +
			"place, and its commit the status tranship/PLAN for every plan of the report. What would not change is left alone.\n" +
			"A shard's report has a comment of its own, and statuses tranship/SHARD/PLAN.\n\n" +
			"The token is read from an environment variable or a file, and sent to the address of --url only.\n" +
			"GitHub: issues and pull requests write, commit statuses write. GitLab: api. Gitea: write:issue, write:repository.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := context.WithTimeout(c.Context(), commentTimeout)
			defer stop()
			return f.post(ctx, c.InOrStdin(), c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&f.host.Provider, "provider", "", "github, gitlab or gitea (also Forgejo)")
	c.Flags().StringVar(&f.host.URL, "url", "", "address of the host's web pages (default: https://github.com or https://gitlab.com)")
	c.Flags().StringVar(&f.host.Repository, "repository", "", "OWNER/NAME; with gitlab the project's whole path")
	c.Flags().IntVar(&f.pull, "pull-request", 0, "number of the pull request (gitlab: the merge request's iid)")
	c.Flags().StringVar(&f.commit, "commit", "", "full name of the commit that gets the statuses (default: the pull request's head as it is now)")
	c.Flags().StringVar(&f.report, "report", "-", "file with the report; - is the standard input")
	c.Flags().StringVar(&f.tokenEnv, "token-env", "", "name of the environment variable with the token")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with the token")
	c.Flags().BoolVar(&f.statuses, "statuses", true, "set commit statuses too")
	return c
}

// commentTimeout bounds all requests and their repetitions together.
const commentTimeout = 5 * time.Minute

// marker finds our comment again; each shard has its own. It is the first line, so
// that a text that quotes it is not taken for ours.
func marker(shard string) string {
	if shard != "" {
		shard = ":" + shard
	}
	return "<!-- tranship:plan" + shard + " -->\n"
}

func (f *commentFlags) post(ctx context.Context, in io.Reader, out io.Writer) error {
	r, err := f.read(in)
	if err != nil {
		return err
	}
	if f.host.Token, err = f.token(); err != nil {
		return err
	}
	if f.pull < 1 {
		return fmt.Errorf("cannot find the pull request: give its number with --pull-request")
	}
	h, err := forge.Open(f.host)
	if err != nil {
		return err
	}
	said, err := h.Comment(ctx, f.pull, marker(r.Shard), marker(r.Shard)+markdown(r))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "comment   %s\n", said)
	if !f.statuses {
		return nil
	}
	if f.commit == "" {
		if f.commit, err = h.Head(ctx, f.pull); err != nil {
			return err
		}
	}
	set, err := h.SetStatuses(ctx, f.commit, statusesOf(r))
	fmt.Fprintf(out, "statuses  %d set on %.12s\n", set, f.commit)
	return err
}

// maxReport bounds what is read of a report; a job of a fork may have made it.
const maxReport = 64 << 20

func (f *commentFlags) read(in io.Reader) (*planReport, error) {
	if f.report != "-" {
		file, err := os.Open(f.report)
		if err != nil {
			return nil, fmt.Errorf("cannot read the report: %w; make it with `tranship plan -o json`", err)
		}
		defer file.Close()
		in = file
	}
	r := &planReport{}
	if err := json.NewDecoder(io.LimitReader(in, maxReport)).Decode(r); err != nil {
		return nil, fmt.Errorf("cannot read the report: %w; make it with `tranship plan -o json`", err)
	}
	if r.Shard != "" && len(validation.IsDNS1123Label(r.Shard)) > 0 {
		return nil, fmt.Errorf("cannot read the report: its shard %q is no name of a shard; make it with `tranship plan -o json`", shorten(r.Shard, 80))
	}
	r.Plans = slices.DeleteFunc(r.Plans, func(p *foreseenPlan) bool { return p == nil })
	return r, nil
}

func (f *commentFlags) token() (string, error) {
	var token string
	switch {
	case (f.tokenEnv == "") == (f.tokenFile == ""):
		return "", fmt.Errorf("cannot sign in: name the token with either --token-env or --token-file")
	case f.tokenEnv != "":
		token = os.Getenv(f.tokenEnv)
	default:
		data, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return "", fmt.Errorf("cannot read the token: %w", err)
		}
		token = string(data)
	}
	if token = strings.TrimSpace(token); token == "" || strings.ContainsAny(token, "\r\n") {
		return "", fmt.Errorf("cannot sign in: the token is empty or has several lines")
	}
	return token, nil
}

// outcomes of actions in the terms of commit statuses.
var outcomes = map[string]forge.State{actRefused: forge.Failure}

// statusesOf has a status a plan; contexts are tranship/PLAN, of a shard
// tranship/SHARD/PLAN: two of them have their say about a plan that changes hands.
func statusesOf(r *planReport) []forge.Status {
	var all []forge.Status
	context := "tranship/"
	if r.Shard != "" {
		context += r.Shard + "/"
	}
	for _, p := range r.Plans {
		s := forge.Status{Context: context + shorten(printable(p.Name), 100), State: forge.Success, Description: shorten(printable("merging this "+p.headline()), 130)}
		if state, ok := outcomes[p.Action]; ok {
			s.State, s.Description = state, shorten(printable(p.Reason+": "+p.Message), 130)
		}
		if r.Hold != nil {
			s.State, s.Description = forge.Failure, shorten(printable(r.Hold.Reason+": everything is held"), 130)
		}
		all = append(all, s)
	}
	return all
}
