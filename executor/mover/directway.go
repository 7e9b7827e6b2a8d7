package mover

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// wayPatience is how long a Service may take to get an address.
const wayPatience = 90 * time.Second

// way is how a receiver can be reached. Nobody has to be trusted on it: both
// ends prove themselves to each other, wherever they meet.
type way struct {
	address string // "host:port"; "" as long as there is none
	service *corev1.Service
	waits   bool // for an address that the cluster has to give
}

// readWays looks where the receivers of this attempt can be reached.
func (d *directView) readWays(ctx context.Context) error {
	d.ways = map[string]way{}
	for _, g := range d.groups {
		var p *corev1.Pod
		if h := d.job(g); h != nil {
			for i := range h.pods {
				if h.pods[i].Status.Phase == corev1.PodRunning {
					p = &h.pods[i]
				}
			}
		}
		name := writerName(d.e, g)
		w, err := d.way(ctx, name, p)
		if err != nil {
			return err
		}
		d.ways[name] = w
	}
	return nil
}

func (d *directView) way(ctx context.Context, name string, p *corev1.Pod) (way, error) {
	if d.kind() == spec.ReceiverPodIP {
		if p == nil || p.Status.PodIP == "" {
			return way{}, nil
		}
		return way{address: net.JoinHostPort(p.Status.PodIP, directPort)}, nil
	}
	s, err := d.e.Target.Kube.CoreV1().Services(d.e.Settings.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return way{}, nil
	}
	if err != nil {
		return way{}, fmt.Errorf("cannot read Service %s/%s of cluster %s: %w", d.e.Settings.Namespace, name, d.e.Target.Name, err)
	}
	at := balanced(s)
	switch {
	case p == nil || (d.kind() == spec.ReceiverLoadBalancer && at == ""):
		return way{service: s, waits: d.kind() == spec.ReceiverLoadBalancer && at == ""}, nil
	case d.kind() == spec.ReceiverLoadBalancer:
		return way{service: s, address: at}, nil
	}
	node, err := d.e.Target.Kube.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		return way{}, fmt.Errorf("cannot read node %s of cluster %s: %w", p.Spec.NodeName, d.e.Target.Name, err)
	}
	return way{address: onNodePort(s, node), service: s}, nil
}

func (d *directView) kind() string { return cmp.Or(d.e.Settings.Mover.Receiver, spec.ReceiverPodIP) }

// balanced is the address that a load balancer gave a Service.
func balanced(s *corev1.Service) string {
	for _, i := range s.Status.LoadBalancer.Ingress {
		if host := cmp.Or(i.IP, i.Hostname); host != "" {
			return net.JoinHostPort(host, directPort)
		}
	}
	return ""
}

// onNodePort is the port of a Service on the node where its pod runs.
func onNodePort(s *corev1.Service, node *corev1.Node) string {
	byType := map[corev1.NodeAddressType]string{}
	for _, a := range node.Status.Addresses {
		byType[a.Type] = cmp.Or(byType[a.Type], a.Address)
	}
	host := cmp.Or(byType[corev1.NodeExternalIP], byType[corev1.NodeInternalIP])
	if host == "" || len(s.Spec.Ports) == 0 || s.Spec.Ports[0].NodePort == 0 {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(int(s.Spec.Ports[0].NodePort)))
}

// unreached deals with a receiver that has no address yet.
func (d *directView) unreached(t *thought, g *writeGroup, h *helperJob) reconciler.Observation {
	w := d.ways[h.name]
	switch {
	case d.kind() == spec.ReceiverPodIP:
		return *d.down.progress(h, g)
	case w.service == nil:
		t.move(fmt.Sprintf("create Service %s/%s on cluster %s", d.e.Settings.Namespace, h.name, d.e.Target.Name), func(ctx context.Context) error {
			_, err := d.e.Target.Kube.CoreV1().Services(d.e.Settings.Namespace).Create(ctx, d.serviceOf(h.name), metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
	}
	return working("ReceiverAddress", object(spec.Target, "Service", d.e.Settings.Namespace, h.name), "waits until Service %s/%s of type %s has an address on cluster %s", d.e.Settings.Namespace, h.name, d.kind(), d.e.Target.Name)
}

// serviceOf leads to the one pod of a receiver.
func (d *directView) serviceOf(job string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: objectMeta(d.e, d.e.Settings.Namespace, job, ComponentIdentity),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceType(d.kind()), Selector: map[string]string{batchv1.JobNameLabel: job},
			// No extra hop, and no node answers for a pod that it does not run.
			ExternalTrafficPolicy:    corev1.ServiceExternalTrafficPolicyLocal,
			Ports:                    []corev1.ServicePort{{Name: "transfer", Protocol: corev1.ProtocolTCP, Port: 7443, TargetPort: intstr.FromInt32(7443)}},
			PublishNotReadyAddresses: true,
		},
	}
}

// noWay finds a receiver whose Service gets no address. The Service is what
// remembers that: it stays until the run is cleaned up.
func (d *directView) noWay() engine.Result {
	for _, name := range sortedKeys(d.ways) {
		if s := d.ways[name].service; s != nil && d.ways[name].waits && d.e.Target.Now().Sub(s.CreationTimestamp.Time) > wayPatience {
			return engine.Result{Reason: engine.ReasonDirectUnreachable, Error: fmt.Sprintf("Service %s/%s of type %s got no address within %s", s.Namespace, name, d.kind(), wayPatience)}
		}
	}
	return engine.Result{}
}

// removeServices removes the ways that transfers which were ended have left.
func removeServices(ctx context.Context, e *kube.Env, t *thought, on *kube.Cluster) error {
	l, err := on.Kube.CoreV1().Services(e.Settings.Namespace).List(ctx, helpers(e, ComponentIdentity))
	if err != nil {
		return fmt.Errorf("cannot list our Services on cluster %s: %w", on.Name, err)
	}
	for i := range l.Items {
		s := &l.Items[i]
		t.move(fmt.Sprintf("remove Service %s/%s on cluster %s", s.Namespace, s.Name, on.Name), func(ctx context.Context) error {
			return gone(on.Kube.CoreV1().Services(s.Namespace).Delete(ctx, s.Name, exactly(s)))
		})
	}
	return nil
}
