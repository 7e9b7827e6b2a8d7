package mover

import (
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func podSpec(claims ...string) corev1.PodSpec {
	var s corev1.PodSpec
	for _, c := range claims {
		s.Volumes = append(s.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
	}
	return s
}

func workload(kind, name string, claims ...string) Owner {
	return Owner{Kind: kind, Name: name, Template: corev1.PodTemplateSpec{Spec: podSpec(claims...)}}
}

func claimTemplates(names ...string) (ts []corev1.PersistentVolumeClaim) {
	for _, n := range names {
		ts = append(ts, corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	return ts
}

// inventory has the named claims; "name*" is one that many nodes may use.
func inventory(claims []string, owners ...Owner) *Inventory {
	inv := &Inventory{Volumes: map[string]corev1.PersistentVolume{}, SourceClasses: []storagev1.StorageClass{*class("fast", "csi", true)}, TargetClasses: []storagev1.StorageClass{*class("fast", "csi", true)}}
	n := NamespaceInventory{Name: "shop", Owners: owners}
	for _, name := range claims {
		mode := corev1.ReadWriteOnce
		name, many := strings.CutSuffix(name, "*")
		if many {
			mode = corev1.ReadWriteMany
		}
		c, pv := sourceClaim(name, map[string]string{"claim": name}, mode)
		n.Claims = append(n.Claims, *c)
		inv.Volumes[pv.Name] = *pv
	}
	inv.Namespaces = []NamespaceInventory{n}
	return inv
}

func planOf() *spec.PlanSpec {
	return &spec.PlanSpec{Namespaces: []spec.NamespaceMapping{{Name: "shop", TargetName: "shop-new"}}}
}

func TestGroups(t *testing.T) {
	set := workload("StatefulSet", "mysql")
	set.ClaimTemplates = claimTemplates("data", "binlog")
	shared := workload("StatefulSet", "mysql", "shared")
	shared.ClaimTemplates = claimTemplates("data")
	job := workload("Job", "backup-123", "data")
	job.Controller = "CronJob/backup"
	cases := map[string]struct {
		claims []string
		owners []Owner
		pods   []corev1.Pod
		want   map[string]string
	}{
		"nobody mounts it": {claims: []string{"old"}, want: map[string]string{"old": "PersistentVolumeClaim/old/0"}},
		"a Deployment":     {claims: []string{"a", "b"}, owners: []Owner{workload("Deployment", "web", "a", "b")}, want: map[string]string{"a": "Deployment/web/0", "b": "Deployment/web/0"}},
		"a StatefulSet's ordinals, even at zero": {
			claims: []string{"data-mysql-0", "binlog-mysql-0", "data-mysql-10", "data-mysql-x", "data-mysql-01"}, owners: []Owner{set},
			want: map[string]string{"data-mysql-0": "StatefulSet/mysql/0", "binlog-mysql-0": "StatefulSet/mysql/0", "data-mysql-10": "StatefulSet/mysql/10",
				"data-mysql-x": "PersistentVolumeClaim/data-mysql-x/0", "data-mysql-01": "PersistentVolumeClaim/data-mysql-01/0"},
		},
		"a claim for many nodes goes to the first": {
			claims: []string{"data-mysql-0", "data-mysql-1", "shared*"}, owners: []Owner{shared},
			want: map[string]string{"data-mysql-0": "StatefulSet/mysql/0", "data-mysql-1": "StatefulSet/mysql/1", "shared": "StatefulSet/mysql/0"},
		},
		"a claim of one node unites its users": {
			claims: []string{"a", "b", "c"}, owners: []Owner{workload("Deployment", "z", "b", "c"), workload("Deployment", "web", "a", "b")},
			want: map[string]string{"a": "Deployment/web/0", "b": "Deployment/web/0", "c": "Deployment/web/0"},
		},
		"over several steps": {
			claims: []string{"a", "b", "c", "d"}, owners: []Owner{workload("Deployment", "d", "c", "d"), workload("Deployment", "c", "b", "c"), workload("Deployment", "b", "a", "b"), workload("CronJob", "a", "d")},
			want: map[string]string{"a": "CronJob/a/0", "b": "CronJob/a/0", "c": "CronJob/a/0", "d": "CronJob/a/0"},
		},
		"a Job of a CronJob counts as the CronJob": {
			claims: []string{"data"}, owners: []Owner{job, workload("CronJob", "backup", "data")}, want: map[string]string{"data": "CronJob/backup/0"},
		},
		"a controller of a kind that is not read, with no pod": {
			claims: []string{"a"}, owners: []Owner{{Kind: "ReplicationController", Name: "web-3", Controller: "DeploymentConfig/web", Template: corev1.PodTemplateSpec{Spec: podSpec("a")}}},
			want: map[string]string{"a": "DeploymentConfig/web/0"},
		},
		"a bare pod, an operator's pods": {
			claims: []string{"a", "b"}, pods: []corev1.Pod{
				{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Spec: podSpec("a")},
				{ObjectMeta: metav1.ObjectMeta{Name: "db-7", OwnerReferences: []metav1.OwnerReference{{Kind: "Database", Name: "db", Controller: ptr.To(true)}}}, Spec: podSpec("b")},
			}, want: map[string]string{"a": "Pod/bare/0", "b": "Database/db/0"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inv := inventory(c.claims, c.owners...)
			inv.Namespaces[0].Pods = c.pods
			d, err := inv.Discover(planOf())
			if err != nil || len(d.Problems) > 0 {
				t.Fatal(err, d.Problems)
			}
			for _, v := range d.Volumes {
				if c.want[v.Claim] != v.Group {
					t.Errorf("claim %s is in group %s, want %s", v.Claim, v.Group, c.want[v.Claim])
				}
			}
			if len(d.Volumes) != len(c.want) {
				t.Errorf("%d volumes, want %d", len(d.Volumes), len(c.want))
			}
		})
	}
}

func TestDiscoverOverridesAndSelector(t *testing.T) {
	inv := inventory([]string{"data", "media", "other", "mounted"}, workload("Deployment", "web", "mounted"))
	inv.Namespaces[0].Owners[0].Labels = map[string]string{"claim": "data"}
	plan := planOf()
	plan.LabelSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "claim", Operator: metav1.LabelSelectorOpIn, Values: []string{"data", "media"}}}}
	plan.Volumes.Overrides = []spec.VolumeOverride{
		{Namespace: "shop", Claim: "media", Action: "move"},
		{Namespace: "shop", Claim: "data", AccessMode: "ReadWriteMany", TargetClaim: "data-2", StorageClassName: "fast"},
	}
	c := inv.Namespaces[0].Claims[0]
	c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("3Gi")}
	inv.Namespaces[0].Claims[0] = c
	d, err := inv.Discover(plan)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range d.Volumes {
		got = append(got, strings.Join([]string{v.Claim, v.TargetNamespace, v.TargetClaim, v.Action, v.Capacity, string(v.AccessModes[0]), v.StorageClassName}, " "))
	}
	want := []string{"data shop-new data-2 copy 3Gi ReadWriteMany fast", "media shop-new media move 1Gi ReadWriteOnce fast", "mounted shop-new mounted copy 1Gi ReadWriteOnce fast"}
	if !slices.Equal(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDiscoverProblemsAndWarnings(t *testing.T) {
	inv := inventory([]string{"block", "lost", "pending", "ephemeral", "ok", "phase-lost", "leaving"})
	claims := inv.Namespaces[0].Claims
	claims[0].Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	inv.Volumes["pv-block"] = corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeSource: corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{}},
	}}
	delete(inv.Volumes, "pv-lost")
	claims[2].Status.Phase = corev1.ClaimPending
	claims[3].OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "web-0", Controller: ptr.To(true)}}
	claims[5].Status.Phase = corev1.ClaimLost
	delete(inv.Volumes, "pv-phase-lost")
	claims[6].DeletionTimestamp = &metav1.Time{}
	d, err := inv.Discover(planOf())
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, p := range d.Problems {
		reasons = append(reasons, p.Reason)
	}
	var volumes []string
	for _, v := range d.Volumes {
		volumes = append(volumes, v.Claim+" "+v.Action)
	}
	if !slices.Equal(reasons, []string{"BlockVolume", "VolumeLost", "VolumeLost", "ClaimTerminating"}) || !slices.Equal(volumes, []string{"ephemeral skip", "ok copy", "pending skip"}) {
		t.Fatalf("problems %v, volumes %v", reasons, volumes)
	}
	if !d.Pending {
		t.Error("a claim waits for its volume, which nobody is told")
	}
	if len(d.Warnings) != 2 || !strings.Contains(d.Warnings[0], "not bound") || !strings.Contains(d.Warnings[1], "generic ephemeral") {
		t.Fatalf("warnings %q", d.Warnings)
	}
}

