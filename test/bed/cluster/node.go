package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tranship/tranship/test/bed/kubeapi"
	"github.com/tranship/tranship/test/bed/machine"
)

// StartRuntime starts containerd, whose images are in place already.
func (c *Cluster) StartRuntime(n Node) error {
	m := c.Machine(n.Name)
	config := filepath.Join(m.Dir, "containerd.toml")
	files := map[string]string{
		config: ContainerdConfig(filepath.Join(m.Dir, "containerd"), "/run/containerd", filepath.Join(m.Dir, "cni.d"), c.Registry.Pause),
		filepath.Join(m.Dir, "cni.d", "10-bridge.conflist"): cniConfig(n),
		filepath.Join(m.Dir, "resolv.conf"):                 "nameserver " + c.DNSService + "\n",
		filepath.Join(m.Dir, "kubelet.yaml"):                c.kubeletConfig(n),
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("cannot write the configuration of node %s: %w", n.Name, err)
		}
	}
	return m.Start("containerd", []string{"containerd", "--config", config}, nil)
}

// ContainerdConfig configures containerd. restrict_oom_score_adj is for sandboxes
// whose root may not lower the score: without it runc dies with "can't get final
// child's PID from pipe".
func ContainerdConfig(root, state, cni, pause string) string {
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.native", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "%[2]s/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[4]q
  enable_selinux = false
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %[3]q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "/usr/sbin/runc"
        SystemdCgroup = false
`, root, state, cni, pause)
}

// cniConfig does not hide pods behind their node (ipMasq): every machine and the
// host have routes to every pod.
func cniConfig(n Node) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "bed", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
`, n.PodCIDR)
}

func (c *Cluster) kubeletConfig(n Node) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[1]s}}
authorization: {mode: Webhook}
tlsCertFile: %[2]s
tlsPrivateKeyFile: %[3]s
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /%[4]s
failCgroupV1: false
failSwapOn: false
resolvConf: %[5]s
clusterDomain: cluster.local
clusterDNS: [%[6]s]
podLogsDir: /var/log/pods
# The machine's disk is not ours: nothing may be thrown out because it is full.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: "100Mi", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%"}
serializeImagePulls: false
maxPods: 110
# The default keeps a watch for each ConfigMap and Secret of each pod, and gives
# a new one a second to answer: on a busy machine pods then start half a minute late.
configMapAndSecretChangeDetectionStrategy: Get
`, c.pki("ca.crt"), c.pki("serving-"+n.Name+".crt"), c.pki("serving-"+n.Name+".key"), c.Cgroup(n.Name),
		filepath.Join(c.Machine(n.Name).Dir, "resolv.conf"), c.DNSService)
}

// StartNode starts the kubelet, kube-proxy and the node's part of the storage.
func (c *Cluster) StartNode(ctx context.Context, n Node) error {
	m := c.Machine(n.Name)
	if err := c.waitRuntime(ctx, m); err != nil {
		return err
	}
	if err := m.Start("kubelet", []string{
		c.Bin("kubelet"), "--config=" + filepath.Join(m.Dir, "kubelet.yaml"), "--kubeconfig=" + c.pki("kubelet-"+n.Name+".kubeconfig"),
		"--hostname-override=" + n.Name, "--node-ip=" + n.IP, "--root-dir=/var/lib/kubelet",
	}, nil); err != nil {
		return err
	}
	if err := m.Start("kube-proxy", []string{
		c.Bin("kube-proxy"), "--kubeconfig=" + c.pki("kube-proxy.kubeconfig"), "--hostname-override=" + n.Name, "--proxy-mode=iptables",
		"--cluster-cidr=" + c.PodCIDR,
		// Zero: leave the host's connection tracking as it is.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
	}, nil); err != nil {
		return err
	}
	storage := []string{c.Bin("csi-bed"), "--node=" + n.Name, "--root=" + c.Storage()}
	if n == c.Nodes[0] {
		storage = append(storage, "--provision="+c.Kubeconfig())
	}
	return m.Start("csi-bed", storage, nil)
}

// waitRuntime looks for the socket through the machine's own mounts.
func (c *Cluster) waitRuntime(ctx context.Context, m machine.Machine) error {
	socket := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", m.Pid())
	err := kubeapi.Wait(ctx, 30*time.Second, "containerd on "+m.Name, func(context.Context) (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("%w; see %s", err, m.Log("containerd"))
	}
	return nil
}

// WaitNodes waits until all nodes are ready and have the storage.
func (c *Cluster) WaitNodes(ctx context.Context) error {
	for _, n := range c.Nodes {
		err := kubeapi.Wait(ctx, 2*time.Minute, "node "+n.Name, func(ctx context.Context) (bool, error) {
			node, err := c.API.Get(ctx, "/api/v1/nodes/"+n.Name)
			if err != nil {
				return false, err
			}
			if node.Condition("Ready") != "True" {
				return false, errors.New("it is not ready")
			}
			return true, nil
		})
		if err != nil {
			return fmt.Errorf("%w; see %s", err, c.Machine(n.Name).Log("kubelet"))
		}
		err = kubeapi.Wait(ctx, time.Minute, "the storage of node "+n.Name, func(ctx context.Context) (bool, error) {
			node, err := c.API.Get(ctx, "/apis/storage.k8s.io/v1/csinodes/"+n.Name)
			if err != nil {
				return false, err
			}
			return len(node.List("spec", "drivers")) > 0, nil
		})
		if err != nil {
			return fmt.Errorf("%w; see %s", err, c.Machine(n.Name).Log("csi-bed"))
		}
	}
	return nil
}
