package cluster

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/tranship/tranship/test/bed/kubeapi"
)

const etcdURL = "http://127.0.0.1:2379"

// StartAPI starts etcd and the API server.
func (c *Cluster) StartAPI() error {
	m := c.controlPlane()
	if err := m.Start("etcd", []string{c.Bin("etcd"), "-data-dir", c.Of(c.Name, "etcd"), "-client", etcdURL}, nil); err != nil {
		return err
	}
	return m.Start("kube-apiserver", []string{
		c.Bin("kube-apiserver"),
		"--etcd-servers=" + etcdURL, "--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + c.Nodes[0].IP,
		"--service-cluster-ip-range=" + c.ServiceCIDR, "--allow-privileged=true",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--anonymous-auth=false",
		"--client-ca-file=" + c.pki("ca.crt"), "--tls-cert-file=" + c.pki("apiserver.crt"), "--tls-private-key-file=" + c.pki("apiserver.key"),
		"--kubelet-certificate-authority=" + c.pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + c.pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + c.pki("apiserver-kubelet-client.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.pki("sa.crt"), "--service-account-signing-key-file=" + c.pki("sa.key"),
		"--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.pki("front-proxy-client.crt"), "--proxy-client-key-file=" + c.pki("front-proxy-client.key"),
		"--profiling=false",
	}, nil)
}

// WaitAPI waits until the API server serves, and makes the client for it.
func (c *Cluster) WaitAPI(ctx context.Context) error {
	api, err := kubeapi.New(c.Server(), c.Of(c.Name, "pki"))
	if err != nil {
		return err
	}
	c.API = api
	err = kubeapi.Wait(ctx, 2*time.Minute, "the API server of "+c.Name, func(ctx context.Context) (bool, error) {
		_, err := api.Raw(ctx, http.MethodGet, "/readyz", "", nil)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("%w; see %s", err, c.controlPlane().Log("kube-apiserver"))
	}
	return nil
}

// StartControllers starts the controller manager and the scheduler.
func (c *Cluster) StartControllers() error {
	m := c.controlPlane()
	auth := func(name string) []string {
		k := c.pki(name + ".kubeconfig")
		return []string{
			c.Bin(name), "--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k,
			"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false",
			// The default of 20 requests a second makes a fresh cluster wait for its own service accounts.
			"--kube-api-qps=300", "--kube-api-burst=600",
		}
	}
	if err := m.Start("kube-controller-manager", append(auth("kube-controller-manager"),
		"--use-service-account-credentials=true", "--service-account-private-key-file="+c.pki("sa.key"), "--root-ca-file="+c.pki("ca.crt"),
		"--cluster-signing-cert-file="+c.pki("ca.crt"), "--cluster-signing-key-file="+c.pki("ca.key"),
		"--pvclaimbinder-sync-period=2s", // 15 s by default, which a claim can have to wait
		"--controllers=*,-nodeipam,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller",
	), nil); err != nil {
		return err
	}
	return m.Start("kube-scheduler", auth("kube-scheduler"), nil)
}
