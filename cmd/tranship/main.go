// Tranship moves applications between Kubernetes and OpenShift clusters,
// driven by Git: the merge is the approval, history is the audit.
package main

import (
	"errors"
	"fmt"
	"os"
	_ "time/tzdata" // schedules name IANA zones; images often have none

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// exitError ends the program with a code of its own, without another message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	root := &cobra.Command{
		Use:           "tranship",
		Short:         "Moves applications between Kubernetes clusters, driven by Git",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), validateCommand(), checkCommand(), approveCommand(), approvalsCommand(), statusCommand(), logsCommand(), explainCommand(), planCommand(), commentCommand(), historyCommand(), auditCommand(), ledgerCommand(), acknowledgeCommand(), rollbackCommand(), keptCommand(), moverCommand(), versionCommand())
	err := root.Execute()
	var code exitError
	if errors.As(err, &code) {
		os.Exit(int(code))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tranship:", err)
		os.Exit(1)
	}
}
