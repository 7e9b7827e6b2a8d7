package mover

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func location(name, provider string, config ...string) velerov1.VolumeSnapshotLocation {
	l := velerov1.VolumeSnapshotLocation{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: velerov1.VolumeSnapshotLocationSpec{Provider: provider, Config: map[string]string{}}}
	for i := 0; i+1 < len(config); i += 2 {
		l.Spec.Config[config[i]] = config[i+1]
	}
	return l
}

func cloudNode(name, id, region, zone string) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": zone}}, Spec: corev1.NodeSpec{ProviderID: id}}
	if region != "" {
		n.Labels[corev1.LabelTopologyRegion] = region
	}
	return n
}

// cloud is an inventory of two clusters of one provider in one region, whose
// only claim is to be copied by snapshot.
func cloud(provider, scheme string, source corev1.PersistentVolumeSource, provisioner string) (*Inventory, *spec.PlanSpec) {
	inv, plan := inventory([]string{"data"}), planOf()
	plan.Volumes.Overrides = []spec.VolumeOverride{{Namespace: "shop", Claim: "data", Method: "snapshot", Transfer: "Direct", StorageClassName: "disks"}}
	pv := inv.Volumes["pv-data"]
	pv.Spec.PersistentVolumeSource = source
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}},
	}}}}
	inv.Volumes["pv-data"] = pv
	inv.TargetClasses = append(inv.TargetClasses, storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "disks"}, Provisioner: provisioner})
	inv.Native = NativeInventory{
		Source: NativeSide{Name: "old", Locations: []velerov1.VolumeSnapshotLocation{location("default", provider)}, Nodes: []corev1.Node{cloudNode("o", scheme+"://1", "r1", "a")}},
		Target: NativeSide{Name: "new", Locations: []velerov1.VolumeSnapshotLocation{location("default", provider)}, Nodes: []corev1.Node{cloudNode("n", scheme+"://2", "r1", "a")}},
	}
	return inv, plan
}

func disk(driver string) corev1.PersistentVolumeSource {
	return corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "disk-1"}}
}

// TestNativeProviders: volumes of the three clouds, in-tree or of a CSI driver,
// are known without a word.
func TestNativeProviders(t *testing.T) {
	for name, c := range map[string]struct {
		provider, scheme string
		source           corev1.PersistentVolumeSource
		provisioner      string
		plugin           string
	}{
		"aws":            {"aws", "aws", disk("ebs.csi.aws.com"), "ebs.csi.aws.com", "velero.io/aws"},
		"aws in-tree":    {"velero.io/aws", "aws", corev1.PersistentVolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1"}}, "ebs.csi.aws.com", "velero.io/aws"},
		"gcp":            {"gcp", "gce", disk("pd.csi.storage.gke.io"), "pd.csi.storage.gke.io", "velero.io/gcp"},
		"gcp in-tree":    {"gcp", "gce", corev1.PersistentVolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: "d"}}, "kubernetes.io/gce-pd", "velero.io/gcp"},
		"azure":          {"velero.io/azure", "azure", disk("disk.csi.azure.com"), "disk.csi.azure.com", "velero.io/azure"},
		"azure in-tree":  {"azure", "azure", corev1.PersistentVolumeSource{AzureDisk: &corev1.AzureDiskVolumeSource{DiskName: "d"}}, "disk.csi.azure.com", "velero.io/azure"},
		"somebody's own": {"x.example/disks", "", disk("csi.x.example"), "csi.x.example", "x.example/disks"},
	} {
		t.Run(name, func(t *testing.T) {
			inv, plan := cloud(c.provider, c.scheme, c.source, c.provisioner)
			inv.Native.Source.Locations[0].Annotations = map[string]string{AnnotationDrivers: "csi.y.example, csi.x.example"}
			d, err := inv.Discover(plan)
			if err != nil || len(d.Problems) > 0 || len(d.Volumes) != 1 {
				t.Fatalf("got %+v, %v", d, err)
			}
			v := d.Volumes[0]
			if v.SnapshotPlugin != c.plugin || v.SnapshotClass != "" || v.Transfer != "" || v.StorageClassName != "disks" || !native(&v) || !strings.Contains(v.Notes[0], c.plugin) {
				t.Errorf("got %+v", v)
			}
		})
	}
}

