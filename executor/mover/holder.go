package mover

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	holderUser  = 65532 // nobody in particular: a holder opens no file
	holderGrace = 1     // second
)

// holderName is the same for every try of one attempt.
func holderName(e *kube.Env, v *spec.Volume) string { return e.ObjectName("holder/" + key(v)) }

// hold is what a holder is to keep mounted, and where.
type hold struct {
	v        *spec.Volume
	on       *kube.Cluster
	at       place
	writable bool // through its directory; never for the holder itself
	like     *corev1.PodSpec
	where    spot
}

// pod is the credential-free pod in the application's namespace that keeps
// a claim mounted while we read or write through its directory. It takes after the pod
// that uses the claim in all that decides where it may run and as what.
func (h hold) pod(e *kube.Env, shiftedUser bool) *corev1.Pod {
	v, like := h.v, h.like
	user := ptr.To[int64](holderUser)
	if shiftedUser {
		user = nil // OpenShift gives every namespace a range of its own and fills one in
	}
	m := e.Settings.Mover
	p := &corev1.Pod{
		ObjectMeta: objectMeta(e, h.at.namespace, holderName(e, v), ComponentHolder),
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To[int64](holderGrace),
			ActiveDeadlineSeconds:        seconds(e),
			AutomountServiceAccountToken: ptr.To(false), EnableServiceLinks: ptr.To(false),
			Affinity: h.where.affinity(),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), RunAsUser: user,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "holder", Image: cmp.Or(m.HolderImage, m.Image), ImagePullPolicy: corev1.PullIfNotPresent,
				Args: []string{"mover", "hold"},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
				},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
			Volumes: []corev1.Volume{{Name: "claim", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: h.at.claim, ReadOnly: !h.writable},
			}}},
		},
	}
	attach(&p.Spec.Containers[0], v, corev1.VolumeMount{Name: "claim", MountPath: "/claim", ReadOnly: true})
	p.Annotations[annotationVolume] = key(v)
	if like != nil {
		p.Spec.Tolerations = like.Tolerations
		p.Spec.SecurityContext.SELinuxOptions = seLinux(like, h.at.claim)
	}
	return p
}

// seLinux is the label with which the application's containers reach the
// claim; a container's own options win over the pod's.
func seLinux(like *corev1.PodSpec, claim string) *corev1.SELinuxOptions {
	volumes := map[string]bool{}
	for _, v := range like.Volumes {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim {
			volumes[v.Name] = true
		}
	}
	for _, c := range like.Containers {
		if c.SecurityContext == nil || c.SecurityContext.SELinuxOptions == nil {
			continue
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return volumes[m.Name] }) {
			return c.SecurityContext.SELinuxOptions
		}
	}
	if like.SecurityContext != nil {
		return like.SecurityContext.SELinuxOptions
	}
	return nil
}

// create makes the pod; a pod of that name that is not ours is an error.
func (h hold) create(ctx context.Context, e *kube.Env) error {
	ns, err := h.on.Kube.CoreV1().Namespaces().Get(ctx, h.at.namespace, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read namespace %s of cluster %s: %w", h.at.namespace, h.on.Name, err)
	}
	_, shifted := ns.Annotations["openshift.io/sa.scc.uid-range"]
	ranges, err := h.on.Kube.CoreV1().LimitRanges(h.at.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list the limit ranges of namespace %s of cluster %s: %w", h.at.namespace, h.on.Name, err)
	}
	p := h.pod(e, shifted)
	c := &p.Spec.Containers[0]
	c.Resources = fitLimits(c.Resources, ranges.Items)
	_, err = h.on.Kube.CoreV1().Pods(h.at.namespace).Create(ctx, p, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil // the next thought sees it, and whether it is ours
	case apierrors.IsForbidden(err):
		return fmt.Errorf("namespace %s of cluster %s does not admit our holder, a pod with %s CPU and %s memory that keeps claim %s mounted: make room in its quota, or correct its limit ranges or its Pod Security level: %w",
			h.at.namespace, h.on.Name, c.Resources.Requests.Cpu(), c.Resources.Requests.Memory(), h.at.claim, err)
	}
	return err
}

