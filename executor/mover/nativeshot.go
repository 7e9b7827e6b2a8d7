package mover

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/velero"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

var (
	backupResource        = velerov1.SchemeGroupVersion.WithResource("backups")
	restoreResource       = velerov1.SchemeGroupVersion.WithResource("restores")
	statusRequestResource = velerov1.SchemeGroupVersion.WithResource("serverstatusrequests")
	configMapResource     = corev1.SchemeGroupVersion.WithResource("configmaps")
)

// natives are the volumes of native snapshots.
func natives(volumes []spec.Volume) []spec.Volume {
	return slices.DeleteFunc(slices.Clone(volumes), func(v spec.Volume) bool { return !native(&v) })
}

func pluginsOf(volumes []spec.Volume) []string {
	var all []string
	for i := range volumes {
		all = append(all, volumes[i].SnapshotPlugin)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// shootNative has the providers take a snapshot of every native volume, all in
// one Backup:
//
//	the plugins are there ──▶ Backup ──completed, with as many snapshots──▶ recorded
func shootNative(ctx context.Context, e *kube.Env, volumes []spec.Volume, t *thought) (*reconciler.Observation, error) {
	mine := natives(volumes)
	if len(mine) == 0 {
		return nil, nil
	}
	backups, err := listOf(ctx, e.Source, backupResource, e.Source.VeleroNamespace, ofPlan(e))
	if err != nil {
		return nil, err
	}
	t.watches = append(t.watches, watchOf(e.Source, backupResource, e.Source.VeleroNamespace, ofPlan(e).LabelSelector, backups.GetResourceVersion()))
	name := e.ObjectName("native")
	o, err := velero.LookVolumeBackup(ctx, e, name, len(mine))
	if err != nil {
		return nil, err
	}
	switch o.Seen {
	case reconciler.Absent:
		locations, o, err := pluginsReady(ctx, e, t, mine)
		if o != nil || err != nil || len(t.moves) > 0 {
			return o, err
		}
		t.move(fmt.Sprintf("have Velero on cluster %s take snapshots of %d claims", e.Source.Name, len(mine)), func(ctx context.Context) error {
			return velero.EnsureVolumeBackup(ctx, e, objectMeta(e, e.Source.VeleroNamespace, name, ComponentSnapshot), mine, locations)
		})
		return nil, nil
	case reconciler.Succeeded:
		for i := range volumes {
			if v := &volumes[i]; native(v) {
				// How much is in it, only the provider knows.
				v.Snapshot, v.Bytes, v.ChangedBytes = name, 0, 0
			}
		}
		return nil, dropStatusRequests(ctx, e, t)
	}
	return &o, nil
}

// pluginsReady names the administrator's locations, and asks both Veleros whether
// they have the plugins: one without would leave the volumes out. No location is
// ever added: beside a second one of a provider, Velero refuses every Backup that
// names none.
func pluginsReady(ctx context.Context, e *kube.Env, t *thought, mine []spec.Volume) (names []string, o *reconciler.Observation, err error) {
	var sides [2]NativeSide
	for i, on := range []*kube.Cluster{e.Source, e.Target} {
		sides[i].Name = on.Name
		if sides[i].Locations, err = snapshotLocations(ctx, on); err != nil {
			return nil, nil, err
		}
	}
	for _, plugin := range pluginsOf(mine) {
		from, _, why := chooseLocations(&sides[0], &sides[1], plugin)
		if why != "" {
			o := broken(false, "NoSnapshotLocation", "", "%s", why)
			return nil, &o, nil
		}
		names = append(names, from.Name)
	}
	for _, on := range []*kube.Cluster{e.Source, e.Target} {
		if o, err = hasPlugins(ctx, e, t, on, pluginsOf(mine)); o != nil || err != nil {
			return nil, o, err
		}
	}
	return names, nil, nil
}

// hasPlugins asks Velero for its plugins, as `velero plugin get` does.
func hasPlugins(ctx context.Context, e *kube.Env, t *thought, on *kube.Cluster, wanted []string) (*reconciler.Observation, error) {
	l, err := listOf(ctx, on, statusRequestResource, on.VeleroNamespace, ofPlan(e))
	if err != nil {
		return nil, err
	}
	name := e.ObjectName("plugins")
	i := slices.IndexFunc(l.Items, func(o unstructured.Unstructured) bool { return o.GetName() == name })
	if i < 0 {
		t.move(fmt.Sprintf("ask Velero on cluster %s for its plugins", on.Name), func(ctx context.Context) error {
			return create(ctx, on, statusRequestResource, "ServerStatusRequest", &velerov1.ServerStatusRequest{ObjectMeta: objectMeta(e, on.VeleroNamespace, name, ComponentSnapshot)})
		})
		return nil, nil
	}
	var r velerov1.ServerStatusRequest
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(l.Items[i].Object, &r); err != nil {
		return nil, on.Errorf(err, "understand ServerStatusRequest %s", name)
	}
	at := object(on.Side, "ServerStatusRequest", on.VeleroNamespace, name)
	if r.Status.Phase != velerov1.ServerStatusRequestPhaseProcessed {
		t.watches = append(t.watches, watchOf(on, statusRequestResource, on.VeleroNamespace, ofPlan(e).LabelSelector, l.GetResourceVersion()))
		o := working("WaitingForVelero", at, "Velero on cluster %s has not said yet which plugins it has; is its Deployment running in namespace %s?", on.Name, on.VeleroNamespace)
		return &o, nil
	}
	for _, w := range wanted {
		if !slices.Contains(r.Status.Plugins, velerov1.PluginInfo{Name: w, Kind: "VolumeSnapshotter"}) {
			o := broken(false, "SnapshotPluginMissing", at, "Velero on cluster %s has no VolumeSnapshotter plugin %s: install it with `velero plugin add`, or write another method", on.Name, w)
			return &o, nil
		}
	}
	return nil, nil
}

// dropStatusRequests removes what Velero itself would keep for some minutes.
func dropStatusRequests(ctx context.Context, e *kube.Env, t *thought) error {
	for _, on := range []*kube.Cluster{e.Source, e.Target} {
		if on == nil {
			continue // it does not answer, and what is there expires
		}
		l, err := listOf(ctx, on, statusRequestResource, on.VeleroNamespace, ofPlan(e))
		if err != nil {
			return err
		}
		for i := range l.Items {
			remove(t, on, statusRequestResource, &l.Items[i])
		}
	}
	return nil
}

// nativeBackups select the Backups that hold native snapshots.
func nativeBackups(e *kube.Env) string { return helpers(e, ComponentSnapshot).LabelSelector }

// stopNative deletes the native snapshots of the run whose effects are at hand.
// What an earlier run took stays: the provider's next snapshot builds on it.
func stopNative(ctx context.Context, e *kube.Env, t *thought) (*reconciler.Observation, error) {
	return dropNative(ctx, e, t, nativeBackups(e)+","+kube.LabelRun+"="+e.Origin(), nil)
}

// cleanUpNative deletes all but the newest.
func cleanUpNative(ctx context.Context, e *kube.Env, t *thought) (*reconciler.Observation, error) {
	var keep []string
	for _, v := range natives(e.Run.Facts.Volumes) {
		keep = append(keep, v.Snapshot)
	}
	return dropNative(ctx, e, t, nativeBackups(e), keep)
}

// dropNative deletes Backups, and with them their snapshots, and what Velero was
// told for them.
func dropNative(ctx context.Context, e *kube.Env, t *thought, selector string, keep []string) (*reconciler.Observation, error) {
	if len(natives(e.Run.Facts.Volumes)) == 0 {
		return nil, nil
	}
	if err := dropStatusRequests(ctx, e, t); err != nil {
		return nil, err
	}
	filters, err := listOf(ctx, e.Source, configMapResource, e.Source.VeleroNamespace, metav1.ListOptions{LabelSelector: ofPlan(e).LabelSelector + "," + kube.LabelRun + "=" + e.Origin()})
	if err != nil {
		return nil, err
	}
	for i := range filters.Items {
		remove(t, e.Source, configMapResource, &filters.Items[i])
	}
	o, err := velero.LookBackupsGone(ctx, e, selector, keep)
	switch {
	case err != nil:
		return nil, err
	case o.Seen == reconciler.Absent:
		t.move("have Velero delete snapshots that are not needed any more", func(ctx context.Context) error {
			return velero.DeleteBackups(ctx, e, selector, keep)
		})
	case o.Seen != reconciler.Succeeded:
		return &o, nil
	}
	return nil, nil
}
