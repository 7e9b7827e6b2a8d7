package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// planLabel selects what the product made for the plan: its name and ten hex
// digits of the name's SHA-256.
func planLabel() string {
	sum := sha256.Sum256([]byte(planName))
	return "tranship.dev/plan=" + planName + "-" + hex.EncodeToString(sum[:5])
}

// clean removes what an earlier demonstration left on the bed.
func (d *demo) clean(ctx context.Context) error {
	if err := d.stopKept(ctx); err != nil {
		return err
	}
	if err := d.removeShop(ctx); err != nil {
		return fmt.Errorf("cannot clear the bed for the demonstration: %w; `make bed-down` starts afresh", err)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	d.say("bed", "two clusters with two nodes each, an object store and a Git server: %s", strings.Join(append(d.bed.Source.Nodes, d.bed.Target.Nodes...), ", "))
	return nil
}

// removeShop removes the application and everything of its plan from both clusters.
func (d *demo) removeShop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, c := range d.bed.clusters() {
		wg.Go(func() { errs[i] = c.removeShop(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *cluster) removeShop(ctx context.Context) error {
	if err := c.dropVolumes(ctx); err != nil {
		return err
	}
	plan := "-l=" + planLabel()
	commands := [][]string{
		{"delete", "namespace", namespace, "--ignore-not-found", "--timeout=8m"},
		{"delete", "jobs,pods,persistentvolumeclaims,secrets,configmaps", "-n", ourNamespace, plan, "--ignore-not-found", "--timeout=5m"},
		{"delete", "restores.velero.io", "-n", "velero", plan, "--ignore-not-found", "--timeout=5m"},
		{"delete", "backupstoragelocations.velero.io", "-n", "velero", plan, "--ignore-not-found", "--timeout=5m"},
		{"delete", "backups.velero.io,secrets,configmaps", "-n", "velero", plan, "--ignore-not-found", "--timeout=5m"},
	}
	for _, args := range commands {
		if _, err := c.kubectl(ctx, args...); err != nil {
			return fmt.Errorf("on the %s: %w", c.name, err)
		}
	}
	return c.dropEpoch(ctx)
}

// dropVolumes lets the volumes go with their claims: the product keeps them.
func (c *cluster) dropVolumes(ctx context.Context) error {
	var volumes struct {
		Items []struct {
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
			Spec struct {
				ClaimRef                      struct{ Namespace string }
				PersistentVolumeReclaimPolicy string
			}
		}
	}
	if err := c.get(ctx, &volumes, "pv"); err != nil {
		return err
	}
	for _, v := range volumes.Items {
		ours := v.Spec.ClaimRef.Namespace == namespace || v.Metadata.Annotations["tranship.dev/plan-name"] == planName
		if !ours || v.Spec.PersistentVolumeReclaimPolicy == "Delete" {
			continue
		}
		if _, err := c.kubectl(ctx, "patch", "pv", v.Metadata.Name, "--type=merge", "-p", `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`); err != nil {
			return fmt.Errorf("on the %s: %w", c.name, err)
		}
	}
	return nil
}

// dropEpoch forgets which daemon was the last: the ledger begins anew as well.
func (c *cluster) dropEpoch(ctx context.Context) error {
	names, err := c.kubectl(ctx, "get", "configmaps", "-n", ourNamespace, "-l=app.kubernetes.io/managed-by=tranship", "-o", "name")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(names) {
		if strings.HasPrefix(name, "configmap/tranship-epoch-") {
			if _, err := c.kubectl(ctx, "delete", "-n", ourNamespace, name, "--ignore-not-found"); err != nil {
				return err
			}
		}
	}
	return nil
}
