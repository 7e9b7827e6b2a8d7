package mover

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// stepLastRestore is the name of the step that writes the last changes.
const stepLastRestore = "last-restore"

// writerCaps put back owners, modes, devices and attributes.
var writerCaps = []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "MKNOD", "SETFCAP"}

func writerName(e *kube.Env, g *writeGroup) string {
	return e.ObjectName("writer/" + g.namespace + "/" + g.name)
}

// needed says that the claim does not hold the wanted snapshot yet, or that
// nobody has made sure of it although the plan asks for that.
func (w *writing) needed() bool {
	return !w.apart && (w.sent || w.verify == engine.VerifyAll || !w.mark.holds(w.v.Snapshot))
}

// writer is the Job of one group. Its pod mounts every claim of the group, so
// that claims which wait for their first consumer are bound together; it writes
// those that need it.
func (r *restoreView) writer(g *writeGroup) jobSpec {
	s := jobSpec{
		name: writerName(r.e, g), component: ComponentWriter, volumes: map[string]string{},
		caps: writerCaps,
	}
	req := request(r.e, engine.OpRestore)
	for i, w := range g.writes {
		name, dir := fmt.Sprintf("volume-%d", i), fmt.Sprintf("/volumes/%d", i)
		s.sources = append(s.sources, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: w.v.StagingClaim},
		}})
		if isBlock(w.v) {
			s.devices = append(s.devices, corev1.VolumeDevice{Name: name, DevicePath: dir})
		} else {
			s.mounts = append(s.mounts, corev1.VolumeMount{Name: name, MountPath: dir, ReadOnly: !w.needed() && !r.standBy})
		}
		if !w.needed() {
			continue
		}
		req.Volumes = append(req.Volumes, w.request(dir))
		s.volumes[key(w.v)] = w.v.Snapshot
	}
	s.assignment.Request = req
	if r.standBy {
		s.standing(engine.OpRestore)
	}
	return s
}

// begin marks every claim of the group and starts its Job.
func (r *restoreView) begin(t *thought, g *writeGroup) *reconciler.Observation {
	s := r.writer(g)
	if o := r.slots.take(t, s.name); o != nil {
		return o
	}
	r.marks(t, g)
	r.launch(t, g, s)
	return nil
}

// request is the order to write one claim. What the mark does not vouch for,
// and what was found to differ before, is compared by content.
func (w *writing) request(dir string) engine.VolumeRequest {
	found := w.v.Verified != nil && w.v.Verified.Errors > 0
	q := engine.VolumeRequest{
		Name: key(w.v), Path: dir, Mode: modeOf(w.v), Snapshot: w.v.Snapshot, Content: found || !w.mark.trusted(), Verify: w.verify,
	}
	if w.mark.kind == spec.MarkClean {
		q.Held = w.mark.held
	}
	return q
}

// place is where the group's pod runs on the target: where the application's
// pod would, as long as a claim is still to be bound, for that decides where
// the volume is made. Later the volume itself knows where it can be used, and
// the source's node selectors may say "nowhere" because it is stopped.
func (r *restoreView) place(ctx context.Context, g *writeGroup) (placement, error) {
	return placeOnTarget(ctx, r.e, r.volumes, g.namespace, g.name, slices.ContainsFunc(g.writes, func(w *writing) bool { return w.claim.Spec.VolumeName == "" }))
}

// placeOnTarget is where a pod that mounts our claims of a group runs; unbound
// says that one of them has no volume yet.
func placeOnTarget(ctx context.Context, e *kube.Env, volumes []spec.Volume, namespace, group string, unbound bool) (placement, error) {
	n, err := readSource(ctx, e, namespace)
	if err != nil {
		return placement{}, fmt.Errorf("cannot list namespace %s of cluster %s: %w", namespace, e.Source.Name, err)
	}
	like := n.podTemplate(group)
	if like == nil {
		return placement{}, nil
	}
	p := placement{tolerations: like.Tolerations}
	if unbound {
		var own *corev1.NodeSelector
		if a := like.Affinity; a != nil && a.NodeAffinity != nil {
			own = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		with, err := beside(ctx, e, volumes, namespace, group)
		if err != nil {
			return placement{}, err
		}
		p.nodeSelector = like.NodeSelector
		if required := allOf(append(with, own)...); required != nil {
			p.affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required}}
		}
	}
	return p, nil
}

// log is what the step's writers did, a line a volume.
func (r *restoreView) log() string {
	var lines []string
	for h, res := range r.results {
		for _, v := range res.Volumes {
			lines = append(lines, fmt.Sprintf("%s: %s: snapshot %s, %d bytes written, %d files changed, %d entries deleted, %d ms", h.name, v.Name, v.Snapshot, v.WrittenBytes, v.ChangedFiles, v.DeletedEntries, v.DurationMS))
			if v.Verified != nil {
				lines = append(lines, verifiedLine(v.Verified))
			}
			for _, w := range v.Warnings {
				lines = append(lines, "  warning: "+w)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
