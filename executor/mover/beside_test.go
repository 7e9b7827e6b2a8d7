package mover

import (
	"testing"

	"github.com/tranship/tranship/spec"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod mounts a moved volume of one zone and a copied one, so the copy is
// made in that zone, and where the pod itself can run.
func TestCopiesAreMadeBesideMovedVolumes(t *testing.T) {
	const in = corev1.NodeSelectorOpIn
	data, dataPV := sourceClaim("data", nil)
	media, mediaPV := sourceClaim("media", nil)
	pinned(mediaPV, term("zone", in, "a"), term("zone", in, "b"))
	web := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	web.Spec.Template.Spec = podSpec("data", "media")
	web.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term("disk", in, "ssd")}},
	}}
	source := newWorld(t, data, dataPV, media, mediaPV, web)
	e := testEnv(source, newWorld(t), "restore-volumes", "mover.restore")
	r := &restoreView{e: e, volumes: []spec.Volume{stagedVolume(e, "data", "s1"), stagedVolume(e, "media", ""), stagedVolume(e, "other", "")}}
	r.volumes[1].Action, r.volumes[2].Action, r.volumes[2].Group = "move", "move", "Deployment/other/0"
	g := &writeGroup{namespace: "shop", name: "Deployment/web/0", writes: []*writing{{v: &r.volumes[0], claim: &corev1.PersistentVolumeClaim{}}}}
	p, err := r.place(t.Context(), g)
	if err != nil || p.affinity == nil {
		t.Fatalf("%+v %v", p, err)
	}
	s := p.affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	for labels, want := range map[[2]string]bool{{"a", "ssd"}: true, {"b", "ssd"}: true, {"c", "ssd"}: false, {"a", "hdd"}: false, {"", "ssd"}: false} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"zone": labels[0], "disk": labels[1]}}}
		if selects(s, n) != want {
			t.Errorf("a node of zone %q with disk %q: %t, want %t", labels[0], labels[1], !want, want)
		}
	}
	g.writes[0].claim.Spec.VolumeName = "pv-made"
	if p, err := r.place(t.Context(), g); err != nil || p.affinity != nil {
		t.Errorf("a volume that is there knows its place itself: %+v %v", p, err)
	}
	if allOf(nil, nil) != nil {
		t.Error("nothing is asked, so nothing is required")
	}
}
