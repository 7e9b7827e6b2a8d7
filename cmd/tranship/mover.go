package main

import (
	"github.com/spf13/cobra"
	"github.com/tranship/tranship/executor/mover"
)

// moverCommand is what runs in our pods on the clusters; people do not call it.
func moverCommand() *cobra.Command {
	c := &cobra.Command{Use: "mover", Short: "Copy volumes (run by the Jobs of the daemon)", Hidden: true}
	var request string
	run := &cobra.Command{
		Use: "run", Short: "Do one request", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return mover.Work(c.Context(), request, c.OutOrStdout())
		},
	}
	run.Flags().StringVar(&request, "request", "", "file with the request")
	hold := &cobra.Command{
		Use: "hold", Short: "Keep a claim mounted until told to end", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return mover.Hold(c.Context()) },
	}
	tell := &cobra.Command{
		Use: "tell", Short: "Give the mover of this container its order", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return mover.Tell(c.Context(), c.InOrStdin()) },
	}
	c.AddCommand(run, hold, tell)
	return c
}
