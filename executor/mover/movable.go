package mover

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// moved says that the target is to use the source's own storage.
func moved(v *spec.Volume) bool { return v.Action == "move" }

// TargetInventory is what tells whether a volume can be used on the target. It
// is read only for plans that move volumes.
type TargetInventory struct {
	Volumes []corev1.PersistentVolume // those that this plan did not make
	Nodes   []corev1.Node
	Drivers []string        // CSI drivers that are registered
	Minor   int             // of Kubernetes 1.Minor; 0: unknown
	Missing map[string]bool // Secrets "namespace/name" that volumes name and that are not there
}

// Moves says that the plan may move a claim.
func Moves(p *spec.PlanSpec) bool {
	return p.Volumes.Defaults.Action == "move" || slices.ContainsFunc(p.Volumes.Overrides, func(o spec.VolumeOverride) bool { return o.Action == "move" })
}

// readTarget reads what movable asks about.
func readTarget(ctx context.Context, e *kube.Env, inv *Inventory) (TargetInventory, error) {
	t, on := TargetInventory{Missing: map[string]bool{}}, e.Target
	pvs, err := on.Kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return t, on.Errorf(err, "list the persistent volumes")
	}
	for _, pv := range pvs.Items {
		if !ours(e, &pv) {
			t.Volumes = append(t.Volumes, pv)
		}
	}
	nodes, err := on.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return t, on.Errorf(err, "list the nodes, which tell where a moved volume can be used")
	}
	t.Nodes = nodes.Items
	drivers, err := on.Kube.StorageV1().CSIDrivers().List(ctx, metav1.ListOptions{})
	if err != nil {
		return t, on.Errorf(err, "list the CSI drivers")
	}
	for _, d := range drivers.Items {
		t.Drivers = append(t.Drivers, d.Name)
	}
	version, err := on.Kube.Discovery().ServerVersion()
	if err != nil {
		return t, on.Errorf(err, "read the version of Kubernetes")
	}
	t.Minor, _ = strconv.Atoi(strings.TrimRight(version.Minor, "+")) // unreadable: unknown
	return t, t.readSecrets(ctx, e, inv)
}

// readSecrets looks for what the plan's volumes name outside of the plan's
// namespaces; inside, Secrets come with the objects.
func (t *TargetInventory) readSecrets(ctx context.Context, e *kube.Env, inv *Inventory) error {
	ours := e.Mapping()
	for _, pv := range inv.Volumes {
		if r := pv.Spec.ClaimRef; r == nil || ours[r.Namespace] == "" {
			continue
		}
		for _, s := range secretRefs(&pv.Spec.PersistentVolumeSource) {
			if _, asked := t.Missing[s.Namespace+"/"+s.Name]; asked || s.Namespace == "" || ours[s.Namespace] != "" {
				continue
			}
			_, err := e.Target.Kube.CoreV1().Secrets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return e.Target.Errorf(err, "look for Secret %s/%s, which volume %s names", s.Namespace, s.Name, pv.Name)
			}
			t.Missing[s.Namespace+"/"+s.Name] = err != nil
		}
	}
	return nil
}

// networkKinds are the sources of volumes that mean the same on every cluster
// which reaches the storage. Kubernetes removed some of its own plugins.
var networkKinds = []struct {
	name  string
	is    func(s *corev1.PersistentVolumeSource) bool
	until int // the first minor version without the plugin; 0: there is none
}{
	{"csi", func(s *corev1.PersistentVolumeSource) bool { return s.CSI != nil }, 0},
	{"nfs", func(s *corev1.PersistentVolumeSource) bool { return s.NFS != nil }, 0},
	{"iscsi", func(s *corev1.PersistentVolumeSource) bool { return s.ISCSI != nil }, 0},
	{"fc", func(s *corev1.PersistentVolumeSource) bool { return s.FC != nil }, 0},
	{"cephfs", func(s *corev1.PersistentVolumeSource) bool { return s.CephFS != nil }, 31},
	{"rbd", func(s *corev1.PersistentVolumeSource) bool { return s.RBD != nil }, 31},
}