// TestNativeRefusals: what would fail in the middle is told before anything runs.
func TestNativeRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change       func(inv *Inventory, plan *spec.PlanSpec)
		reason, says string
	}{
		"no location on the source": {func(inv *Inventory, _ *spec.PlanSpec) { inv.Native.Source.Locations = nil }, "NoSnapshotLocation", "cluster old has no VolumeSnapshotLocation of provider velero.io/aws"},
		"no location on the target": {func(inv *Inventory, _ *spec.PlanSpec) {
			inv.Native.Target.Locations = []velerov1.VolumeSnapshotLocation{location("default", "gcp")}
		}, "NoSnapshotLocation", "cluster new has no VolumeSnapshotLocation default of provider velero.io/aws, as cluster old has"},
		"two locations": {func(inv *Inventory, _ *spec.PlanSpec) {
			inv.Native.Source.Locations = []velerov1.VolumeSnapshotLocation{location("one", "aws"), location("other", "aws")}
		}, "NoSnapshotLocation", `call the one that is meant "default"`},
		"another provider": {func(inv *Inventory, _ *spec.PlanSpec) { inv.Native.Target.Nodes[0].Spec.ProviderID = "gce://2" }, "OtherProvider", "node n of cluster new"},
		"no provider":      {func(inv *Inventory, _ *spec.PlanSpec) { inv.Native.Source.Nodes[0].Spec.ProviderID = "" }, "OtherProvider", "node o of cluster old"},
		"another region": {func(inv *Inventory, _ *spec.PlanSpec) {
			inv.Native.Target.Nodes[0] = cloudNode("n", "aws://2", "r2", "a")
		}, "OtherRegion", "cluster old is in r1 and cluster new in r2"},
		"an unknown region": {func(inv *Inventory, _ *spec.PlanSpec) {
			inv.Native.Target.Nodes[0] = cloudNode("n", "aws://2", "", "a")
		}, "OtherRegion", "topology.kubernetes.io/region"},
		"locations differ": {func(inv *Inventory, _ *spec.PlanSpec) {
			inv.Native.Source.Locations[0].Spec.Config["region"] = "r1"
			inv.Native.Target.Locations[0].Spec.Config["region"] = "r2"
		}, "OtherRegion", "names r1 and default of cluster new names r2"},
		"no node in the zone":   {func(inv *Inventory, _ *spec.PlanSpec) { inv.Native.Target.Nodes[0].Labels["zone"] = "b" }, "NotUsableOnTarget", "zone In a"},
		"CSI snapshots only":    {func(inv *Inventory, _ *spec.PlanSpec) { inv.Native.Source.CSI = true }, "NativeSnapshotsOff", "EnableCSI"},
		"the driver is missing": {func(inv *Inventory, _ *spec.PlanSpec) { inv.TargetClasses = inv.TargetClasses[:1] }, "NotUsableOnTarget", "CSI driver ebs.csi.aws.com"},
		"the name is taken": {func(inv *Inventory, _ *spec.PlanSpec) {
			inv.Target.Volumes = []corev1.PersistentVolume{{ObjectMeta: metav1.ObjectMeta{Name: "pv-data"}}}
		}, "NotUsableOnTarget", "of the name pv-data"},
		"a class of another driver": {func(_ *Inventory, p *spec.PlanSpec) { p.Volumes.Overrides[0].StorageClassName = "fast" }, "NoStorageClass", "name one of ebs.csi.aws.com"},
		"nobody knows it": {func(inv *Inventory, _ *spec.PlanSpec) {
			pv := inv.Volumes["pv-data"]
			pv.Spec.PersistentVolumeSource = disk("csi.x.example")
			inv.Volumes["pv-data"] = pv
		}, "SnapshotNotDirect", "no plugin of Velero's is known"},
		"verified": {func(_ *Inventory, p *spec.PlanSpec) { p.Volumes.Defaults.Verify = true }, "SnapshotNotVerified", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inv, plan := cloud("aws", "aws", disk("ebs.csi.aws.com"), "ebs.csi.aws.com")
			c.change(inv, plan)
			d, err := inv.Discover(plan)
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Problems) != 1 || d.Problems[0].Reason != c.reason || !strings.Contains(d.Problems[0].Message, c.says) || len(d.Volumes) != 0 {
				t.Errorf("got %+v, want %s: %s", d, c.reason, c.says)
			}
		})
	}
}

