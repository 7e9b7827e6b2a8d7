package velero

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
)

var snapshotLocationResource = velerov1.SchemeGroupVersion.WithResource("volumesnapshotlocations")

// nameLocations completes the VolumeSnapshotLocations that a Backup names. Velero's
// validation wants exactly one a provider from every Backup, also from one that takes
// no snapshots, and refuses it where a provider has several and none of them is named
// or the server's default (backup controller, 1.18).
func nameLocations(ctx context.Context, e *kube.Env, wanted []string) ([]string, error) {
	all, err := listed[velerov1.VolumeSnapshotLocation](ctx, e.Source, snapshotLocationResource, "")
	return oneEach(all, wanted), err
}

// oneEach adds to wanted a location of each provider that has several, and none of
// them in wanted: the one called default, or one without credentials of its own, which
// Velero would read and may not find. It is used for nothing.
func oneEach(all []velerov1.VolumeSnapshotLocation, wanted []string) []string {
	of := map[string][]velerov1.VolumeSnapshotLocation{}
	for _, l := range all {
		of[l.Spec.Provider] = append(of[l.Spec.Provider], l)
	}
	names := slices.Clone(wanted)
	for _, provider := range slices.Sorted(maps.Keys(of)) {
		here := of[provider]
		if len(here) < 2 || slices.ContainsFunc(here, func(l velerov1.VolumeSnapshotLocation) bool { return slices.Contains(wanted, l.Name) }) {
			continue
		}
		first := slices.MinFunc(here, func(a, b velerov1.VolumeSnapshotLocation) int {
			return cmp.Or(rank(&a)-rank(&b), cmp.Compare(a.Name, b.Name))
		})
		names = append(names, first.Name)
	}
	return names
}

func rank(l *velerov1.VolumeSnapshotLocation) int {
	switch {
	case l.Name == "default":
		return 0
	case l.Spec.Credential == nil:
		return 1
	}
	return 2
}