// movable says why a volume cannot be used on the target as it is; "" if it can.
func (t *TargetInventory) movable(pv *corev1.PersistentVolume, classes []storagev1.StorageClass) (reason, say string) {
	const instead = "copy it, or skip it in volumes.overrides"
	s := &pv.Spec.PersistentVolumeSource
	switch {
	case s.HostPath != nil || s.Local != nil:
		return "VolumeNotMovable", fmt.Sprintf("its volume %s is %s, which lies on a node of the source: %s", pv.Name, sourceKind(s), instead)
	case s.CSI != nil && !t.drives(s.CSI.Driver, classes):
		return "DriverMissing", fmt.Sprintf("its volume %s belongs to the CSI driver %s, which the target does not have: install it there, or %s", pv.Name, s.CSI.Driver, instead)
	}
	if i := slices.IndexFunc(t.Volumes, func(o corev1.PersistentVolume) bool { return storage(&o) == storage(pv) }); i >= 0 {
		return "StorageInUse", fmt.Sprintf("the target has a volume of the same storage as %s already, %s, which is not of this plan: two claims on it would be two writers; delete the one on the target, or %s", pv.Name, t.Volumes[i].Name, instead)
	}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil && !slices.ContainsFunc(t.Nodes, func(n corev1.Node) bool { return selects(a.Required, &n) }) {
		return "VolumePinned", fmt.Sprintf("its volume %s can be used on nodes with %s only, and the target has none: %s", pv.Name, wording(a.Required), instead)
	}
	for _, k := range networkKinds {
		if !k.is(s) {
			continue
		}
		if k.until > 0 && t.Minor >= k.until {
			return "VolumeNotMovable", fmt.Sprintf("its volume %s is of kind %s, which Kubernetes cannot mount from version 1.%d on, and the target is 1.%d: %s", pv.Name, k.name, k.until, t.Minor, instead)
		}
		return "", ""
	}
	return "VolumeNotMovable", fmt.Sprintf("its volume %s is of kind %s, and this version moves csi, nfs, iscsi, fc, cephfs and rbd: %s", pv.Name, sourceKind(s), instead)
}

// drives says that the target knows a CSI driver: its CSIDriver object, which
// is optional, or a class that provisions with it.
func (t *TargetInventory) drives(driver string, classes []storagev1.StorageClass) bool {
	return slices.Contains(t.Drivers, driver) || slices.ContainsFunc(classes, func(c storagev1.StorageClass) bool { return c.Provisioner == driver })
}

// sourceKind is the name of a volume's source as it is written in YAML.
func sourceKind(s *corev1.PersistentVolumeSource) string {
	fields := map[string]json.RawMessage{}
	if raw, err := json.Marshal(s); err == nil && json.Unmarshal(raw, &fields) == nil {
		for k := range fields { // an API server accepts exactly one
			return k
		}
	}
	return "unknown"
}

// storage identifies what is behind a volume. What differs only in how it is
// mounted is the same.
func storage(pv *corev1.PersistentVolume) string {
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.NFS != nil:
		return "nfs " + s.NFS.Server + ":" + strings.TrimRight(s.NFS.Path, "/")
	case s.ISCSI != nil:
		return fmt.Sprintf("iscsi %s %d", s.ISCSI.IQN, s.ISCSI.Lun)
	}
	return handle(pv)
}

// shared finds another bound volume of the source with the same storage, whose
// users nobody stops: they would write while the target does (safety property 7).
func (inv *Inventory) shared(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	for _, o := range inv.Volumes {
		if o.Name != pv.Name && o.Status.Phase == corev1.VolumeBound && storage(&o) == storage(pv) {
			return &o
		}
	}
	return nil
}

// selects evaluates a volume's required node affinity: its terms are
// alternatives, and all expressions of a term must hold.
func selects(s *corev1.NodeSelector, n *corev1.Node) bool {
	fields := labels.Set{metav1.ObjectNameField: n.Name}
	return slices.ContainsFunc(s.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		return len(t.MatchExpressions)+len(t.MatchFields) > 0 && holdsAll(t.MatchExpressions, n.Labels) && holdsAll(t.MatchFields, fields)
	})
}

var operators = map[corev1.NodeSelectorOperator]selection.Operator{
	corev1.NodeSelectorOpIn: selection.In, corev1.NodeSelectorOpNotIn: selection.NotIn, corev1.NodeSelectorOpExists: selection.Exists,
	corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist, corev1.NodeSelectorOpGt: selection.GreaterThan, corev1.NodeSelectorOpLt: selection.LessThan,
}

func holdsAll(rs []corev1.NodeSelectorRequirement, of labels.Set) bool {
	return !slices.ContainsFunc(rs, func(r corev1.NodeSelectorRequirement) bool {
		q, err := labels.NewRequirement(r.Key, operators[r.Operator], r.Values)
		return err != nil || !q.Matches(of) // what cannot be understood matches nothing
	})
}

// wording is a node selector for people.
func wording(s *corev1.NodeSelector) string {
	var terms []string
	for _, t := range s.NodeSelectorTerms {
		var all []string
		for _, r := range append(slices.Clone(t.MatchExpressions), t.MatchFields...) {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Key, r.Operator, strings.Join(r.Values, ","))))
		}
		terms = append(terms, strings.Join(all, " and "))
	}
	return strings.Join(terms, ", or ")
}

