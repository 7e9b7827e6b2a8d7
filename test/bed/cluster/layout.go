// Package cluster boots the clusters of the bed: machines as nodes, Kubernetes,
// storage, DNS, Velero and access rights.
package cluster

import (
	"path/filepath"

	"github.com/tranship/tranship/test/bed/kubeapi"
	"github.com/tranship/tranship/test/bed/machine"
)

// The network between the machines. The host is a member of it.
const (
	Bridge   = "tbed0"
	BridgeIP = "10.199.0.1"
)

// Spec says what a cluster is like. Everything is fixed: one bed runs on a host.
type Spec struct {
	Name        string
	Nodes       []Node // the first one also runs the control plane
	PodCIDR     string
	ServiceCIDR string
	APIService  string // address of the service "kubernetes"
	DNSService  string
	Gold        bool // has the class bed-gold, which the other cluster does not know
}

// Node says what a node is like.
type Node struct{ Name, IP, PodCIDR string }

// Specs are the clusters of the bed.
func Specs() []Spec {
	return []Spec{
		{
			Name:    "source",
			Nodes:   []Node{{"source-1", "10.199.0.11", "10.201.1.0/24"}, {"source-2", "10.199.0.12", "10.201.2.0/24"}},
			PodCIDR: "10.201.0.0/16", ServiceCIDR: "10.96.0.0/16", APIService: "10.96.0.1", DNSService: "10.96.0.10",
		},
		{
			Name:    "target",
			Nodes:   []Node{{"target-1", "10.199.0.21", "10.202.1.0/24"}, {"target-2", "10.199.0.22", "10.202.2.0/24"}},
			PodCIDR: "10.202.0.0/16", ServiceCIDR: "10.97.0.0/16", APIService: "10.97.0.1", DNSService: "10.97.0.10", Gold: true,
		},
	}
}

// AllNodes are the nodes of both clusters.
func AllNodes() []Node {
	var out []Node
	for _, s := range Specs() {
		out = append(out, s.Nodes...)
	}
	return out
}

// Server is the URL of the API server.
func (s Spec) Server() string { return "https://" + s.Nodes[0].IP + ":6443" }

// Layout says where things are in the folder of the bed.
type Layout struct{ Dir string }

// Bin is the folder of the programs.
func (l Layout) Bin(name string) string { return filepath.Join(l.Dir, "bin", name) }

// Machine is the machine of that name.
func (l Layout) Machine(name string) machine.Machine {
	return machine.Machine{Name: name, Dir: filepath.Join(l.Dir, "machines", name)}
}

// HostMachine runs what serves both clusters, in the network of the host.
func (l Layout) HostMachine() machine.Machine { return l.Machine("host") }

// Machines are all machines of the bed.
func (l Layout) Machines() []machine.Machine {
	out := []machine.Machine{l.HostMachine()}
	for _, n := range AllNodes() {
		out = append(out, l.Machine(n.Name))
	}
	return out
}

// Of is the folder of a cluster.
func (l Layout) Of(cluster string, more ...string) string {
	return filepath.Join(append([]string{l.Dir, cluster}, more...)...)
}

// Storage is the folder of all volumes.
func (l Layout) Storage() string { return filepath.Join(l.Dir, "csi") }

// Cgroup is the group of a node's kubelet.
func (l Layout) Cgroup(node string) string { return l.CgroupParent() + "/" + node }

// CgroupParent holds the groups of all nodes. It is named like the bed's folder:
// a bed in a network namespace of its own is another one.
func (l Layout) CgroupParent() string { return filepath.Base(l.Dir) }

// Cluster is one cluster of the bed.
type Cluster struct {
	Spec
	Layout
	API      *kubeapi.Client
	KubeCRD  string // folder of the CRDs of snapshots
	Velero   string // folder of the CRDs of Velero
	Registry Images
}

// Images are the references of the images that pods of the bed use.
type Images struct{ Pause, Velero, Busybox string }

func (c *Cluster) pki(file string) string { return c.Of(c.Name, "pki", file) }

// Kubeconfig is the administrator's.
func (c *Cluster) Kubeconfig() string { return c.Of(c.Name, "kubeconfig") }

func (c *Cluster) controlPlane() machine.Machine { return c.Machine(c.Nodes[0].Name) }
