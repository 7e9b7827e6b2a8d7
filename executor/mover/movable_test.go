package mover

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func volumeOf(s corev1.PersistentVolumeSource) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: s}}
}

func nfs(path string) corev1.PersistentVolumeSource {
	return corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nas", Path: path}}
}

func pinned(pv *corev1.PersistentVolume, terms ...corev1.NodeSelectorTerm) *corev1.PersistentVolume {
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
	return pv
}

func term(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func TestMovable(t *testing.T) {
	csi := func(driver string) corev1.PersistentVolumeSource {
		return corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "h"}}
	}
	const in, exists = corev1.NodeSelectorOpIn, corev1.NodeSelectorOpExists
	target := TargetInventory{
		Nodes:   []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "a", "rank": "7"}}}},
		Drivers: []string{"registered"}, Minor: 31,
		Volumes: []corev1.PersistentVolume{*volumeOf(nfs("/taken/"))},
	}
	classes := []storagev1.StorageClass{*class("fast", "provisions", true)}
	cases := map[string]struct {
		pv     *corev1.PersistentVolume
		reason string
		says   string
	}{
		"nfs":                            {volumeOf(nfs("/a")), "", ""},
		"iscsi":                          {volumeOf(corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{IQN: "i"}}), "", ""},
		"fc":                             {volumeOf(corev1.PersistentVolumeSource{FC: &corev1.FCVolumeSource{}}), "", ""},
		"a registered driver":            {volumeOf(csi("registered")), "", ""},
		"a driver that only has a class": {volumeOf(csi("provisions")), "", ""},
		"an unknown driver":              {volumeOf(csi("other")), "DriverMissing", "CSI driver other, which the target does not have"},
		"hostPath":                       {volumeOf(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}), "VolumeNotMovable", "is hostPath, which lies on a node of the source"},
		"local":                          {volumeOf(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/x"}}), "VolumeNotMovable", "is local"},
		"a kind that we do not know":     {volumeOf(corev1.PersistentVolumeSource{AzureDisk: &corev1.AzureDiskVolumeSource{}}), "VolumeNotMovable", "of kind azureDisk"},
		"a plugin that is gone":          {volumeOf(corev1.PersistentVolumeSource{CephFS: &corev1.CephFSPersistentVolumeSource{}}), "VolumeNotMovable", "cannot mount from version 1.31 on"},
		"storage that has a volume":      {volumeOf(nfs("/taken")), "StorageInUse", "two writers"},
		"a zone that the target has":     {pinned(volumeOf(nfs("/a")), term("zone", in, "b", "a")), "", ""},
		"one of two alternatives":        {pinned(volumeOf(nfs("/a")), term("zone", in, "b"), term("rank", corev1.NodeSelectorOpGt, "5")), "", ""},
		"a zone that it has not":         {pinned(volumeOf(nfs("/a")), term("zone", in, "b")), "VolumePinned", "nodes with zone In b only"},
		"a key that no node has":         {pinned(volumeOf(nfs("/a")), term("topology.csi/rack", exists)), "VolumePinned", "topology.csi/rack Exists"},
		"a node of the source by name": {pinned(volumeOf(nfs("/a")), corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: in, Values: []string{"source-1"}}}}),
			"VolumePinned", "metadata.name In source-1"},
		"an empty term": {pinned(volumeOf(nfs("/a")), corev1.NodeSelectorTerm{}), "VolumePinned", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			reason, say := target.movable(c.pv, classes)
			if reason != c.reason || !strings.Contains(say, c.says) || (reason == "") != (say == "") {
				t.Fatalf("%q: %s", reason, say)
			}
		})
	}
	target.Minor = 30
	if reason, say := target.movable(cases["a plugin that is gone"].pv, nil); reason != "" {
		t.Errorf("on 1.30: %s", say)
	}
}

