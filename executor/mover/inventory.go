package mover

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Inventory is what discovery is computed from: everything that was read from
// the two clusters, and nothing that was concluded.
type Inventory struct {
	Namespaces    []NamespaceInventory
	Volumes       map[string]corev1.PersistentVolume // of the source, by name
	SourceClasses []storagev1.StorageClass
	TargetClasses []storagev1.StorageClass
	Target        TargetInventory // read only if the plan moves volumes or may copy them by native snapshots
	// SnapshotClasses of the source are read only for plans that want snapshots.
	SnapshotClasses []SnapshotClass
	Native          NativeInventory // read only for the same plans
}

// NamespaceInventory is the part of one source namespace.
type NamespaceInventory struct {
	Name    string
	Claims  []corev1.PersistentVolumeClaim
	Pods    []corev1.Pod
	Stopped []corev1.Pod // of the source: without a controller, and deleted by the stop
	Owners  []Owner
	version string // of the list of pods, to watch from
}

// Owner is anything with a pod template; what owns it itself, if anything, is
// Controller ("Deployment/web").
type Owner struct {
	Kind, Name string
	Labels     map[string]string
	Controller string
	Template   corev1.PodTemplateSpec
	// ClaimTemplates are a StatefulSet's volumeClaimTemplates.
	ClaimTemplates []corev1.PersistentVolumeClaim
}

// ReadInventory lists what the plan covers.
func ReadInventory(ctx context.Context, e *kube.Env) (*Inventory, error) {
	inv := &Inventory{Volumes: map[string]corev1.PersistentVolume{}}
	for _, n := range e.Plan().Namespaces {
		ni, err := readSource(ctx, e, n.Name)
		if err != nil {
			return nil, fmt.Errorf("cannot list namespace %s of cluster %s: %w", n.Name, e.Source.Name, err)
		}
		inv.Namespaces = append(inv.Namespaces, ni)
	}
	pvs, err := e.Source.Kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the persistent volumes of cluster %s: %w", e.Source.Name, err)
	}
	for _, pv := range pvs.Items {
		inv.Volumes[pv.Name] = pv
	}
	if inv.SourceClasses, err = classes(ctx, e.Source); err != nil {
		return nil, err
	}
	if inv.TargetClasses, err = classes(ctx, e.Target); err != nil {
		return nil, err
	}
	if Snapshots(e.Plan()) {
		if inv.SnapshotClasses, err = snapshotClasses(ctx, e.Source); err != nil {
			return nil, err
		}
		if inv.Native, err = readNative(ctx, e); err != nil {
			return nil, err
		}
	}
	if !Moves(e.Plan()) && len(inv.Native.Source.Locations) == 0 {
		return inv, nil
	}
	inv.Target, err = readTarget(ctx, e, inv)
	return inv, err
}

func classes(ctx context.Context, on *kube.Cluster) ([]storagev1.StorageClass, error) {
	l, err := on.Kube.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the storage classes of cluster %s: %w", on.Name, err)
	}
	return l.Items, nil
}

// readSource reads a namespace of the source, with the pods that the stop has deleted:
// they say as before which claims are covered, which belong together and where these
// can be used.
func readSource(ctx context.Context, e *kube.Env, name string) (NamespaceInventory, error) {
	n, err := readNamespace(ctx, e.Source, name)
	if err == nil {
		n.Stopped, err = e.StoppedPods(ctx, name)
	}
	return n, err
}

func readNamespace(ctx context.Context, on *kube.Cluster, name string) (NamespaceInventory, error) {
	n := NamespaceInventory{Name: name}
	core := on.Kube.CoreV1()
	claims, err := core.PersistentVolumeClaims(name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return n, err
	}
	pods, err := core.Pods(name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return n, err
	}
	n.Claims, n.Pods, n.version = claims.Items, pods.Items, pods.ResourceVersion
	if len(n.Claims) == 0 {
		return n, nil // nobody's template can mount a claim here
	}
	for _, list := range []func(context.Context, *kube.Cluster, string) ([]Owner, error){listApps, listBatch} {
		owners, err := list(ctx, on, name)
		if err != nil {
			return n, err
		}
		n.Owners = append(n.Owners, owners...)
	}
	return n, nil
}

