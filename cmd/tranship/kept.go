package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover"
	"github.com/tranship/tranship/executor/velero"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

func keptCommand() *cobra.Command {
	var from ledgerFlags
	var into, snapshot string
	c := &cobra.Command{
		Use:   "kept PLAN [NAMESPACE/CLAIM --into FOLDER]",
		Short: "List what the source's volumes held before a copy back, or fetch it into a folder",
		Long: "A rollback with targetWrites: CopyBack keeps a snapshot of what it overwrites, until the plan is closed.\n" +
			"This lists them, from Git alone, or writes one into a folder of this machine, with owners, modes and times.\n" +
			"Neither cluster is touched: stop the application and bring the files into its volume yourself.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if (into == "") != (len(args) == 1) {
				return errors.New("name a claim and, with --into, an empty folder for what it held, or neither to list what is kept")
			}
			st, run, err := from.newest(c, args[0])
			if err != nil {
				return err
			}
			if into == "" {
				return listKept(c.OutOrStdout(), st)
			}
			if snapshot, err = keptOf(st, args[1], snapshot); err != nil {
				return err
			}
			return from.fetch(c, run, args[1], snapshot, into)
		},
	}
	c.Flags().StringVar(&into, "into", "", "an empty or new folder: the volume's content goes to volume/ in it, which only root can enter; needs root")
	c.Flags().StringVar(&snapshot, "snapshot", "", "which one; default the newest")
	from.bind(c)
	return c
}

// newest reads a plan's status and its newest run, of whichever year.
func (f *ledgerFlags) newest(c *cobra.Command, plan string) (st *spec.PlanStatus, run *spec.Run, err error) {
	v, err := f.view(c.Context())
	if err != nil {
		return nil, nil, err
	}
	defer v.Close()
	if st, err = v.Plan(plan); err != nil {
		return nil, nil, err
	}
	if st == nil {
		return nil, nil, fmt.Errorf("the ledger has no plan %s", plan)
	}
	err = eachYear(c.Context(), v, func(v *gitsource.View) (more bool, err error) {
		run, err = v.Run(plan, newestName(st))
		return run == nil, err
	})
	if err == nil && run == nil {
		err = fmt.Errorf("the ledger has no run of %s: nothing was ever copied", plan)
	}
	return st, run, err
}

func (f *ledgerFlags) fetch(c *cobra.Command, run *spec.Run, volume, snapshot, into string) error {
	cfg, err := f.load()
	if err != nil {
		return err
	}
	secrets, err := f.secrets(cfg)
	if err != nil {
		return err
	}
	e := &kube.Env{Call: reconciler.Call{Run: run}, Secrets: secrets, Settings: kube.Settings{Namespace: cfg.Spec.Namespace, Mover: cfg.Spec.Mover}}
	cloud, password, err := velero.Credentials(c.Context(), e)
	if err != nil {
		return err
	}
	got, err := mover.Fetch(c.Context(), e, volume, snapshot, into, cloud, password)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "%s has what volume %s held before: snapshot %s, %d files, %s, read back\n", filepath.Join(into, "volume"), volume, snapshot, got.Files, size(got.Bytes))
	return nil
}

func listKept(w io.Writer, st *spec.PlanStatus) error {
	none := true
	for _, v := range st.Volumes {
		if v.Back == nil {
			continue
		}
		for _, s := range v.Back.Kept {
			none = false
			fmt.Fprintf(w, "%s/%s  %s\n", v.Namespace, v.Claim, s)
		}
	}
	if none {
		fmt.Fprintln(w, "nothing is kept: no rollback of this plan has copied back")
	}
	return nil
}

// keptOf is a kept snapshot of a claim: the one that was named, or the newest.
func keptOf(st *spec.PlanStatus, claim, snapshot string) (string, error) {
	if st.Recorded.State == spec.Closed {
		return "", fmt.Errorf("plan %s is closed, and what it had kept is deleted", st.Metadata.Name)
	}
	for _, v := range st.Volumes {
		if v.Namespace+"/"+v.Claim != claim || v.Back == nil || len(v.Back.Kept) == 0 {
			continue
		}
		if snapshot == "" {
			return v.Back.Kept[len(v.Back.Kept)-1], nil
		}
		if slices.Contains(v.Back.Kept, snapshot) {
			return snapshot, nil
		}
		return "", fmt.Errorf("of claim %s the snapshots %s are kept, and not %s", claim, strings.Join(v.Back.Kept, ", "), snapshot)
	}
	return "", fmt.Errorf("of claim %s nothing is kept: `tranship kept %s` lists what is", claim, st.Metadata.Name)
}
