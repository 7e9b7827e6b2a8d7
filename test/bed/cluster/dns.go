package cluster

import (
	"context"
	"fmt"
	"os"

	"github.com/tranship/tranship/test/bed/kubeapi"
)

// StartDNS starts CoreDNS beside the control plane, behind the usual service: pods
// see nothing but the service, and a program is lighter than a pod. Names outside
// the cluster do not exist: without a word on them CoreDNS would answer that it
// failed, and resolvers would ask again and again.
func (c *Cluster) StartDNS(ctx context.Context) error {
	config := c.Of(c.Name, "Corefile")
	text := fmt.Sprintf(`.:53 {
  bind %s
  errors
  cache 5
  kubernetes cluster.local in-addr.arpa {
    kubeconfig %s
  }
  template ANY ANY . {
    rcode NXDOMAIN
  }
}
`, c.Nodes[0].IP, c.Kubeconfig())
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return fmt.Errorf("cannot write the configuration of CoreDNS: %w", err)
	}
	if err := c.controlPlane().Start("coredns", []string{c.Bin("coredns"), "-conf", config}, nil); err != nil {
		return err
	}
	ports := []any{
		object{"name": "dns", "port": 53, "protocol": "UDP"},
		object{"name": "dns-tcp", "port": 53, "protocol": "TCP"},
	}
	return c.API.Apply(ctx,
		kubeapi.Object{
			"apiVersion": "v1", "kind": "Service", "metadata": object{"name": "kube-dns", "namespace": "kube-system"},
			"spec": object{"clusterIP": c.DNSService, "ports": ports},
		},
		kubeapi.Object{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
			"metadata":    object{"name": "kube-dns-bed", "namespace": "kube-system", "labels": object{"kubernetes.io/service-name": "kube-dns"}},
			"addressType": "IPv4", "ports": ports,
			"endpoints": []any{object{"addresses": []any{c.Nodes[0].IP}, "conditions": object{"ready": true}}},
		})
}

type object = map[string]any
