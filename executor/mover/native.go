package mover

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A native snapshot is one that the provider of the storage takes itself, through
// a plugin of Velero's; its data never leave the provider (ADR 15).

// AnnotationDrivers of a VolumeSnapshotLocation, set by an administrator, names
// the CSI drivers, separated by commas, whose volumes its plugin snapshots. The
// three clouds need none.
const AnnotationDrivers = "tranship.dev/drivers"

// provider is one whose plugin is known, by the documentation of each.
type provider struct {
	plugin  string // its VolumeSnapshotter
	drivers []string
	inTree  func(s *corev1.PersistentVolumeSource) bool
	scheme  string // of a node's spec.providerID
	// pending is in the errors of a plugin whose snapshot is not ready yet; that
	// of Azure returns only when it is.
	pending string
}

var providers = []provider{
	{"velero.io/aws", []string{"ebs.csi.aws.com", "kubernetes.io/aws-ebs"}, func(s *corev1.PersistentVolumeSource) bool { return s.AWSElasticBlockStore != nil }, "aws", "IncorrectState"},
	{"velero.io/gcp", []string{"pd.csi.storage.gke.io", "kubernetes.io/gce-pd"}, func(s *corev1.PersistentVolumeSource) bool { return s.GCEPersistentDisk != nil }, "gce", "resourceNotReady"},
	{"velero.io/azure", []string{"disk.csi.azure.com", "kubernetes.io/azure-disk"}, func(s *corev1.PersistentVolumeSource) bool { return s.AzureDisk != nil }, "azure", ""},
}

// notReady says that a provider only needs more time for its snapshots.
func notReady(why string) bool {
	return slices.ContainsFunc(providers, func(p provider) bool { return p.pending != "" && strings.Contains(why, p.pending) })
}

// providerOf finds the known provider of a volume, nil if there is none.
func providerOf(pv *corev1.PersistentVolume) *provider {
	s := &pv.Spec.PersistentVolumeSource
	i := slices.IndexFunc(providers, func(p provider) bool {
		return p.inTree(s) || s.CSI != nil && slices.Contains(p.drivers, s.CSI.Driver)
	})
	if i < 0 {
		return nil
	}
	return &providers[i]
}

// native says that the volume is copied by a snapshot of its provider's own.
func native(v *spec.Volume) bool { return snapshotted(v) && v.SnapshotPlugin != "" }

// NativeInventory is what tells whether providers can take snapshots of the
// source's volumes that the target can use.
type NativeInventory struct{ Source, Target NativeSide }

// NativeSide is the part of one cluster.
type NativeSide struct {
	Name      string
	Locations []velerov1.VolumeSnapshotLocation
	Nodes     []corev1.Node // read only where there are locations
	// CSI: Velero leaves volumes of CSI drivers to CSI snapshots.
	CSI bool
}

var snapshotLocationResource = velerov1.SchemeGroupVersion.WithResource("volumesnapshotlocations")

func readNative(ctx context.Context, e *kube.Env) (NativeInventory, error) {
	var n NativeInventory
	var err error
	n.Target.Name = e.Target.Name
	if n.Source, err = readNativeSide(ctx, e.Source); err != nil || len(n.Source.Locations) == 0 {
		return n, err
	}
	n.Target, err = readNativeSide(ctx, e.Target)
	return n, err
}

func readNativeSide(ctx context.Context, on *kube.Cluster) (NativeSide, error) {
	n := NativeSide{Name: on.Name}
	var err error
	if n.Locations, err = snapshotLocations(ctx, on); err != nil || len(n.Locations) == 0 {
		return n, err
	}
	nodes, err := on.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return n, on.Errorf(err, "list the nodes, which tell provider and region")
	}
	n.Nodes = nodes.Items
	server, err := on.Kube.AppsV1().Deployments(on.VeleroNamespace).Get(ctx, "velero", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return n, nil // preflight says so
	}
	if err != nil {
		return n, on.Errorf(err, "read Deployment %s/velero", on.VeleroNamespace)
	}
	for _, c := range server.Spec.Template.Spec.Containers {
		n.CSI = n.CSI || slices.ContainsFunc(append(c.Command, c.Args...), func(a string) bool { return strings.Contains(a, "EnableCSI") })
	}
	return n, nil
}

