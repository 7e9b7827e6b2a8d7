package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

func validateCommand() *cobra.Command {
	var output string
	var configs []string
	c := &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check manifests without a cluster; exit 1 when something is wrong",
		Long: "Reads every .yaml and .yml file below the paths as the daemon would, and prints\n" +
			"all problems at once as file:line: field: sentence. Exit 0: everything is well;\n" +
			"1: there are problems; 2: the paths could not be read. Files that a " + spec.IgnoreFile + "\n" +
			"of the clone ignores are left out and counted. Configurations of several shards are\n" +
			"compared: no plan, and no ledger, may belong to two of them, and each plan below the\n" +
			"paths must belong to one. No PATH is needed then. Folders of shards are those of the\n" +
			"clone that a PATH is in; a PATH outside of a clone stands for the repository.",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args)+len(configs) == 0 {
				return errors.New("nothing to check: name folders of manifests, or the daemon's configuration with --config")
			}
			daemons, err := loadAll(configs)
			if err != nil {
				return err
			}
			found, err := readManifests(args, daemons)
			if err != nil {
				fmt.Fprintln(c.ErrOrStderr(), "tranship: cannot read the manifests:", err)
				return exitError(2)
			}
			problems, counts := check(found, daemons)
			problems = append(spec.ShardProblems(daemons), problems...)
			if err := printProblems(c.OutOrStdout(), output, problems, counts, found.Ignored); err != nil {
				return err
			}
			if len(problems) > 0 {
				return exitError(1)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	c.Flags().StringArrayVar(&configs, "config", nil, "the daemon's configuration, for its source.path and source.ignore; again for each shard, which are compared")
	return c
}

func loadAll(files []string) (all []*spec.DaemonConfig, err error) {
	for _, file := range files {
		cfg, err := (&configFlags{config: file}).load()
		if err != nil {
			return nil, err
		}
		all = append(all, cfg)
	}
	return all, nil
}

// readManifests reads what the daemon would read of the paths, where the first
// configuration says what of the repository counts.
func readManifests(paths []string, daemons []*spec.DaemonConfig) (*gitsource.Found, error) {
	var source spec.Repository
	if len(daemons) > 0 {
		source = daemons[0].Spec.Source
	}
	all := &gitsource.Found{}
	for _, p := range paths {
		f := gitsource.Folder{Path: p, Ignore: source.Ignore}
		if local, err := gitsource.OpenLocal(p); err == nil && source.Path != "" {
			f.Scope = filepath.Join(local.Root(), filepath.FromSlash(source.Path))
			_ = local.Close() // nothing was read
		}
		found, err := f.Read()
		if err != nil {
			return nil, err
		}
		all.Files = append(all.Files, found.Files...)
		all.Refused = append(all.Refused, found.Refused...)
		all.Ignored += found.Ignored
	}
	return all, nil
}

// check decodes, validates and assembles, says what this version cannot do, and
// which plans none of several daemons runs.
func check(found *gitsource.Found, daemons []*spec.DaemonConfig) ([]spec.Problem, map[string]int) {
	docs := found.Refused
	names := map[string]string{}
	for _, f := range found.Files {
		names[f.Path] = f.Name
		d, _ := spec.Decode(f.File) // Assemble reports the problems of each document
		docs = append(docs, d...)
	}
	name := func(file string) string { return names[file] }
	all := append(spec.Unclaimed(daemons, docs, name), spec.WaitAcross(daemons, docs, name)...)
	closures, byPlan, other, counts := spec.Assemble(docs)
	all = append(all, other...)
	for _, ps := range byPlan {
		all = append(all, ps...)
	}
	for name, c := range closures {
		for _, p := range spec.NotSupported(c) {
			if p.File == "" {
				p.File = "MigrationPlan/" + name
			}
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b spec.Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return strings.Compare(a.Path+a.Message, b.Path+b.Message)
	})
	return slices.Compact(all), counts
}

func printProblems(w io.Writer, output string, problems []spec.Problem, counts map[string]int, ignored int) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(map[string]any{"problems": problems, "documents": counts, "ignored": ignored})
	}
	for _, p := range problems {
		fmt.Fprintln(w, p)
	}
	kinds := []string{}
	for _, k := range []string{spec.KindCluster, spec.KindReplicationRepository, spec.KindHook, spec.KindMigrationPlan} {
		kinds = append(kinds, fmt.Sprintf("%d %s", counts[k], k))
	}
	if ignored > 0 {
		kinds = append(kinds, fmt.Sprintf("%d files ignored", ignored))
	}
	_, err := fmt.Fprintf(w, "%s: %d problems\n", strings.Join(kinds, ", "), len(problems))
	return err
}
