package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/test/bed/kubeapi"
)

// InstallVelero installs Velero as its own installer does, without a location for
// Backups: making that is the product's work.
func (c *Cluster) InstallVelero(ctx context.Context) error {
	if err := c.applyCRDs(ctx, c.Velero); err != nil {
		return err
	}
	return c.API.Apply(ctx,
		kubeapi.Object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": "velero"}},
		kubeapi.Object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": object{"name": "velero", "namespace": "velero"}},
		// As `velero install` does where it is told of a provider's plugin. Its snapshots
		// are not ready at once, as a cloud uploads them in the background.
		kubeapi.Object{
			"apiVersion": "velero.io/v1", "kind": "VolumeSnapshotLocation",
			"metadata": object{"name": "default", "namespace": "velero", "annotations": object{"tranship.dev/drivers": Driver}},
			"spec":     object{"provider": "bed.tranship.dev/folders", "config": object{"pendingFor": "6s"}},
		},
		adminBinding("velero", "velero"), c.veleroServer(), c.nodeAgent())
}

func adminBinding(namespace, account string) kubeapi.Object {
	return kubeapi.Object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": object{"name": namespace + "-" + account},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
		"subjects": []any{object{"kind": "ServiceAccount", "name": account, "namespace": namespace}},
	}
}

// veleroServer looks after running operations each second: Velero's own 10 s are
// most of the time of a small backup.
func (c *Cluster) veleroServer() kubeapi.Object {
	labels := object{"component": "velero", "deploy": "velero"}
	return kubeapi.Object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": object{"name": "velero", "namespace": "velero", "labels": object{"component": "velero"}},
		"spec": object{
			"replicas": 1, "selector": object{"matchLabels": object{"deploy": "velero"}},
			"template": object{
				"metadata": object{"labels": labels},
				"spec": object{
					"serviceAccountName": "velero", "terminationGracePeriodSeconds": 1,
					"containers": []any{object{
						"name": "velero", "image": c.Registry.Velero, "imagePullPolicy": "IfNotPresent", "command": []any{"/velero"},
						"args":         []any{"server", "--item-operation-sync-frequency=1s", "--store-validation-frequency=10s"},
						"env":          veleroEnv(),
						"volumeMounts": []any{object{"name": "scratch", "mountPath": "/scratch"}, object{"name": "storage", "mountPath": "/bed-storage"}},
					}},
					"volumes": []any{
						object{"name": "scratch", "emptyDir": object{}},
						// The "cloud" of velero-plugin-for-bed.
						object{"name": "storage", "hostPath": object{"path": c.Storage()}},
					},
				},
			},
		},
	}
}

func (c *Cluster) nodeAgent() kubeapi.Object {
	return kubeapi.Object{
		"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": object{"name": "node-agent", "namespace": "velero", "labels": object{"component": "velero"}},
		"spec": object{
			"selector": object{"matchLabels": object{"name": "node-agent"}},
			"template": object{
				"metadata": object{"labels": object{"component": "velero", "name": "node-agent", "role": "node-agent"}},
				"spec": object{
					"serviceAccountName": "velero", "terminationGracePeriodSeconds": 1, "securityContext": object{"runAsUser": 0},
					"containers": []any{object{
						"name": "node-agent", "image": c.Registry.Velero, "imagePullPolicy": "IfNotPresent", "command": []any{"/velero"},
						"args": []any{"node-agent", "server"},
						"env":  veleroEnv(),
						"volumeMounts": []any{
							object{"name": "host-pods", "mountPath": "/host_pods", "mountPropagation": "HostToContainer"},
							object{"name": "scratch", "mountPath": "/scratch"},
						},
					}},
					"volumes": []any{
						object{"name": "host-pods", "hostPath": object{"path": "/var/lib/kubelet/pods"}},
						object{"name": "scratch", "emptyDir": object{}},
					},
				},
			},
		},
	}
}

func veleroEnv() []any {
	field := func(name, path string) any {
		return object{"name": name, "valueFrom": object{"fieldRef": object{"fieldPath": path}}}
	}
	return []any{
		field("NODE_NAME", "spec.nodeName"), field("VELERO_NAMESPACE", "metadata.namespace"),
		object{"name": "VELERO_SCRATCH_DIR", "value": "/scratch"},
	}
}

// WaitVelero waits until the server and an agent on every node run.
func (c *Cluster) WaitVelero(ctx context.Context) error {
	return kubeapi.Wait(ctx, 2*time.Minute, "Velero on "+c.Name+" (look at its pods with kubectl)", func(ctx context.Context) (bool, error) {
		server, err := c.API.Get(ctx, "/apis/apps/v1/namespaces/velero/deployments/velero")
		if err != nil {
			return false, err
		}
		agent, err := c.API.Get(ctx, "/apis/apps/v1/namespaces/velero/daemonsets/node-agent")
		if err != nil {
			return false, err
		}
		servers, agents := server.Number("status", "availableReplicas"), agent.Number("status", "numberAvailable")
		if servers == 1 && agents == len(c.Nodes) {
			return true, nil
		}
		return false, fmt.Errorf("%d servers and %d agents are available", servers, agents)
	})
}
