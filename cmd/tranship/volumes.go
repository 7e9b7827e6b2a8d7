package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// tellVolumes prints a line a volume: what will happen to it, or has happened,
// and below each line what is special about it.
func tellVolumes(w io.Writer, volumes []spec.Volume) error {
	if len(volumes) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.DiscardEmptyColumns)
	fmt.Fprintln(t, "volume\tUSED BY\tACTION\tSTORAGE CLASS\tSIZE\tMODES\tHOLDS\tDATA\tLAST CHANGE")
	for i := range volumes {
		v := &volumes[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", named(v), orDash(strings.Join(v.Owners, ",")), strings.TrimSpace(v.Action+" "+v.Method),
			classes(v), orDash(v.Capacity), modes(v.AccessModes), holds(v), data(v.Files, v.Bytes), data(v.ChangedFiles, v.ChangedBytes))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i := range volumes {
		for _, n := range volumes[i].Notes {
			fmt.Fprintf(w, "note      claim %s/%s: %s\n", volumes[i].Namespace, volumes[i].Claim, n)
		}
		for _, n := range volumes[i].Warnings {
			fmt.Fprintf(w, "warning   claim %s/%s: %s\n", volumes[i].Namespace, volumes[i].Claim, n)
		}
	}
	return nil
}

// named is the claim, and what it is called on the target if that differs.
func named(v *spec.Volume) string {
	from, to := v.Namespace+"/"+v.Claim, v.TargetNamespace+"/"+v.TargetClaim
	if from == to || v.Action == "skip" {
		return from
	}
	return from + " -> " + to
}

func classes(v *spec.Volume) string {
	if v.SourceClassName == "" || v.SourceClassName == v.StorageClassName {
		return orDash(v.StorageClassName)
	}
	return v.SourceClassName + " -> " + orDash(v.StorageClassName)
}

// shortModes are what kubectl prints.
var shortModes = map[corev1.PersistentVolumeAccessMode]string{
	corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP",
}

func modes(all []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range all {
		short = append(short, shortModes[m])
	}
	return orDash(strings.Join(short, ","))
}

// holds says what lies on the target.
func holds(v *spec.Volume) string {
	if v.Mark == spec.MarkClean && v.Held != v.Snapshot {
		return "clean, older"
	}
	return orDash(string(v.Mark))
}

func data(files, bytes int64) string {
	if files == 0 && bytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%d files, %s", files, size(bytes))
}
