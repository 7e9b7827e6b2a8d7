package mover

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestChooseSnapshotClass(t *testing.T) {
	for name, c := range map[string]struct {
		classes    []SnapshotClass
		want, says string
	}{
		"the only one":             {classes: []SnapshotClass{{Name: "a", Driver: "csi"}, {Name: "b", Driver: "other"}}, want: "a"},
		"the default of two":       {classes: []SnapshotClass{{Name: "a", Driver: "csi"}, {Name: "b", Driver: "csi", Default: true}}, want: "b"},
		"the label wins":           {classes: []SnapshotClass{{Name: "a", Driver: "csi", Velero: true}, {Name: "b", Driver: "csi", Default: true}}, want: "a"},
		"another driver's default": {classes: []SnapshotClass{{Name: "a", Driver: "csi"}, {Name: "b", Driver: "other", Default: true, Velero: true}}, want: "a"},
		"two without a mark":       {classes: []SnapshotClass{{Name: "b", Driver: "csi"}, {Name: "a", Driver: "csi"}}, says: "(a, b): label one with velero.io/csi-volumesnapshot-class=true"},
		"two labelled":             {classes: []SnapshotClass{{Name: "b", Driver: "csi", Velero: true}, {Name: "a", Driver: "csi", Velero: true}}, says: "(a, b)"},
		"none of the driver":       {classes: []SnapshotClass{{Name: "b", Driver: "other"}}, says: "no VolumeSnapshotClass of driver csi"},
	} {
		t.Run(name, func(t *testing.T) {
			got, says := chooseSnapshotClass("csi", c.classes)
			if got != c.want || !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
				t.Errorf("got %q, %q", got, says)
			}
		})
	}
}

// TestDiscoverSnapshots: what cannot be copied by snapshot says so, before
// anything runs.
func TestDiscoverSnapshots(t *testing.T) {
	block, inTree := corev1.PersistentVolumeBlock, corev1.PersistentVolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1"}}
	for name, c := range map[string]struct {
		change func(inv *Inventory, plan *spec.PlanSpec)
		reason string
	}{
		"by its class":           {},
		"no class for snapshots": {func(inv *Inventory, _ *spec.PlanSpec) { inv.SnapshotClasses = nil }, "NoSnapshotClass"},
		"not of a CSI driver": {func(inv *Inventory, _ *spec.PlanSpec) {
			pv := inv.Volumes["pv-data"]
			pv.Spec.PersistentVolumeSource = inTree
			inv.Volumes["pv-data"] = pv
		}, "NoSnapshotLocation"},
		"a block device":         {func(inv *Inventory, _ *spec.PlanSpec) { inv.Namespaces[0].Claims[0].Spec.VolumeMode = &block }, "BlockVolume"},
		"no storage class":       {func(inv *Inventory, _ *spec.PlanSpec) { inv.Namespaces[0].Claims[0].Spec.StorageClassName = ptr.To("") }, "NoSnapshots"},
		"verified":               {func(_ *Inventory, p *spec.PlanSpec) { p.Volumes.Defaults.Verify = true }, "SnapshotNotVerified"},
		"past the repository":    {func(_ *Inventory, p *spec.PlanSpec) { p.Volumes.Defaults.Transfer = "Direct" }, "SnapshotNotDirect"},
		"no class on the target": {func(inv *Inventory, _ *spec.PlanSpec) { inv.TargetClasses = nil }, "NoStorageClass"},
	} {
		t.Run(name, func(t *testing.T) {
			inv, plan := inventory([]string{"data"}), planOf()
			inv.SnapshotClasses = []SnapshotClass{{Name: "snap", Driver: "csi"}}
			plan.Volumes.Overrides = []spec.VolumeOverride{{Namespace: "shop", Claim: "data", Method: "snapshot"}}
			if c.change != nil {
				c.change(inv, plan)
			}
			d, err := inv.Discover(plan)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case c.reason == "" && (len(d.Problems) > 0 || d.Volumes[0].SnapshotClass != "snap" || d.Volumes[0].StorageClassName != "fast" || len(d.Volumes[0].Notes) != 1):
				t.Errorf("got %+v", d)
			case c.reason != "" && (len(d.Problems) != 1 || d.Problems[0].Reason != c.reason || len(d.Volumes) != 0):
				t.Errorf("got %+v, want %s", d, c.reason)
			}
		})
	}
}

// TestEstimateOfSnapshots: all of such a volume is restored, however little
// of it has changed.
func TestEstimateOfSnapshots(t *testing.T) {
	run := &spec.Run{}
	run.Facts.Volumes = []spec.Volume{{Action: "copy", Method: "snapshot", Bytes: 50e9, ChangedBytes: 1}}
	if got := estimate(run); got.StopSeconds < 1000 || got.ChangedBytes != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestConsumerMountsTheWholeGroup(t *testing.T) {
	e := testEnv(newWorld(t), newWorld(t), "land", "mover.land")
	g := &landingGroup{namespace: "shop", name: "Deployment/web/0", mounts: []string{"tr-a", "tr-b"}}
	p := g.pod(e, placement{nodeSelector: map[string]string{"disk": "ssd"}})
	if len(p.Spec.Volumes) != 2 || p.Spec.NodeSelector["disk"] != "ssd" || *p.Spec.AutomountServiceAccountToken || p.Namespace != ourNamespace {
		t.Errorf("got %+v", p.Spec)
	}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			t.Errorf("volume %+v is none of our claims", v)
		}
	}
	if m := (&metav1.ObjectMeta{Labels: p.Labels}); !ours(e, m) || p.Labels[LabelComponent] != ComponentConsumer {
		t.Errorf("labels %v", p.Labels)
	}
}
