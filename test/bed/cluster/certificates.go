package cluster

import (
	"fmt"
	"os"

	"github.com/tranship/tranship/test/bed/pki"
)

// MakePKI makes the authority, the certificates and the kubeconfigs of the cluster.
func (c *Cluster) MakePKI() error {
	dir := c.Of(c.Name, "pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the folder of the certificates: %w", err)
	}
	ca, err := pki.NewCA(c.Name + "-ca")
	if err != nil {
		return err
	}
	if err := ca.Save(dir, "ca"); err != nil {
		return err
	}
	for file, r := range c.certificates() {
		p, err := ca.Issue(r)
		if err == nil {
			err = p.Save(dir, file)
		}
		if err == nil && r.Client {
			err = os.WriteFile(c.pki(file+".kubeconfig"), pki.Kubeconfig(c.Name, c.Server(), ca, p), 0o600)
		}
		if err != nil {
			return fmt.Errorf("cannot make the certificate %s: %w", file, err)
		}
	}
	if err := c.frontProxy(dir); err != nil {
		return err
	}
	admin, err := os.ReadFile(c.pki("admin.kubeconfig"))
	if err != nil {
		return err
	}
	return os.WriteFile(c.Kubeconfig(), admin, 0o600)
}

func (c *Cluster) certificates() map[string]pki.Request {
	names := []string{"localhost", "127.0.0.1", c.Nodes[0].IP, c.APIService, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	out := map[string]pki.Request{
		"apiserver":                {Name: "kube-apiserver", Hosts: names, Server: true},
		"apiserver-kubelet-client": {Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}, Client: true},
		"admin":                    {Name: "admin", Groups: []string{"system:masters"}, Client: true},
		"kube-controller-manager":  {Name: "system:kube-controller-manager", Client: true},
		"kube-scheduler":           {Name: "system:kube-scheduler", Client: true},
		"kube-proxy":               {Name: "system:kube-proxy", Client: true},
		"sa":                       {Name: "service-accounts"},
	}
	for _, n := range c.Nodes {
		out["kubelet-"+n.Name] = pki.Request{Name: "system:node:" + n.Name, Groups: []string{"system:nodes"}, Client: true}
		out["serving-"+n.Name] = pki.Request{Name: "system:node:" + n.Name, Groups: []string{"system:nodes"}, Hosts: []string{n.Name, n.IP}, Server: true}
	}
	return out
}

// frontProxy makes the authority by which extension API servers know the API server.
func (c *Cluster) frontProxy(dir string) error {
	ca, err := pki.NewCA(c.Name + "-front-proxy-ca")
	if err != nil {
		return err
	}
	if err := ca.Save(dir, "front-proxy-ca"); err != nil {
		return err
	}
	p, err := ca.Issue(pki.Request{Name: "front-proxy-client", Client: true})
	if err != nil {
		return err
	}
	return p.Save(dir, "front-proxy-client")
}