func TestChooseClass(t *testing.T) {
	classes := func(cs ...*storagev1.StorageClass) (out []storagev1.StorageClass) {
		for _, c := range cs {
			out = append(out, *c)
		}
		return out
	}
	cases := map[string]struct {
		wanted string
		source sourceClass
		use    sharing
		target []storagev1.StorageClass
		want   string
		says   string
	}{
		"the plan's word":                             {wanted: "gold", source: sourceClass{"fast", "csi"}, target: classes(class("fast", "csi", true), class("gold", "x", false)), want: "gold"},
		"the plan's word is not there":                {wanted: "gold", target: classes(class("fast", "csi", true)), says: `storage class "gold", which the target does not have (it has [fast])`},
		"the same name and provisioner":               {source: sourceClass{"fast", "csi"}, target: classes(class("a", "csi", true), class("fast", "csi", false)), want: "fast"},
		"the same name of another provisioner":        {source: sourceClass{"fast", "csi"}, target: classes(class("fast", "other", true), class("b", "csi", false)), want: "b"},
		"the default among equals":                    {source: sourceClass{"fast", "csi"}, target: classes(class("a", "csi", false), class("b", "csi", true)), want: "b"},
		"the default":                                 {source: sourceClass{"fast", "csi"}, target: classes(class("a", "x", false), class("b", "y", true)), want: "b"},
		"nothing known of the source":                 {source: sourceClass{}, target: classes(class("a", "", false), class("b", "y", true)), want: "b"},
		"nothing fits":                                {source: sourceClass{"fast", "csi"}, target: classes(class("a", "x", false)), says: "none of that provisioner and no default class"},
		"a shared claim of the same class":            {source: sourceClass{"fast", "csi"}, use: sharing{true, true}, target: classes(class("fast", "csi", true)), want: "fast"},
		"a shared claim, its class says no":           {source: sourceClass{"fast", "csi"}, use: sharing{true, true}, target: classes(noted(class("fast", "csi", true), "ReadWriteOnce"), class("nfs", "nfs.csi.k8s.io", false)), want: "nfs"},
		"a shared claim, not shared before":           {source: sourceClass{"fast", "csi"}, use: sharing{true, false}, target: classes(class("fast", "csi", true)), says: "no class of the target (it has [fast]) is known to allow that"},
		"a shared claim, another class of its driver": {source: sourceClass{"fast", "csi"}, use: sharing{true, true}, target: classes(class("other", "csi", true), noted(class("b", "x", false), "ReadWriteOnce, ReadWriteMany")), want: "b"},
		"a shared claim, an operator's driver":        {source: sourceClass{"fast", "csi"}, use: sharing{true, true}, target: classes(class("rbd", "rook-ceph.rbd.csi.ceph.com", true), class("fs", "rook-ceph.cephfs.csi.ceph.com", false)), want: "fs"},
		"a shared claim, the parameter is missing":    {source: sourceClass{"fast", "csi"}, use: sharing{true, true}, target: classes(class("px", "pxd.portworx.com", true)), says: "ReadWriteMany"},
		"no class at all":                             {source: sourceClass{"fast", "csi"}, says: "it has none"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, says := chooseClass(c.wanted, c.source, c.use, c.target)
			if got != c.want || !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
				t.Fatalf("got %q, %q", got, says)
			}
		})
	}
}

