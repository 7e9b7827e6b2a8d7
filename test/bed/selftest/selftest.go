// Package selftest proves on a running bed that it does what its README says.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/kubeapi"
)

// Config says where the bed is.
type Config struct {
	Layout                      cluster.Layout
	Busybox                     string // image
	S3Host                      string // HOST:PORT
	Bucket                      string
	AccessKey, SecretKey, S3CA  string
	GitURL, GitCA               string
	DevPassword, DaemonPassword string
	Report                      func(string)
}

// tester tests one cluster.
type tester struct {
	Config
	cluster.Spec
	api   *kubeapi.Client
	other *kubeapi.Client
	peer  cluster.Spec
}

// namespace of everything that the test makes.
const namespace = "bed-selftest"

type object = map[string]any

type check struct {
	name string
	run  func(context.Context) error
}

// Run tests both clusters at once, and everything that is there only once.
func Run(ctx context.Context, c Config) error {
	specs := cluster.Specs()
	var clients []*kubeapi.Client
	for _, s := range specs {
		api, err := kubeapi.New(s.Server(), c.Layout.Of(s.Name, "pki"))
		if err != nil {
			return err
		}
		clients = append(clients, api)
	}
	errs := make([]error, len(specs)+1)
	var wg sync.WaitGroup
	for i, s := range specs {
		t := &tester{Config: c, Spec: s, api: clients[i], other: clients[1-i], peer: specs[1-i]}
		wg.Go(func() { errs[i] = t.run(ctx) })
	}
	wg.Go(func() {
		errs[2] = c.measure("git: users, pushes and refusals", func() error { return checkGit(ctx, c) })
	})
	wg.Wait()
	return errors.Join(errs...)
}

// measure runs one check and tells how it went.
func (c Config) measure(name string, run func() error) error {
	start := time.Now()
	if err := run(); err != nil {
		c.Report(fmt.Sprintf("FAIL  %s: %v", name, err))
		return fmt.Errorf("%s: %w", name, err)
	}
	c.Report(fmt.Sprintf("ok    %s (%.1fs)", name, time.Since(start).Seconds()))
	return nil
}

func (t *tester) run(ctx context.Context) error {
	checks := []check{
		{"two nodes are ready", t.nodes},
		{"DNS and network on every node", t.network},
		{"class " + cluster.ClassNode + " pins a volume to its node", func(ctx context.Context) error { return t.provision(ctx, cluster.ClassNode, true) }},
		{"class " + cluster.ClassShared + " does not", func(ctx context.Context) error { return t.provision(ctx, cluster.ClassShared, false) }},
		{"class " + cluster.ClassFixed + " is full when it is full", t.fixedSize},
		{"class " + cluster.ClassFixed + " gives bare devices", t.block},
		{"ReadWriteOnce is refused on a second node", t.multiAttach},
		{"ReadWriteMany works on both nodes", t.readWriteMany},
		{"snapshot and restore", t.snapshot},
		{"Velero: backup and restore with data", t.velero},
	}
	if t.Gold {
		checks = append(checks, check{"class " + cluster.ClassGold, func(ctx context.Context) error { return t.provision(ctx, cluster.ClassGold, true) }})
	}
	if err := t.clean(ctx); err != nil {
		return err
	}
	if err := t.api.Apply(ctx, kubeapi.Object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": namespace}}); err != nil {
		return err
	}
	var errs []error
	for _, c := range checks {
		errs = append(errs, t.measure(t.Name+": "+c.name, func() error { return c.run(ctx) }))
	}
	errs = append(errs, t.measure(t.Name+": everything is deleted again", func() error { return t.clean(ctx) }))
	return errors.Join(errs...)
}

// clean removes what this or an earlier run made, and waits until it is gone.
func (t *tester) clean(ctx context.Context) error {
	paths := []string{"/api/v1/namespaces/" + namespace, "/api/v1/namespaces/" + restored}
	for _, p := range paths {
		if err := t.api.Delete(ctx, p); err != nil {
			return err
		}
	}
	return kubeapi.Wait(ctx, 90*time.Second, "the deletion of the test's namespaces and volumes on "+t.Name, func(ctx context.Context) (bool, error) {
		for _, p := range paths {
			if _, err := t.api.Get(ctx, p); !kubeapi.NotFound(err) {
				return false, fmt.Errorf("%s is still there: %w", p, err)
			}
		}
		volumes, err := t.api.Get(ctx, "/api/v1/persistentvolumes")
		if err != nil {
			return false, err
		}
		for _, v := range volumes.List("items") {
			if n := v.Text("spec", "claimRef", "namespace"); n == namespace || n == restored {
				return false, fmt.Errorf("volume %s is still there", v.Text("metadata", "name"))
			}
		}
		return true, nil
	})
}

func (t *tester) nodes(ctx context.Context) error {
	for _, n := range t.Nodes {
		node, err := t.api.Get(ctx, "/api/v1/nodes/"+n.Name)
		if err != nil {
			return err
		}
		if node.Condition("Ready") != "True" {
			return fmt.Errorf("node %s is not ready", n.Name)
		}
	}
	return nil
}