// secretRefs are the Secrets that a volume's driver reads, to be changed in place.
func secretRefs(s *corev1.PersistentVolumeSource) []*corev1.SecretReference {
	var refs []*corev1.SecretReference
	if c := s.CSI; c != nil {
		refs = append(refs, c.ControllerPublishSecretRef, c.NodeStageSecretRef, c.NodePublishSecretRef, c.ControllerExpandSecretRef, c.NodeExpandSecretRef)
	}
	if s.ISCSI != nil {
		refs = append(refs, s.ISCSI.SecretRef)
	}
	if s.CephFS != nil {
		refs = append(refs, s.CephFS.SecretRef)
	}
	if s.RBD != nil {
		refs = append(refs, s.RBD.SecretRef)
	}
	return slices.DeleteFunc(refs, func(r *corev1.SecretReference) bool { return r == nil || r.Name == "" })
}

// classOfMoved names the class of a moved claim. It provisions nothing, and
// says who may enlarge the volume and which quota counts it. A name that stands
// for something else on the target is dropped.
func classOfMoved(source sourceClass, target []storagev1.StorageClass) string {
	if source.name == "" {
		return ""
	}
	same := func(c *storagev1.StorageClass) bool {
		return source.provisioner != "" && c.Provisioner == source.provisioner
	}
	i := slices.IndexFunc(target, func(c storagev1.StorageClass) bool { return c.Name == source.name })
	if i < 0 || same(&target[i]) {
		if c := best(target, same); i < 0 && c != nil {
			return c.Name
		}
		return source.name
	}
	if c := best(target, same); c != nil {
		return c.Name
	}
	return ""
}

// examine adds what there is to say about a claim that the plan moves; false
// means that it cannot be moved.
func (inv *Inventory) examine(d *Discovery, v *spec.Volume, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) bool {
	name := key(v)
	at := object(spec.Source, "PersistentVolumeClaim", v.Namespace, v.Claim)
	if reason, say := inv.Target.movable(pv, inv.TargetClasses); reason != "" {
		d.Problems = append(d.Problems, Problem{Reason: reason, Object: at, Message: fmt.Sprintf("claim %s cannot be moved: %s", name, say)})
		return false
	}
	if o := inv.shared(pv); o != nil {
		d.Problems = append(d.Problems, Problem{Reason: "StorageShared", Object: at, Message: fmt.Sprintf(
			"claim %s cannot be moved: volume %s has the same storage as its volume %s and is bound to claim %s/%s, whose pods could write while the target does; copy it, or give up the other claim",
			name, o.Name, pv.Name, o.Spec.ClaimRef.Namespace, o.Spec.ClaimRef.Name)})
		return false
	}
	for _, s := range secretRefs(&pv.Spec.PersistentVolumeSource) {
		if inv.Target.Missing[s.Namespace+"/"+s.Name] {
			d.Warnings = append(d.Warnings, fmt.Sprintf("claim %s: its volume %s is mounted with Secret %s/%s, which the target does not have: create it there before the cutover", name, pv.Name, s.Namespace, s.Name))
		}
	}
	class := provisionerOf(inv.SourceClasses, c, pv)
	v.SourceClassName, v.StorageClassName = class.name, classOfMoved(class, inv.TargetClasses)
	v.Notes = append(v.Notes, "it is moved by the cutover as it is: stage runs copy nothing of it, and from then on its volume "+pv.Name+" stays at Retain on the source for ever")
	return true
}

// twoTimes warns of a plan whose volumes a rollback brings back from two times.
func (d *Discovery) twoTimes() {
	var moves, copies []string
	for i := range d.Volumes {
		switch v := &d.Volumes[i]; {
		case moved(v):
			moves = append(moves, key(v))
		case v.Action == "copy":
			copies = append(copies, key(v))
		}
	}
	if len(moves) > 0 && len(copies) > 0 {
		d.Warnings = append(d.Warnings, fmt.Sprintf("a plan with moved and copied volumes: after a rollback the moved ones (%s) hold what the target wrote, and the copied ones (%s) do not", strings.Join(moves, ", "), strings.Join(copies, ", ")))
	}
}

// movedBefore refuses what another plan has moved: the application that uses
// the volume now runs on another cluster, whatever the source still shows.
func (d *Discovery) movedBefore(e *kube.Env, inv *Inventory) {
	for _, v := range d.Volumes {
		pv, ok := inv.Volumes[v.SourcePV]
		if to := pv.Annotations[kube.AnnotationMoved]; ok && to != "" && pv.Annotations[kube.AnnotationPlan] != e.Run.Spec.Plan {
			d.Problems = append(d.Problems, Problem{Reason: "MovedBefore", Object: object(spec.Source, "PersistentVolume", "", pv.Name), Message: fmt.Sprintf(
				"claim %s: plan %s has moved its volume %s to %s, and the application there uses it: skip the claim, or take that move back first",
				key(&v), pv.Annotations[kube.AnnotationPlan], pv.Name, to)})
		}
	}
}
