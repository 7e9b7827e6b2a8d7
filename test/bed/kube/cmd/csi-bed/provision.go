package main

import (
	"context"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

// provisioner stands in for external-provisioner: it makes a volume for each claim
// of our classes, and deletes the volumes that are released.
type provisioner struct {
	driver  *driver
	client  kubernetes.Interface
	dynamic dynamic.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	queue   workqueue.TypedRateLimitingInterface[string]
}

const selectedNode = "volume.kubernetes.io/selected-node"

func provision(ctx context.Context, d *driver, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read --provision: %w", err)
	}
	config.QPS, config.Burst = 100, 200
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot make a client: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot make a client: %w", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	p := &provisioner{
		driver: d, client: client, dynamic: dyn,
		claims:  factory.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: factory.Core().V1().PersistentVolumes().Lister(),
		classes: factory.Storage().V1().StorageClasses().Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 5*time.Second)),
	}
	p.feed(factory.Core().V1().PersistentVolumeClaims().Informer(), "claim/")
	p.feed(factory.Core().V1().PersistentVolumes().Informer(), "volume/")
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for {
		key, shutdown := p.queue.Get()
		if shutdown {
			return nil
		}
		p.work(ctx, key)
	}
}

func (p *provisioner) feed(informer cache.SharedIndexInformer, prefix string) {
	add := func(obj any) {
		if key, err := cache.MetaNamespaceKeyFunc(obj); err == nil {
			p.queue.Add(prefix + key)
		}
	}
	//nolint:errcheck // fails only for a stopped informer
	informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }})
}

func (p *provisioner) work(ctx context.Context, key string) {
	defer p.queue.Done(key)
	kind, name, _ := strings.Cut(key, "/")
	var err error
	if kind == "claim" {
		err = p.claim(ctx, name)
	} else {
		err = p.released(ctx, name)
	}
	if err != nil {
		log.Printf("%s: %v", key, err)
		p.queue.AddRateLimited(key)
		return
	}
	p.queue.Forget(key)
}

// claim makes the volume for a claim that waits for one of ours.
func (p *provisioner) claim(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	c, err := p.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.Spec.VolumeName != "" || c.Spec.StorageClassName == nil || c.DeletionTimestamp != nil || c.Status.Phase == corev1.ClaimBound {
		return nil
	}
	if c.Spec.Selector != nil {
		return nil // as external-provisioner: it waits for a volume that is there
	}
	class, err := p.classes.Get(*c.Spec.StorageClassName)
	if apierrors.IsNotFound(err) {
		return nil // kube-controller-manager asks again for a class that is made later
	}
	if err != nil {
		return err
	}
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if class.Provisioner != driverName || (waits && c.Annotations[selectedNode] == "") {
		return nil
	}
	source, err := p.content(ctx, c)
	if err != nil {
		return err
	}
	request := &csi.CreateVolumeRequest{
		Name: "pvc-" + string(c.UID), Parameters: class.Parameters, VolumeContentSource: source,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: c.Spec.Resources.Requests.Storage().Value()},
		VolumeCapabilities: capabilities(c),
	}
	if node := c.Annotations[selectedNode]; node != "" {
		request.AccessibilityRequirements = &csi.TopologyRequirement{Preferred: []*csi.Topology{{Segments: map[string]string{topologyKey: node}}}}
	}
	made, err := p.driver.CreateVolume(ctx, request)
	if err != nil {
		p.complain(ctx, c, err)
		return err
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, persistentVolume(c, class, made.GetVolume()), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func capabilities(c *corev1.PersistentVolumeClaim) []*csi.VolumeCapability {
	if c.Spec.VolumeMode == nil || *c.Spec.VolumeMode != corev1.PersistentVolumeBlock {
		return nil
	}
	return []*csi.VolumeCapability{{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}}
}

// complain says on the claim why it gets no volume, as external-provisioner does:
// once, however often it is tried again.
func (p *provisioner) complain(ctx context.Context, c *corev1.PersistentVolumeClaim, why error) {
	now := metav1.Now()
	_, err := p.client.CoreV1().Events(c.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name + "." + string(c.UID)},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID},
		Type:           corev1.EventTypeWarning, Reason: "ProvisioningFailed", Message: "failed to provision volume: " + why.Error(),
		Source: corev1.EventSource{Component: driverName}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		log.Printf("cannot tell claim %s/%s: %v", c.Namespace, c.Name, err)
	}
}

func persistentVolume(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, v *csi.Volume) *corev1.PersistentVolume {
	reclaim := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	mode := corev1.PersistentVolumeFilesystem
	if c.Spec.VolumeMode != nil {
		mode = *c.Spec.VolumeMode
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(c.UID), Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": driverName}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: c.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes: c.Spec.AccessModes, PersistentVolumeReclaimPolicy: reclaim, StorageClassName: class.Name,
			VolumeMode: &mode, MountOptions: class.MountOptions,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: v.GetVolumeId(), FSType: "ext4"}},
		},
	}
	for _, t := range v.GetAccessibleTopology() {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: topologyKey, Operator: corev1.NodeSelectorOpIn, Values: []string{t.GetSegments()[topologyKey]}}},
		}}}}
	}
	return pv
}

// released deletes a volume whose claim is gone, if its policy says so.
func (p *provisioner) released(ctx context.Context, name string) error {
	pv, err := p.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != driverName || pv.Status.Phase != corev1.VolumeReleased ||
		pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	if _, err := p.driver.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: pv.Spec.CSI.VolumeHandle}); err != nil {
		return err
	}
	err = p.client.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pv.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
