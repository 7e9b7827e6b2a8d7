package selftest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tranship/tranship/test/bed/kubeapi"
)

// pod describes a pod that runs a script.
type pod struct {
	name, node, claim string
	block             bool // the claim is the device /dev/claim, and no folder
	script            string
}

const podTimeout = 90 * time.Second

// start makes the pod. It goes through the scheduler even when the node is given:
// a claim that waits for its first consumer waits for the scheduler's word.
func (t *tester) start(ctx context.Context, p pod) error {
	container := object{
		"name": "main", "image": t.Busybox, "imagePullPolicy": "IfNotPresent", "command": []any{"/bin/sh", "-c", p.script},
	}
	spec := object{
		"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
		"containers": []any{container},
	}
	if p.node != "" {
		spec["nodeSelector"] = object{"kubernetes.io/hostname": p.node}
	}
	if p.claim != "" {
		if p.block {
			container["volumeDevices"] = []any{object{"name": "data", "devicePath": "/dev/claim"}}
		} else {
			container["volumeMounts"] = []any{object{"name": "data", "mountPath": "/data"}}
		}
		spec["volumes"] = []any{object{"name": "data", "persistentVolumeClaim": object{"claimName": p.claim}}}
	}
	return t.api.Apply(ctx, kubeapi.Object{
		"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": p.name, "namespace": namespace, "labels": object{"app": p.name}}, "spec": spec,
	})
}

func podPath(name string) string { return "/api/v1/namespaces/" + namespace + "/pods/" + name }

// waitPod waits for the phase. A pod that failed says what it printed.
func (t *tester) waitPod(ctx context.Context, name, phase string) error {
	var failed error
	err := kubeapi.Wait(ctx, podTimeout, "pod "+name+" to be "+phase, func(ctx context.Context) (bool, error) {
		p, err := t.api.Get(ctx, podPath(name))
		if err != nil {
			return false, err
		}
		now := p.Text("status", "phase")
		if now == "Failed" && phase != "Failed" {
			out, err := t.api.Raw(ctx, http.MethodGet, podPath(name)+"/log", "", nil)
			failed = errors.Join(fmt.Errorf("pod %s failed: %s", name, out), err)
			return true, nil
		}
		if now != phase {
			return false, fmt.Errorf("it is %s", now)
		}
		return true, nil
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("%w; events: %s", err, t.events(ctx, name))
	}
	return nil
}

// runPod runs the script to its end, removes the pod, and returns what it printed.
func (t *tester) runPod(ctx context.Context, p pod) (string, error) {
	if err := t.start(ctx, p); err != nil {
		return "", err
	}
	if err := t.waitPod(ctx, p.name, "Succeeded"); err != nil {
		return "", err
	}
	out, err := t.api.Raw(ctx, http.MethodGet, podPath(p.name)+"/log", "", nil)
	if err != nil {
		return "", err
	}
	return string(out), t.remove(ctx, p.name)
}

func (t *tester) remove(ctx context.Context, name string) error {
	if err := t.api.Delete(ctx, podPath(name)); err != nil {
		return err
	}
	return kubeapi.Wait(ctx, podTimeout, "pod "+name+" to go", func(ctx context.Context) (bool, error) {
		_, err := t.api.Get(ctx, podPath(name))
		return kubeapi.NotFound(err), nil
	})
}

// events are the messages about a pod.
func (t *tester) events(ctx context.Context, name string) string {
	list, err := t.api.Get(ctx, "/api/v1/namespaces/"+namespace+"/events")
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, e := range list.List("items") {
		if e.Text("involvedObject", "name") == name {
			out = append(out, e.Text("reason")+": "+e.Text("message"))
		}
	}
	return strings.Join(out, "; ")
}

// network checks what pods on each node can reach.
func (t *tester) network(ctx context.Context) error {
	peers, err := t.other.Get(ctx, "/api/v1/namespaces/velero/pods?labelSelector=deploy%3Dvelero")
	if err != nil {
		return err
	}
	items := peers.List("items")
	if len(items) == 0 {
		return fmt.Errorf("there is no Velero pod on %s to reach", t.peer.Name)
	}
	s3Host, s3Port, _ := strings.Cut(t.S3Host, ":")
	script := fmt.Sprintf(`set -e
nslookup kube-dns.kube-system.svc.cluster.local | grep %[1]s
nslookup kubernetes.default | grep %[2]s
nslookup example.com 2>&1 | grep NXDOMAIN
nc -w 5 %[2]s 443 -e true || { echo "own API server, through its service"; exit 1; }
nc -w 5 %[3]s %[4]s -e true || { echo "object store"; exit 1; }
nc -w 5 %[5]s 6443 -e true || { echo "API server of %[6]s"; exit 1; }
nc -w 5 %[7]s 8085 -e true || { echo "pod of %[6]s"; exit 1; }
`, t.DNSService, t.APIService, s3Host, s3Port, t.peer.Nodes[0].IP, t.peer.Name, items[0].Text("status", "podIP"))
	for _, n := range t.Nodes {
		if _, err := t.runPod(ctx, pod{name: "network-" + n.Name, node: n.Name, script: script}); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return nil
}
