package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/bench/shape"
)

const (
	fillLimit = 20 * time.Minute
	copyLimit = 30 * time.Minute // of a run that copies a volume
	claimName = "data"
)

// volume is an application with one volume, in a namespace of its own, and the
// plan that moves it.
type volume struct {
	lab   *lab
	plan  string // and the namespace
	shape shape.Shape
	extra []string // lines of the plan's spec
}

// newVolume fills a volume on the source. The workload is a StatefulSet where
// Velero copies too: it knows an earlier copy by the pod's name.
func (l *lab) newVolume(ctx context.Context, name, kind string, s shape.Shape) (*volume, error) {
	v := &volume{lab: l, plan: l.newPlan(name), shape: s}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the shape: %w", err)
	}
	more := map[string]string{"Deployment": "strategy: {type: Recreate}", "StatefulSet": "serviceName: web"}[kind]
	manifests := strings.NewReplacer("NS", v.plan, "IMAGE", l.app, "KIND", kind, "MORE", more, "SHAPE", string(text)).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 32Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec: {selector: {app: web}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: KIND
metadata: {name: web, namespace: NS}
spec:
  replicas: 1
  MORE
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        args: [serve, /data, 'SHAPE']
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`)
	if _, err := l.kubectl(ctx, &l.bed.Source, manifests, "apply", "-f", "-"); err != nil {
		return nil, err
	}
	return v, v.ready(ctx, &l.bed.Source, v.plan)
}

// ready waits until the application on a cluster has its volume, full.
func (v *volume) ready(ctx context.Context, c *cluster, namespace string) error {
	deadline := time.Now().Add(fillLimit)
	for {
		out, err := v.lab.kubectl(ctx, c, "", "-n", namespace, "get", "pods", "-l", "app=web", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out == "True" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the application in namespace %s of cluster %s is not ready after %s: %s %w", namespace, c.name, fillLimit, out, err)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// dir is the folder of the volume on this machine's disk.
func (v *volume) dir(ctx context.Context, c *cluster, namespace string) (string, error) {
	pv, err := v.lab.kubectl(ctx, c, "", "-n", namespace, "get", "pvc", claimName, "-o", "jsonpath={.spec.volumeName}")
	if err != nil {
		return "", err
	}
	handle, err := v.lab.kubectl(ctx, c, "", "get", "pv", pv, "-o", "jsonpath={.spec.csi.volumeHandle}")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(v.lab.bedDir, "csi", "volumes", filepath.Base(handle), "data")
	if _, err := os.Stat(filepath.Join(dir, shape.Marker)); err != nil {
		return "", fmt.Errorf("claim %s/%s of cluster %s is not where the bed keeps volumes: %w", namespace, claimName, c.name, err)
	}
	return dir, nil
}

// stage runs a stage run and returns its record.
func (v *volume) stage(ctx context.Context, number int) (*spec.Run, error) {
	if err := pause(ctx, 1100*time.Millisecond); err != nil { // requests are told apart by the second
		return nil, err
	}
	if _, err := v.lab.commit(ctx, "Ask for a stage run", plan(v.plan, spec.Staged, now(), v.extra...)); err != nil {
		return nil, err
	}
	r, err := v.lab.finished(ctx, v.plan, spec.RunStage, number, copyLimit)
	if err != nil {
		return nil, err
	}
	if len(r.Facts.Volumes) != 1 || r.Facts.Volumes[0].Files != int64(v.shape.Files)+1 {
		return nil, fmt.Errorf("run %s did not cover the %d files: %+v", r.Metadata.Name, v.shape.Files+1, r.Facts.Volumes)
	}
	return r, nil
}

// cutover moves the application. A PreBackup hook, after the pre-copy, makes it
// change its volume as the seed says; the record must say so, and the change
// must have arrived.
func (v *volume) cutover(ctx context.Context, seed int) (*spec.Run, error) {
	l := v.lab
	s, err := l.status(ctx, v.plan)
	if err != nil {
		return nil, err
	}
	request := s.Status.Recorded.HandledRequest.UTC().Format(time.RFC3339)
	hook := "change-" + v.plan
	docs := plan(v.plan, spec.Migrated, request, append(v.extra, fmt.Sprintf("hooks: [{hook: %s, phase: PreBackup, namespace: %s}]", hook, v.plan))...)
	docs["hooks/"+hook+".yaml"] = fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: Hook\nmetadata: {name: %s}\nspec:\n  image: %s\n  command: [/load]\n  args: [ask, %q]\n  backoffLimit: 0\n",
		hook, l.app, fmt.Sprintf("http://web.%s.svc:8080/change?seed=%d", v.plan, seed))
	if _, err := l.commit(ctx, mergeMessage, docs); err != nil {
		return nil, err
	}
	r, err := l.finished(ctx, v.plan, spec.RunMigrate, 1, copyLimit)
	if err != nil {
		return nil, err
	}
	_, files := v.shape.Pieces(seed)
	if got := r.Facts.Volumes[0].ChangedFiles; got != int64(len(files)) {
		return nil, fmt.Errorf("run %s found %d files changed after the stop; the hook changed %d", r.Metadata.Name, got, len(files))
	}
	return r, v.arrived(ctx, v.plan, seed)
}

// arrived compares every changed place in a namespace of the target with the
// source.
func (v *volume) arrived(ctx context.Context, namespace string, seed int) error {
	from, err := v.dir(ctx, &v.lab.bed.Source, v.plan)
	if err != nil {
		return err
	}
	to, err := v.dir(ctx, &v.lab.bed.Target, namespace)
	if err != nil {
		return err
	}
	return shape.Equal(from, to, v.shape.Changes(seed))
}
