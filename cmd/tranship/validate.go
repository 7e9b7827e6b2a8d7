package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/spec"
)

func validateCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check manifests without a cluster; exit 1 when something is wrong",
		Long: "Reads every .yaml and .yml file below the paths as the daemon would, and prints\n" +
			"all problems at once as file:line: field: sentence. Exit 0: everything is well;\n" +
			"1: there are problems; 2: the paths could not be read.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			files, err := readManifests(args)
			if err != nil {
				fmt.Fprintln(c.ErrOrStderr(), "tranship: cannot read the manifests:", err)
				return exitError(2)
			}
			problems, counts := check(files)
			if err := printProblems(c.OutOrStdout(), output, problems, counts); err != nil {
				return err
			}
			if len(problems) > 0 {
				return exitError(1)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// readManifests returns the YAML files below paths, in order of their names.
func readManifests(paths []string) ([]spec.File, error) {
	var files []spec.File
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !d.Type().IsRegular() {
				return err
			}
			if ext := filepath.Ext(path); ext != ".yaml" && ext != ".yml" {
				return nil
			}
			data, err := os.ReadFile(path)
			files = append(files, spec.File{Path: filepath.ToSlash(path), Data: data})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// check decodes, validates and assembles, and says what this version cannot do.
func check(files []spec.File) ([]spec.Problem, map[string]int) {
	var docs []spec.Document
	var all []spec.Problem
	for _, f := range files {
		d, _ := spec.Decode(f) // Assemble reports the problems of each document
		docs = append(docs, d...)
	}
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

func printProblems(w io.Writer, output string, problems []spec.Problem, counts map[string]int) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(map[string]any{"problems": problems, "documents": counts})
	}
	for _, p := range problems {
		where := p.File
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d", p.File, p.Line)
		}
		if p.Path != "" {
			where += ": " + p.Path
		}
		fmt.Fprintf(w, "%s: %s\n", where, p.Message)
	}
	kinds := []string{}
	for _, k := range []string{spec.KindCluster, spec.KindReplicationRepository, spec.KindHook, spec.KindMigrationPlan} {
		kinds = append(kinds, fmt.Sprintf("%d %s", counts[k], k))
	}
	_, err := fmt.Fprintf(w, "%s: %d problems\n", strings.Join(kinds, ", "), len(problems))
	return err
}
