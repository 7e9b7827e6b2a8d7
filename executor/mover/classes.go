package mover

import (
	"cmp"
	"fmt"
	"slices"

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
	for _, class := range classes {
		if class.Name == s.name {
			s.provisioner = class.Provisioner
		}
	}
	if s.provisioner == "" { // the class may be gone while its volumes live
		s.provisioner = pv.Annotations["pv.kubernetes.io/provisioned-by"]
	}
	if s.provisioner == "" && pv.Spec.CSI != nil {
		s.provisioner = pv.Spec.CSI.Driver
	}
	return s
}

// chooseClass picks the class of a target claim: the plan's word, else the
// class of the same name and provisioner, else one of the same provisioner,
// else the target's default. With none of them it returns a sentence.
func chooseClass(wanted string, source sourceClass, target []storagev1.StorageClass) (name, problem string) {
	named := func(n string) *storagev1.StorageClass {
		i := slices.IndexFunc(target, func(c storagev1.StorageClass) bool { return c.Name == n })
		if i < 0 {
			return nil
		}
		return &target[i]
	}
	if wanted != "" {
		if named(wanted) == nil {
			return "", fmt.Sprintf("the plan asks for storage class %q, which the target does not have (it has %s): correct volumes.overrides or create the class", wanted, names(target))
		}
		return wanted, ""
	}
	if c := named(source.name); c != nil && c.Provisioner == source.provisioner {
		return c.Name, ""
	}
	if c := best(target, func(c *storagev1.StorageClass) bool {
		return source.provisioner != "" && c.Provisioner == source.provisioner
	}); c != nil {
		return c.Name, ""
	}
	if c := best(target, isDefault); c != nil {
		return c.Name, ""
	}
	return "", fmt.Sprintf("the target has no storage class %q of provisioner %q, none of that provisioner and no default class (it has %s): name one in volumes.overrides", source.name, source.provisioner, names(target))
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