// TestNativeOnlyWhereNeeded: a volume that a VolumeSnapshotClass serves goes
// through the repository unless the plan says otherwise; one without goes natively.
func TestNativeOnlyWhereNeeded(t *testing.T) {
	for name, c := range map[string]struct {
		transfer string
		class    bool
		native   bool
		problem  string
	}{
		"a class":              {"", true, false, ""},
		"a class and Direct":   {"Direct", true, true, ""},
		"no class":             {"", false, true, ""},
		"no class, Repository": {"Repository", false, false, "NoSnapshotClass"},
	} {
		t.Run(name, func(t *testing.T) {
			inv, plan := cloud("aws", "aws", disk("ebs.csi.aws.com"), "ebs.csi.aws.com")
			plan.Volumes.Overrides[0].Transfer = c.transfer
			if c.class {
				inv.SnapshotClasses = []SnapshotClass{{Name: "snap", Driver: "ebs.csi.aws.com"}}
			}
			d, err := inv.Discover(plan)
			if err != nil || len(d.Problems) > 0 != (c.problem != "") {
				t.Fatalf("got %+v, %v", d, err)
			}
			if c.problem != "" {
				if d.Problems[0].Reason != c.problem {
					t.Errorf("got %+v", d.Problems)
				}
				return
			}
			if v := d.Volumes[0]; native(&v) != c.native || (v.SnapshotClass != "") == c.native {
				t.Errorf("got %+v", v)
			}
		})
	}
}

// TestNativeTwoZones: one pod's claims do not come into two zones.
func TestNativeTwoZones(t *testing.T) {
	inv, _ := cloud("aws", "aws", disk("ebs.csi.aws.com"), "ebs.csi.aws.com")
	shot := spec.Volume{Namespace: "shop", Claim: "data", Action: "copy", Method: "snapshot", SnapshotPlugin: "velero.io/aws", Group: "Deployment/web/0", SourcePV: "pv-data"}
	files := spec.Volume{Namespace: "shop", Claim: "files", Action: "copy", Group: "Deployment/web/0"}
	d := Discovery{Volumes: []spec.Volume{shot, files}}
	if inv.checkZones(&d); len(d.Problems) != 1 || d.Problems[0].Reason != "TwoZones" || !strings.Contains(d.Problems[0].Message, "shop/files") {
		t.Errorf("got %+v", d.Problems)
	}
	for name, change := range map[string]func(shot, files *spec.Volume){
		"another pod":   func(_, files *spec.Volume) { files.Group = "Deployment/other/0" },
		"the same way":  func(shot, files *spec.Volume) { *files = *shot },
		"not copied":    func(_, files *spec.Volume) { files.Action = "skip" },
		"without zones": func(shot, _ *spec.Volume) { shot.SourcePV = "pv-other" },
	} {
		d := Discovery{Volumes: []spec.Volume{shot, files}}
		change(&d.Volumes[0], &d.Volumes[1])
		if inv.checkZones(&d); len(d.Problems) != 0 {
			t.Errorf("%s: got %+v", name, d.Problems)
		}
	}
}

// TestNotReady: what AWS and Google say of a snapshot that is not uploaded yet.
func TestNotReady(t *testing.T) {
	for why, want := range map[string]bool{
		"rpc error: code = Unknown desc = IncorrectState: Snapshot is in invalid state - pending": true,
		"googleapi: Error 400: The resource 'x' is not ready, resourceNotReady":                   true,
		"rpc error: code = Unknown desc = UnauthorizedOperation":                                  false,
	} {
		if notReady(why) != want {
			t.Errorf("notReady(%q) is not %v", why, want)
		}
	}
}
