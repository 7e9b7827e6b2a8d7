package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/gitsource"
)

func logsCommand() *cobra.Command {
	var from ledgerFlags
	c := &cobra.Command{
		Use:   "logs PLAN [RUN]",
		Short: "Tell a run's story from Git alone: its record and its logs (default: the newest run)",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			v, err := from.view(c.Context())
			if err != nil {
				return err
			}
			defer v.Close()
			st, err := v.Plan(args[0])
			if err != nil {
				return err
			}
			if st == nil {
				return fmt.Errorf("the ledger has no plan %s", args[0])
			}
			name := newestName(st)
			if len(args) == 2 {
				name = args[1]
			}
			var known []string
			found := false
			err = eachYear(c.Context(), v, func(v *gitsource.View) (bool, error) {
				runs, err := v.Runs(args[0])
				known = append(known, runs...)
				if err == nil && name != "" {
					found, err = tellLogs(c.OutOrStdout(), v, args[0], name)
				}
				return !found, err
			})
			if err == nil && !found {
				err = fmt.Errorf("the ledger has no such run of %s; it has: %s", args[0], strings.Join(known, " "))
			}
			return err
		},
	}
	from.bind(c)
	return c
}

// tellLogs prints a run and its logs, where this year of the ledger has it.
func tellLogs(out io.Writer, v *gitsource.View, plan, name string) (found bool, err error) {
	run, err := v.Run(plan, name)
	if err != nil || run == nil {
		return false, err
	}
	if err := tellRun(out, run); err != nil {
		return true, err
	}
	logs, err := v.Logs(plan, run.Metadata.Name)
	if err != nil {
		return true, err
	}
	for _, l := range logs {
		fmt.Fprintf(out, "\n==> %s <==\n%s", l.Name, l.Text)
	}
	return true, nil
}
