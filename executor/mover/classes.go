package mover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// sourceClass is what is known about the storage of a source claim.
type sourceClass struct{ name, provisioner string }

func provisionerOf(classes []storagev1.StorageClass, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) sourceClass {
	s := sourceClass{name: pv.Spec.StorageClassName}
	if c.Spec.StorageClassName != nil {
		s.name = *c.Spec.StorageClassName
	}
	if class := classNamed(classes, s.name); class != nil {
		s.provisioner = class.Provisioner
	}
	if s.provisioner == "" { // the class may be gone while its volumes live
		s.provisioner = pv.Annotations["pv.kubernetes.io/provisioned-by"]
	}
	if s.provisioner == "" && pv.Spec.CSI != nil {
		s.provisioner = pv.Spec.CSI.Driver
	}
	return s
}

// sharing is what a claim asks of its class beyond a file system for one node.
type sharing struct {
	wanted bool // on the target pods of many nodes use it together
	before bool // on the source they do
}

// AnnotationAccessModes of a StorageClass, set by an administrator, says which
// access modes its volumes have, separated by commas. The API has no field for
// it; the annotation wins over the table of known provisioners.
const AnnotationAccessModes = "tranship.dev/access-modes"

// sharedProvisioners make volumes that pods of many nodes can write to, by the
// documentation of each. A name that begins with a dot is the end of a name:
// some operators put their namespace in front. With a parameter, only classes
// that set it to true are meant.
var sharedProvisioners = []struct{ provisioner, parameter string }{
	{provisioner: ".cephfs.csi.ceph.com"},
	{provisioner: "cephfs.csi.ceph.com"},
	{provisioner: "cephfs.manila.csi.openstack.org"},
	{provisioner: "nfs.manila.csi.openstack.org"},
	{provisioner: "efs.csi.aws.com"},
	{provisioner: "fsx.csi.aws.com"},
	{provisioner: "fsx.openzfs.csi.aws.com"},
	{provisioner: "file.csi.azure.com"},
	{provisioner: "kubernetes.io/azure-file"},
	{provisioner: "filestore.csi.storage.gke.io"},
	{provisioner: "nfs.csi.k8s.io"},
	{provisioner: "smb.csi.k8s.io"},
	{provisioner: "cluster.local/nfs-subdir-external-provisioner"},
	{provisioner: "k8s-sigs.io/nfs-subdir-external-provisioner"},
	{provisioner: "kubernetes.io/glusterfs"},
	{provisioner: "org.gluster.glusterfs"},
	{provisioner: "spectrumscale.csi.ibm.com"},
	{provisioner: "driver.longhorn.io"},
	{provisioner: "pxd.portworx.com", parameter: "sharedv4"},
	{provisioner: "kubernetes.io/portworx-volume", parameter: "shared"},
	{provisioner: "kubernetes.io/portworx-volume", parameter: "sharedv4"},
}

// shares says whether volumes of a class can be used by many nodes; known is
// false where nobody has said so.
func shares(c *storagev1.StorageClass) (yes, known bool) {
	if modes, ok := c.Annotations[AnnotationAccessModes]; ok {
		for m := range strings.SplitSeq(modes, ",") {
			if m = strings.TrimSpace(m); m == string(corev1.ReadWriteMany) || m == "RWX" {
				return true, true
			}
		}
		return false, true
	}
	for _, p := range sharedProvisioners {
		named := c.Provisioner == p.provisioner || p.provisioner[0] == '.' && strings.HasSuffix(c.Provisioner, p.provisioner)
		if named && (p.parameter == "" || c.Parameters[p.parameter] == "true") {
			return true, true
		}
	}
	return false, false
}

// fits says that a class may be chosen for a claim without the plan's word.
// What is not known to be shared is trusted only under the name and the
// provisioner under which it was shared on the source.
func (s sharing) fits(c *storagev1.StorageClass, source sourceClass) bool {
	if !s.wanted {
		return true
	}
	yes, known := shares(c)
	return yes || !known && s.before && c.Name == source.name && c.Provisioner == source.provisioner
}

// chooseClass picks the class of a target claim: the plan's word, else the
// class of the same name and provisioner, else one of the same provisioner,
// else the target's default, else, for a shared claim, any that is known to
// share. With none of them it returns a sentence.
func chooseClass(wanted string, source sourceClass, use sharing, target []storagev1.StorageClass) (name, problem string) {
	if wanted != "" {
		if classNamed(target, wanted) == nil {
			return "", fmt.Sprintf("the plan asks for storage class %q, which the target does not have (it has %s): correct volumes.overrides or create the class", wanted, names(target))
		}
		return wanted, ""
	}
	for _, prefer := range []func(*storagev1.StorageClass) bool{
		func(c *storagev1.StorageClass) bool {
			return c.Name == source.name && c.Provisioner == source.provisioner
		},
		func(c *storagev1.StorageClass) bool {
			return source.provisioner != "" && c.Provisioner == source.provisioner
		},
		isDefault,
		func(*storagev1.StorageClass) bool { return use.wanted },
	} {
		if c := best(target, func(c *storagev1.StorageClass) bool { return prefer(c) && use.fits(c, source) }); c != nil {
			return c.Name, ""
		}
	}
	if use.wanted {
		return "", fmt.Sprintf("many nodes use it together (ReadWriteMany), and no class of the target (it has %s) is known to allow that: name one as storageClassName in volumes.overrides, annotate one with %s=ReadWriteMany, or ask for accessMode ReadWriteOnce", names(target), AnnotationAccessModes)
	}
	return "", fmt.Sprintf("the target has no storage class %q of provisioner %q, none of that provisioner and no default class (it has %s): name one in volumes.overrides", source.name, source.provisioner, names(target))
}

func classNamed(classes []storagev1.StorageClass, name string) *storagev1.StorageClass {
	for i := range classes {
		if classes[i].Name == name {
			return &classes[i]
		}
	}
	return nil
}

// defaultClass is the class of a claim that names none, as the API server
// chooses it; "" without one.
func defaultClass(classes []storagev1.StorageClass) string {
	if c := best(classes, isDefault); c != nil {
		return c.Name
	}
	return ""
}

func isDefault(c *storagev1.StorageClass) bool {
	return c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
		c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

// best is the default class among those that fit, then the newest as the API
// server chooses it, then the first by name.
func best(classes []storagev1.StorageClass, fits func(*storagev1.StorageClass) bool) *storagev1.StorageClass {
	var fitting []*storagev1.StorageClass
	for i := range classes {
		if fits(&classes[i]) {
			fitting = append(fitting, &classes[i])
		}
	}
	if len(fitting) == 0 {
		return nil
	}
	return slices.MinFunc(fitting, func(a, b *storagev1.StorageClass) int {
		if d, e := isDefault(a), isDefault(b); d != e {
			if d {
				return -1
			}
			return 1
		}
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

func names(classes []storagev1.StorageClass) string {
	if len(classes) == 0 {
		return "none"
	}
	var ns []string
	for _, c := range classes {
		ns = append(ns, c.Name)
	}
	slices.Sort(ns)
	return fmt.Sprint(ns)
}
