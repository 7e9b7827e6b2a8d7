package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

func explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "explain [stage|migrate|rollback|close]",
		Short:     "Print the steps of a run: what each does, how it is undone, what it waits for",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"stage", "migrate", "rollback", "close"},
		RunE: func(c *cobra.Command, args []string) error {
			kinds := []spec.RunKind{spec.RunStage, spec.RunMigrate, spec.RunRollback, spec.RunClose}
			for _, k := range kinds {
				if len(args) == 0 || slices.Contains(args, string(k)) {
					if err := explain(c.OutOrStdout(), k); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
}

// explain prints an itinerary from the table that runs it.
func explain(w io.Writer, kind spec.RunKind) error {
	fmt.Fprintf(w, "%s\n", kind)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	var cutover spec.Cutover
	rows := reconciler.Itineraries[kind]
	if kind == spec.RunRollback {
		rows = reconciler.RollbackRows()
	}
	for i, d := range rows {
		undo := d.Undo
		if undo == "" {
			undo = "no undo: " + d.NoUndo
		} else if kind == spec.RunRollback {
			undo += " (where a copy back fails)"
		} else if d.UndoBefore {
			undo += " (before the source restarts)"
		}
		notes := ""
		if d.Push {
			notes += " [pushed to Git first]"
		}
		if d.Gate {
			notes += " [asks Git again]"
		}
		fmt.Fprintf(t, "%3d\t%s\t%s%s\t%s\t%s\n", i+1, d.Name, d.Help, notes, d.Timeout(&cutover), undo)
	}
	return t.Flush()
}
