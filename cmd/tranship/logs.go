package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
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
			run, err := newestRun(v, st)
			if len(args) == 2 {
				run, err = v.Run(args[0], args[1])
			}
			if err != nil {
				return err
			}
			if run == nil {
				runs, _ := v.Runs(args[0])
				return fmt.Errorf("the ledger has no such run of %s; it has: %s", args[0], strings.Join(runs, " "))
			}
			out := c.OutOrStdout()
			if err := tellRun(out, run); err != nil {
				return err
			}
			logs, err := v.Logs(args[0], run.Metadata.Name)
			if err != nil {
				return err
			}
			for _, l := range logs {
				fmt.Fprintf(out, "\n==> %s <==\n%s", l.Name, l.Text)
			}
			return nil
		},
	}
	from.bind(c)
	return c
}