// noted is a class of which an administrator says what it can do.
func noted(c *storagev1.StorageClass, modes string) *storagev1.StorageClass {
	c = c.DeepCopy()
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[AnnotationAccessModes] = modes
	return c
}

// TestCarryOverKeepsWhatACopyBackKept: that stays in the repository until the plan
// is closed, whatever becomes of the volume meanwhile; nothing else of it counts.
func TestCarryOverKeepsWhatACopyBackKept(t *testing.T) {
	recorded := []spec.Volume{{Namespace: "a", Claim: "b", Action: "copy", Snapshot: "s", Back: &spec.CopiedBack{Cutover: "shop-migrate-1", Kept: []string{"k"}, Snapshot: "t", Mark: spec.MarkClean}}}
	for _, action := range []string{"move", "skip", "copy"} {
		recorded = carryOver([]spec.Volume{{Namespace: "a", Claim: "b", Action: action}}, recorded, planOf())
		if b := recorded[0].Back; b == nil || !slices.Equal(b.Kept, []string{"k"}) || b.Mark != spec.MarkNone || b.Snapshot != "" {
			t.Fatalf("%s: %+v", action, b)
		}
	}
}

func TestCarryOverKeepsTheCopy(t *testing.T) {
	found := []spec.Volume{{Namespace: "a", Claim: "b", StorageClassName: "new", SourcePolicy: "Retain", Capacity: "2Gi"}, {Namespace: "a", Claim: "c"}}
	recorded := []spec.Volume{{Namespace: "a", Claim: "b", StorageClassName: "old", SourcePolicy: "Delete", Capacity: "1Gi", TargetPV: "pv", TargetHandle: "h", Mark: spec.MarkClean, Held: "s", Snapshot: "s"}, {Namespace: "gone", Claim: "x"}}
	got := carryOver(found, recorded, planOf())
	v := got[0]
	if len(got) != 2 || v.StorageClassName != "old" || v.SourcePolicy != "Delete" || v.Capacity != "2Gi" || v.TargetPV != "pv" || v.Snapshot != "s" || v.Held != "s" {
		t.Fatalf("%+v", got)
	}
}

