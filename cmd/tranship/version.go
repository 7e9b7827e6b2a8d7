package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/spec"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and the format of documents that it reads",
		Args:  cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) {
			fmt.Fprintf(c.OutOrStdout(), "tranship %s (%s, %s)\n", version, spec.APIVersion, runtime.Version())
		},
	}
}
