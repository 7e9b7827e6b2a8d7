package mover

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// nativeWorld is a plan with one claim whose provider takes the snapshots.
func nativeWorld(t *testing.T) *agent {
	a := snapshotWorld(t)
	v := &a.e.Run.Facts.Volumes[0]
	v.SnapshotClass, v.SnapshotPlugin = "", "velero.io/aws"
	for _, on := range []*kube.Cluster{a.e.Source, a.e.Target} {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "velero.io/v1", "kind": "VolumeSnapshotLocation",
			"metadata": map[string]any{"name": "default", "namespace": "velero"}, "spec": map[string]any{"provider": "aws"}}}
		if _, err := on.Dynamic.Resource(snapshotLocationResource).Namespace("velero").Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	a.more = a.nativeRound
	return a
}

// nativeRound plays Velero's servers and a provider's plugin.
func (a *agent) nativeRound() {
	for _, on := range []*kube.Cluster{a.e.Source, a.e.Target} {
		a.each(on, statusRequestResource, func(*unstructured.Unstructured) map[string]any {
			return map[string]any{"phase": "Processed", "plugins": []any{map[string]any{"name": a.plugin, "kind": "VolumeSnapshotter"}}}
		})
	}
	a.each(a.e.Source, backupResource, func(*unstructured.Unstructured) map[string]any {
		return map[string]any{"phase": "Completed", "volumeSnapshotsCompleted": int64(a.shots)}
	})
	a.each(a.e.Target, restoreResource, func(o *unstructured.Unstructured) map[string]any {
		a.restore(o)
		return map[string]any{"phase": "Completed", "completionTimestamp": "2026-01-01T00:00:00Z"}
	})
}

// restore makes the source's volume anew, with the changes that Velero is told.
func (a *agent) restore(o *unstructured.Unstructured) {
	m, err := a.target.CoreV1().ConfigMaps("velero").Get(a.t.Context(), o.GetName(), metav1.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	var rules struct {
		Rules []struct {
			MergePatches []struct {
				PatchData string `json:"patchData"`
			} `json:"mergePatches"`
		} `json:"resourceModifierRules"`
	}
	if err := yaml.Unmarshal([]byte(m.Data["modifiers"]), &rules); err != nil || len(rules.Rules) != 1 {
		a.t.Fatalf("%v: %s", err, m.Data["modifiers"])
	}
	from, err := a.e.Source.Kube.CoreV1().PersistentVolumes().Get(a.t.Context(), "pv-data", metav1.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := json.Marshal(from)
	if err != nil {
		a.t.Fatal(err)
	}
	changed, err := strategicpatch.StrategicMergePatch(raw, []byte(rules.Rules[0].MergePatches[0].PatchData), &corev1.PersistentVolume{})
	if err != nil {
		a.t.Fatal(err)
	}
	pv := &corev1.PersistentVolume{}
	if err := json.Unmarshal(changed, pv); err != nil {
		a.t.Fatal(err)
	}
	a.made++
	pv.UID, pv.Labels["velero.io/restore-name"], pv.Status = types.UID(fmt.Sprintf("made-%d", a.made)), o.GetName(), corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable}
	pv.Spec.CSI.VolumeHandle = fmt.Sprintf("disk-%d", a.made)
	c := a.target.claim(ourNamespace, a.e.Run.Facts.Volumes[0].StagingClaim)
	if c == nil || c.Spec.VolumeName != pv.Name || pv.Spec.ClaimRef.Name != c.Name || pv.Spec.ClaimRef.UID != "" || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		a.t.Fatalf("the volume %+v is not reserved for a claim that names it: %+v", pv.Spec, c)
	}
	a.target.add(pv)
	a.target.settle()
}

// TestNativeKilledAtEveryWrite takes the whole way to the live claim, killed once
// at every write to the target: the outcome is the same.
func TestNativeKilledAtEveryWrite(t *testing.T) {
	for at := range 20 {
		for _, late := range []bool{false, true} {
			a := nativeWorld(t)
			a.target.killAt, a.target.late = at, late
			a.must("last-snapshot", "mover.snapshot", 1)
			backup := a.e.Run.Facts.Volumes[0].Snapshot
			a.must("land", "mover.land", 1)
			v := a.e.Run.Facts.Volumes[0]
			if backup == "" || v.Held != backup || v.Mark != spec.MarkClean || v.TargetPV != "pv-data" || v.TargetHandle != "csi/disk-1" || v.TargetPolicy != "Delete" {
				t.Fatalf("killed at %d: %+v", at, v)
			}
			a.must("hand-over", "mover.hand-over", 1)
			a.must("live", "mover.live", 1)
			app := a.target.claim("shop-new", "data")
			if app == nil || app.Spec.VolumeName != "pv-data" || a.e.Run.Facts.Volumes[0].Mark != spec.MarkLive {
				t.Fatalf("killed at %d: the application's claim is %+v", at, app)
			}
			if o := a.run("land", "mover.land", 2); o.Reason != "LiveClaim" || !o.Final {
				t.Fatalf("a live copy is replaced: %+v", o)
			}
			if len(a.target.lost)+len(a.target.stolen) > 0 {
				t.Fatalf("lost %v, anybody's %v", a.target.lost, a.target.stolen)
			}
		}
	}
}

// TestNativeFailures: what Velero would pass over in silence, and what is in the
// way, is told by name; nothing of others is touched.
func TestNativeFailures(t *testing.T) {
	for name, c := range map[string]struct {
		change       func(a *agent)
		step, reason string
	}{
		"no plugin":         {func(a *agent) { a.plugin = "velero.io/gcp" }, "snapshot", "SnapshotPluginMissing"},
		"no snapshot taken": {func(a *agent) { a.shots = 0 }, "snapshot", "SnapshotsMissing"},
		"a foreign volume": {func(a *agent) {
			a.target.add(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-data"}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "other", Name: "data"}}})
		}, "land", "VolumeNameTaken"},
	} {
		t.Run(name, func(t *testing.T) {
			a := nativeWorld(t)
			c.change(a)
			o := a.run("last-snapshot", "mover.snapshot", 1)
			if c.step == "land" {
				o = a.run("land", "mover.land", 1)
			}
			if o.Seen != reconciler.Broken || o.Final || o.Reason != c.reason {
				t.Errorf("got %+v", o)
			}
			if c.step == "land" && (len(a.target.lost) > 0 || a.target.volume("pv-data") == nil) {
				t.Errorf("lost %v", a.target.lost)
			}
		})
	}
}

// TestNativeUndo: the copy goes with its claim, and another run makes a new one
// under the same name.
func TestNativeUndo(t *testing.T) {
	a := nativeWorld(t)
	a.must("last-snapshot", "mover.snapshot", 1)
	a.must("land", "mover.land", 1)
	a.must("land", "mover.stop-land", 1)
	if v := a.e.Run.Facts.Volumes[0]; a.target.claim(ourNamespace, v.StagingClaim) != nil || a.target.volume("pv-data") != nil {
		t.Fatalf("left: %+v", v)
	}
	a.must("land", "mover.land", 2)
	if v := a.e.Run.Facts.Volumes[0]; v.TargetHandle != "csi/disk-2" || v.Mark != spec.MarkClean {
		t.Errorf("got %+v", v)
	}
}