// snapshotLocations lists those in Velero's namespace.
func snapshotLocations(ctx context.Context, on *kube.Cluster) ([]velerov1.VolumeSnapshotLocation, error) {
	l, err := listOf(ctx, on, snapshotLocationResource, on.VeleroNamespace, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all []velerov1.VolumeSnapshotLocation
	for i := range l.Items {
		var one velerov1.VolumeSnapshotLocation
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(l.Items[i].Object, &one); err != nil {
			return nil, on.Errorf(err, "understand VolumeSnapshotLocation %s", l.Items[i].GetName())
		}
		all = append(all, one)
	}
	return all, nil
}

// pluginOf is the full name of a location's plugin, as Velero completes it.
func pluginOf(l *velerov1.VolumeSnapshotLocation) string {
	if strings.Contains(l.Spec.Provider, "/") {
		return l.Spec.Provider
	}
	return "velero.io/" + l.Spec.Provider
}

// chooseLocation picks the location of a plugin: the one called default, else
// the only one. Without an answer it returns the rest of a sentence.
func (n *NativeSide) chooseLocation(plugin string) (*velerov1.VolumeSnapshotLocation, string) {
	var of []*velerov1.VolumeSnapshotLocation
	for i := range n.Locations {
		if l := &n.Locations[i]; pluginOf(l) == plugin {
			if l.Name == "default" {
				return l, ""
			}
			of = append(of, l)
		}
	}
	switch len(of) {
	case 0:
		return nil, fmt.Sprintf("Velero on cluster %s has no VolumeSnapshotLocation of provider %s: install that plugin there and create one", n.Name, plugin)
	case 1:
		return of[0], ""
	}
	return nil, fmt.Sprintf("Velero on cluster %s has %d VolumeSnapshotLocations of provider %s: call the one that is meant \"default\"", n.Name, len(of), plugin)
}

// chooseLocations picks the location of a plugin on both clusters. A snapshot
// refers to the source's by name, so the target's must have the same.
func chooseLocations(s, t *NativeSide, plugin string) (from, to *velerov1.VolumeSnapshotLocation, problem string) {
	from, why := s.chooseLocation(plugin)
	if why != "" {
		return nil, nil, why
	}
	for i := range t.Locations {
		if l := &t.Locations[i]; l.Name == from.Name && pluginOf(l) == plugin {
			return from, l, ""
		}
	}
	return nil, nil, fmt.Sprintf("Velero on cluster %s has no VolumeSnapshotLocation %s of provider %s, as cluster %s has: install that plugin there and create one of that name", t.Name, from.Name, plugin, s.Name)
}

// pluginFor names the plugin that snapshots a volume; "" if nobody is known to.
func (n *NativeSide) pluginFor(pv *corev1.PersistentVolume) string {
	if p := providerOf(pv); p != nil {
		return p.plugin
	}
	if pv.Spec.CSI == nil {
		return ""
	}
	for i := range n.Locations {
		for d := range strings.SplitSeq(n.Locations[i].Annotations[AnnotationDrivers], ",") {
			if strings.TrimSpace(d) == pv.Spec.CSI.Driver {
				return pluginOf(&n.Locations[i])
			}
		}
	}
	return ""
}

// regions are those of a cluster's nodes, sorted.
func (n *NativeSide) regions() []string {
	var all []string
	for i := range n.Nodes {
		if r := n.Nodes[i].Labels[corev1.LabelTopologyRegion]; r != "" {
			all = append(all, r)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// elsewhere names a node of another provider than the volumes', or "".
func (n *NativeSide) elsewhere(scheme string) string {
	for i := range n.Nodes {
		if id := n.Nodes[i].Spec.ProviderID; !strings.HasPrefix(id, scheme+"://") {
			return fmt.Sprintf("node %s of cluster %s has the providerID %q and not one of %s", n.Nodes[i].Name, n.Name, id, scheme)
		}
	}
	return ""
}

// nativePlugin finds the plugin by which the provider of a volume snapshots it so
// that the target can use it. Without one it returns a sentence; the reason is
// "" where nobody claims to know the volume.
func (inv *Inventory) nativePlugin(pv *corev1.PersistentVolume) (plugin, reason, problem string) {
	s, t := &inv.Native.Source, &inv.Native.Target
	if plugin = s.pluginFor(pv); plugin == "" {
		return "", "", fmt.Sprintf("no plugin of Velero's is known to snapshot volume %s, which is of kind %s", pv.Name, sourceKind(&pv.Spec.PersistentVolumeSource))
	}
	from, to, why := chooseLocations(s, t, plugin)
	if why != "" {
		return "", "NoSnapshotLocation", why
	}
	if p := providerOf(pv); p != nil {
		if why := cmp.Or(s.elsewhere(p.scheme), t.elsewhere(p.scheme)); why != "" {
			return "", "OtherProvider", why
		}
	}
	if why := inv.otherRegion(pv, from, to); why != "" {
		return "", "OtherRegion", why
	}
	if pv.Spec.CSI != nil && s.CSI {
		return "", "NativeSnapshotsOff", fmt.Sprintf("Velero on cluster %s runs with --features=EnableCSI and leaves volumes of CSI drivers to CSI snapshots: remove the feature, or write transfer: Repository", s.Name)
	}
	if why := inv.usable(pv); why != "" {
		return "", "NotUsableOnTarget", why
	}
	return plugin, "", ""
}

// otherRegion compares what both clusters say of the place of their volumes. The
// regions of a cloud must be known; others are asked only what they say.
func (inv *Inventory) otherRegion(pv *corev1.PersistentVolume, from, to *velerov1.VolumeSnapshotLocation) string {
	s, t := inv.Native.Source.regions(), inv.Native.Target.regions()
	known := len(s) > 0 && len(t) > 0
	common := slices.ContainsFunc(s, func(r string) bool { return slices.Contains(t, r) })
	switch a, b := from.Spec.Config["region"], to.Spec.Config["region"]; {
	case providerOf(pv) != nil && !known:
		return fmt.Sprintf("its snapshots can be used in one region, and no node of cluster %s, or none of %s, has the label %s", inv.Native.Source.Name, inv.Native.Target.Name, corev1.LabelTopologyRegion)
	case known && !common:
		return fmt.Sprintf("its snapshots can be used in one region, and cluster %s is in %s and cluster %s in %s", inv.Native.Source.Name, strings.Join(s, ","), inv.Native.Target.Name, strings.Join(t, ","))
	case a != b && a != "" && b != "":
		return fmt.Sprintf("its snapshots can be used in one region, and VolumeSnapshotLocation %s of cluster %s names %s and %s of cluster %s names %s", from.Name, inv.Native.Source.Name, a, to.Name, inv.Native.Target.Name, b)
	}
	return ""
}

// usable says why a volume like this one cannot be used on the target. It comes
// under the same name and into the same zone.
func (inv *Inventory) usable(pv *corev1.PersistentVolume) string {
	if c := pv.Spec.CSI; c != nil && !inv.Target.drives(c.Driver, inv.TargetClasses) {
		return fmt.Sprintf("the target does not have the CSI driver %s: install it there", c.Driver)
	}
	if slices.ContainsFunc(inv.Target.Volumes, func(o corev1.PersistentVolume) bool { return o.Name == pv.Name }) {
		return fmt.Sprintf("the target has a volume of the name %s that is not of this plan: Velero would not make another", pv.Name)
	}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil && !slices.ContainsFunc(inv.Native.Target.Nodes, func(n corev1.Node) bool { return selects(a.Required, &n) }) {
		return fmt.Sprintf("its volume %s can be used on nodes with %s only, and the target has none", pv.Name, wording(a.Required))
	}
	return ""
}

// foreignClass says why a class cannot be that of a native copy: who deletes the
// volume must be who knows it.
func (inv *Inventory) foreignClass(class string, pv *corev1.PersistentVolume) string {
	var drivers []string
	if p := providerOf(pv); p != nil {
		drivers = p.drivers
	} else if pv.Spec.CSI != nil {
		drivers = []string{pv.Spec.CSI.Driver}
	}
	c := classNamed(inv.TargetClasses, class)
	if c == nil || slices.Contains(drivers, c.Provisioner) {
		return ""
	}
	return fmt.Sprintf("a snapshot of its provider becomes a volume of %s again, and class %s of the target is of provisioner %s: name one of %s as storageClassName in volumes.overrides", drivers[0], class, c.Provisioner, drivers[0])
}

// checkZones refuses a pod's claims that would come to the target in two ways: a
// native copy lies in the source's zone, and the others where their writer ran.
func (inv *Inventory) checkZones(d *Discovery) {
	for i := range d.Volumes {
		v := &d.Volumes[i]
		if !native(v) || inv.Volumes[v.SourcePV].Spec.NodeAffinity == nil {
			continue
		}
		j := slices.IndexFunc(d.Volumes, func(o spec.Volume) bool {
			return o.Namespace == v.Namespace && o.Group == v.Group && staged(&o) && !native(&o)
		})
		if j >= 0 {
			d.Problems = append(d.Problems, Problem{Reason: "TwoZones", Object: object(spec.Source, "PersistentVolumeClaim", v.Namespace, v.Claim), Message: fmt.Sprintf(
				"claim %s is copied by a snapshot of its provider, which lies in the zone of the source's volume, and claim %s, which the same pod mounts, is not and may come into another: copy both in the same way", key(v), key(&d.Volumes[j]))})
		}
	}
}