func TestClassOfMoved(t *testing.T) {
	cases := map[string]struct {
		source sourceClass
		target []*storagev1.StorageClass
		want   string
	}{
		"no class stays no class":         {sourceClass{}, []*storagev1.StorageClass{class("a", "csi", true)}, ""},
		"the same":                        {sourceClass{"fast", "csi"}, []*storagev1.StorageClass{class("fast", "csi", false), class("a", "csi", true)}, "fast"},
		"a name without an object":        {sourceClass{"manual", ""}, []*storagev1.StorageClass{class("a", "csi", true)}, "manual"},
		"another name, same provisioner":  {sourceClass{"fast", "csi"}, []*storagev1.StorageClass{class("a", "csi", false)}, "a"},
		"the name is somebody else's":     {sourceClass{"fast", "csi"}, []*storagev1.StorageClass{class("fast", "other", true)}, ""},
		"... and there is a fitting one":  {sourceClass{"fast", "csi"}, []*storagev1.StorageClass{class("fast", "other", true), class("b", "csi", false)}, "b"},
		"unknown provisioner, known name": {sourceClass{"fast", ""}, []*storagev1.StorageClass{class("fast", "csi", true)}, ""},
	}
	for name, c := range cases {
		var target []storagev1.StorageClass
		for _, s := range c.target {
			target = append(target, *s)
		}
		if got := classOfMoved(c.source, target); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// What the plan moves is looked at before anything runs, on both clusters.
func TestDiscoverOfMovedClaims(t *testing.T) {
	discovered := func(change func(source, target *world, pv *corev1.PersistentVolume)) Discovery {
		t.Helper()
		data, dataPV := sourceClaim("data", nil)
		media, mediaPV := sourceClaim("media", nil)
		mediaPV.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: "ceph", Name: "stage"}
		mediaPV.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Namespace: "shop", Name: "publish"}
		source := newWorld(t, class("fast", "csi", true), data, dataPV, media, mediaPV)
		target := newWorld(t, class("fast", "csi", true))
		e := testEnv(source, target, "preflight", "preflight.check")
		e.Run.Spec.Closure.Plan.Spec.Volumes.Overrides = []spec.VolumeOverride{{Namespace: "shop", Claim: "media", Action: "move"}}
		change(source, target, mediaPV)
		d, err := Discover(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := discovered(func(*world, *world, *corev1.PersistentVolume) {})
	if len(d.Problems) > 0 || len(d.Volumes) != 2 || len(d.Warnings) != 2 {
		t.Fatalf("%+v", d)
	}
	if v := d.Volumes[1]; v.Action != "move" || v.Method != "" || v.StagingClaim != "" || v.StorageClassName != "fast" {
		t.Errorf("%+v", v)
	}
	for i, say := range []string{"Secret ceph/stage, which the target does not have", "a plan with moved and copied volumes"} {
		if !strings.Contains(d.Warnings[i], say) {
			t.Errorf("warning %q does not say %q", d.Warnings[i], say)
		}
	}
	d = discovered(func(_, target *world, _ *corev1.PersistentVolume) {
		target.add(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ceph", Name: "stage"}})
	})
	if len(d.Warnings) != 1 || strings.Contains(d.Warnings[0], "Secret") {
		t.Errorf("the Secret is there: %q", d.Warnings)
	}
	for name, c := range map[string]struct {
		change func(source, target *world, pv *corev1.PersistentVolume)
		reason string
	}{
		"another claim of the same storage": {func(source, _ *world, pv *corev1.PersistentVolume) {
			o := pv.DeepCopy()
			o.Name, o.UID, o.Spec.ClaimRef = "pv-other", "", &corev1.ObjectReference{Namespace: "elsewhere", Name: "media"}
			source.put(o)
		}, "StorageShared"},
		"the target has a volume of that storage": {func(_, target *world, pv *corev1.PersistentVolume) {
			o := pv.DeepCopy()
			o.Name, o.UID = "pv-there", ""
			target.put(o)
		}, "StorageInUse"},
		"moved by another plan": {func(source, _ *world, pv *corev1.PersistentVolume) {
			o := source.volume(pv.Name)
			o.Annotations = map[string]string{kube.AnnotationMoved: "third/pv", kube.AnnotationPlan: "older"}
			source.put(o)
		}, "MovedBefore"},
	} {
		if d := discovered(c.change); len(d.Problems) != 1 || d.Problems[0].Reason != c.reason {
			t.Errorf("%s: %+v", name, d.Problems)
		}
	}
}