func owner(kind string, m metav1.ObjectMeta, t corev1.PodTemplateSpec) Owner {
	return Owner{Kind: kind, Name: m.Name, Labels: m.Labels, Controller: controller(&m), Template: t}
}

// controller is "Kind/name" of what controls an object, "" for nothing.
func controller(o metav1.Object) string {
	if c := metav1.GetControllerOf(o); c != nil {
		return c.Kind + "/" + c.Name
	}
	return ""
}

func listApps(ctx context.Context, on *kube.Cluster, namespace string) ([]Owner, error) {
	var owners []Owner
	apps := on.Kube.AppsV1()
	deployments, err := apps.Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, o := range deployments.Items {
		owners = append(owners, owner("Deployment", o.ObjectMeta, o.Spec.Template))
	}
	sets, err := apps.StatefulSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, o := range sets.Items {
		w := owner("StatefulSet", o.ObjectMeta, o.Spec.Template)
		w.ClaimTemplates = o.Spec.VolumeClaimTemplates
		owners = append(owners, w)
	}
	daemons, err := apps.DaemonSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, o := range daemons.Items {
		delete(o.Spec.Template.Spec.NodeSelector, kube.NoNode) // it is only stopped: movers must find a node
		owners = append(owners, owner("DaemonSet", o.ObjectMeta, o.Spec.Template))
	}
	replicas, err := apps.ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, o := range replicas.Items {
		owners = append(owners, owner("ReplicaSet", o.ObjectMeta, o.Spec.Template))
	}
	return owners, nil
}

func listBatch(ctx context.Context, on *kube.Cluster, namespace string) ([]Owner, error) {
	var owners []Owner
	crons, err := on.Kube.BatchV1().CronJobs(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, o := range crons.Items {
		owners = append(owners, owner("CronJob", o.ObjectMeta, o.Spec.JobTemplate.Spec.Template))
	}
	jobs, err := on.Kube.BatchV1().Jobs(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, o := range jobs.Items {
		owners = append(owners, owner("Job", o.ObjectMeta, o.Spec.Template))
	}
	controllers, err := on.Kube.CoreV1().ReplicationControllers(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, o := range controllers.Items {
		if o.Spec.Template != nil {
			owners = append(owners, owner("ReplicationController", o.ObjectMeta, *o.Spec.Template))
		}
	}
	return owners, nil
}

// between are the kinds that stand between a workload and its pods. The others
// are workloads themselves, whatever operator may control them in turn.
var between = map[string]bool{"ReplicaSet": true, "ReplicationController": true, "Job": true}

// root climbs from a pod's controller "Kind/name" to its workload: from a
// ReplicaSet to its Deployment, from a Job to its CronJob.
func (n *NamespaceInventory) root(of string) string {
	for _, o := range n.Owners {
		if between[o.Kind] && o.Controller != "" && o.Kind+"/"+o.Name == of {
			return o.Controller
		}
	}
	return of
}

// podTemplate is the template behind a group "Kind/name/ordinal", nil if it is
// not one of the kinds that we know.
func (n *NamespaceInventory) podTemplate(group string) *corev1.PodSpec {
	kindName := group[:max(strings.LastIndexByte(group, '/'), 0)]
	for i := range n.Owners {
		if o := &n.Owners[i]; o.Kind+"/"+o.Name == kindName || between[o.Kind] && o.Controller == kindName && !n.owns(kindName) {
			return &n.Owners[i].Template.Spec
		}
	}
	for _, p := range n.everyPod() {
		up := controller(p)
		if (up != "" && n.root(up) == kindName) || (up == "" && "Pod/"+p.Name == kindName) {
			return &p.Spec
		}
	}
	return nil
}

// everyPod has those too that the stop has deleted.
func (n *NamespaceInventory) everyPod() (all []*corev1.Pod) {
	for _, pods := range [][]corev1.Pod{n.Pods, n.Stopped} {
		for i := range pods {
			all = append(all, &pods[i])
		}
	}
	return all
}

// ordinal reads the number at the end of a StatefulSet's pod or claim.
func ordinal(name, prefix string) (int, bool) {
	rest, ok := strings.CutPrefix(name, prefix+"-")
	if !ok || rest == "" || (rest[0] == '0' && rest != "0") {
		return 0, false
	}
	n, err := strconv.Atoi(rest)
	return n, err == nil && n >= 0
}
