package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tranship/tranship/test/bed/machine"
)

// BridgeUp makes the network between the machines.
func BridgeUp(ctx context.Context) error {
	if exec.CommandContext(ctx, "ip", "link", "show", Bridge).Run() == nil {
		return fmt.Errorf("cannot make the bridge %s: it exists, so a bed runs in another folder; run `bed down --dir` of that one", Bridge)
	}
	return ip(ctx, []string{
		"link add " + Bridge + " type bridge",
		"addr add " + BridgeIP + "/24 dev " + Bridge,
		"link set " + Bridge + " up",
	})
}

// BridgeDown removes it, with the host's routes through it. The cables go first:
// the kernel removes those of a dead machine too, but at its leisure, and the next
// boot would find them.
func BridgeDown(ctx context.Context) error {
	links := []string{}
	for _, n := range AllNodes() {
		links = append(links, veth(n.Name))
	}
	for _, link := range append(links, Bridge) {
		out, err := exec.CommandContext(ctx, "ip", "link", "del", link).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "Cannot find device") {
			return fmt.Errorf("cannot remove %s: %w: %s", link, err, out)
		}
	}
	return nil
}

func ip(ctx context.Context, commands []string) error {
	for _, c := range commands {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot run ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

func veth(node string) string { return "tb-" + node }

// BootNode starts the machine of a node: its namespaces, network, mounts and cgroup.
func (l Layout) BootNode(ctx context.Context, n Node) error {
	m := l.Machine(n.Name)
	for _, sub := range []string{"kubelet", "pod-logs", "container-logs", "cni-state", "cni.d", "containerd"} {
		if err := os.MkdirAll(filepath.Join(m.Dir, sub), 0o755); err != nil {
			return fmt.Errorf("cannot make a folder of node %s: %w", n.Name, err)
		}
	}
	if err := m.Boot(ctx, l.Bin("bed"), machine.Full); err != nil {
		return err
	}
	if err := machine.MakeCgroup(l.Cgroup(n.Name)); err != nil {
		return err
	}
	if err := ip(ctx, []string{
		"link add " + veth(n.Name) + " type veth peer name eth0 netns " + strconv.Itoa(m.Pid()),
		"link set " + veth(n.Name) + " master " + Bridge + " up",
		"route replace " + n.PodCIDR + " via " + n.IP + " dev " + Bridge,
	}); err != nil {
		return err
	}
	return m.Script(ctx, l.nodeScript(n))
}

// bound are the folders that programs insist on, and that each node has for itself.
var bound = map[string]string{
	"kubelet": "/var/lib/kubelet", "pod-logs": "/var/log/pods", "container-logs": "/var/log/containers", "cni-state": "/var/lib/cni",
}

// nodeScript sets a machine up from inside. Mounts are private first, so that
// nothing of them reaches the host, and then shared among the node's own pods.
func (l Layout) nodeScript(n Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mount --make-rprivate /\nmount -t proc proc /proc\nmount -t tmpfs -o mode=755 tmpfs /run\nmount --make-rshared /\n")
	fmt.Fprintf(&b, "hostname %s\nip link set lo up\nip addr add %s/24 dev eth0\nip link set eth0 up\nip route add default via %s\n", n.Name, n.IP, BridgeIP)
	// Bridged packets must pass iptables, or a pod cannot reach a service whose
	// endpoint is on its own node.
	fmt.Fprintf(&b, "echo 1 > /proc/sys/net/ipv4/ip_forward\necho 1 > /proc/sys/net/bridge/bridge-nf-call-iptables\n")
	// Of all machines together: with a third bed beside, Debian's 128 are not enough,
	// and its kubelets do not start.
	fmt.Fprintf(&b, "test $(cat %[1]s) -ge 1024 || echo 1024 > %[1]s\n", "/proc/sys/fs/inotify/max_user_instances")
	for sub, target := range bound {
		from := filepath.Join(l.Machine(n.Name).Dir, sub)
		fmt.Fprintf(&b, "mkdir -p %[1]s\nmount --bind %[2]s %[1]s\nmount --make-rshared %[1]s\n", target, from)
	}
	for _, other := range AllNodes() {
		if other.Name != n.Name {
			fmt.Fprintf(&b, "ip route add %s via %s\n", other.PodCIDR, other.IP)
		}
	}
	return b.String()
}

// RouteServices lets the host reach the services of the cluster, through its first
// node.
func (c *Cluster) RouteServices(ctx context.Context) error {
	return ip(ctx, []string{"route replace " + c.ServiceCIDR + " via " + c.Nodes[0].IP + " dev " + Bridge})
}