func deletePod(ctx context.Context, on *kube.Cluster, p *corev1.Pod) error {
	o := exactly(p)
	o.GracePeriodSeconds = ptr.To[int64](holderGrace)
	return gone(on.Kube.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, o))
}

// spot is where a claim can be read: on a node, or preferably on one.
type spot struct{ node, preferred string }

func onNode(name string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{
		Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name},
	}}}
}

// affinity leaves the binding to the scheduler, which knows a volume's topology.
func (s spot) affinity() *corev1.Affinity {
	switch {
	case s.node != "":
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{onNode(s.node)},
		}}}
	case s.preferred != "":
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: 100, Preference: onNode(s.preferred)},
		}}}
	}
	return nil
}

// plugin is a kind of volume as kubelets call it.
type plugin struct {
	dir string
	is  func(s *corev1.PersistentVolumeSource) bool
}

// plugins are the directory names that kubelets give the volumes of a pod, by
// the kind of volume. In-tree disks that are missing here are served by CSI
// drivers in every supported release.
var plugins = []plugin{
	{"kubernetes.io~local-volume", func(s *corev1.PersistentVolumeSource) bool { return s.Local != nil }},
	{"kubernetes.io~nfs", func(s *corev1.PersistentVolumeSource) bool { return s.NFS != nil }},
	{"kubernetes.io~iscsi", func(s *corev1.PersistentVolumeSource) bool { return s.ISCSI != nil }},
	{"kubernetes.io~fc", func(s *corev1.PersistentVolumeSource) bool { return s.FC != nil }},
	{"kubernetes.io~cephfs", func(s *corev1.PersistentVolumeSource) bool { return s.CephFS != nil }},
	{"kubernetes.io~rbd", func(s *corev1.PersistentVolumeSource) bool { return s.RBD != nil }},
	{"kubernetes.io~glusterfs", func(s *corev1.PersistentVolumeSource) bool { return s.Glusterfs != nil }},
}

// mountedAt is where a kubelet mounts a volume, below the volumes directory of
// a pod: the directory that belongs to the volume alone, and the mount in it.
func mountedAt(pv *corev1.PersistentVolume) (dir, mount string) {
	if f := pv.Spec.FlexVolume; f != nil {
		d := strings.ReplaceAll(f.Driver, "/", "~") + "/" + pv.Name
		return d, d
	}
	for _, p := range plugins {
		if p.is(&pv.Spec.PersistentVolumeSource) {
			return p.dir + "/" + pv.Name, p.dir + "/" + pv.Name
		}
	}
	d := "kubernetes.io~csi/" + pv.Name
	return d, d + "/mount"
}

// window is how a reader sees one volume.
type window struct {
	hostPath string // mounted into the reader, read-only
	kind     corev1.HostPathType
	path     string // of the volume, inside that
	await    bool   // path becomes a mount point when the kubelet is ready
}

// through is the window through a pod's directory. A holder has nothing else
// in there. Of an application's pod, which has its secrets there too, only the
// volume's own directory is shown.
func through(e *kube.Env, p *corev1.Pod, pv *corev1.PersistentVolume) window {
	if pv.Spec.HostPath != nil { // never mounted below the pod
		return window{hostPath: pv.Spec.HostPath.Path, kind: corev1.HostPathDirectory}
	}
	volumes := path.Join(cmp.Or(e.Settings.Mover.KubeletRoot, "/var/lib/kubelet"), "pods", string(p.UID), "volumes")
	dir, mount := mountedAt(pv)
	if p.Labels[LabelComponent] == ComponentHolder {
		// The reader is started before the kubelet has got to the holder.
		return window{hostPath: volumes, kind: corev1.HostPathDirectoryOrCreate, path: mount, await: true}
	}
	return window{hostPath: path.Join(volumes, dir), kind: corev1.HostPathDirectory, path: strings.TrimPrefix(strings.TrimPrefix(mount, dir), "/"), await: true}
}

// sortedKeys is for names and indexes that must not depend on map order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