// The copies after the stop are of the same claims as those before it, in the same
// groups and with the same places, though the pod that told so is deleted.
func TestDiscoverAfterThePodIsDeleted(t *testing.T) {
	plan := planOf()
	plan.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"part": "yes"}}
	solo := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "solo", Labels: map[string]string{"part": "yes"}}, Spec: podSpec("a", "b")}
	solo.Spec.NodeSelector = map[string]string{"zone": "x"}
	var groups [][]string
	for _, deleted := range []bool{false, true} {
		inv := inventory([]string{"a", "b", "c"})
		n := &inv.Namespaces[0]
		if n.Pods = []corev1.Pod{solo}; deleted {
			n.Pods, n.Stopped = nil, []corev1.Pod{solo}
		}
		d, err := inv.Discover(plan)
		if err != nil {
			t.Fatal(err)
		}
		var of []string
		for _, v := range d.Volumes {
			of = append(of, v.Claim+" "+v.Group)
		}
		groups = append(groups, of)
		if like := n.podTemplate("Pod/solo/0"); like == nil || like.NodeSelector["zone"] != "x" {
			t.Errorf("deleted %t: it is placed like %v", deleted, like)
		}
	}
	if want := []string{"a Pod/solo/0", "b Pod/solo/0"}; !slices.Equal(groups[0], want) || !slices.Equal(groups[1], want) {
		t.Errorf("before the stop %v, after it %v, want %v", groups[0], groups[1], want)
	}
}
