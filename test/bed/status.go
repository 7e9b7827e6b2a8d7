package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/kubeapi"
	"github.com/tranship/tranship/test/bed/machine"
)

func status(ctx context.Context, args []string) error {
	set, dir := flags("status")
	if err := set.Parse(args); err != nil {
		return err
	}
	abs, err := filepath.Abs(*dir)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", *dir, err)
	}
	l := cluster.Layout{Dir: abs}
	if _, err := os.Stat(l.Dir); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no bed runs in %s: start one with `bed up`", l.Dir)
	}
	if err := printStatus(ctx, l); err != nil {
		return err
	}
	return healthy(ctx, l)
}

// healthy says what of the bed does not work.
func healthy(ctx context.Context, l cluster.Layout) error {
	if _, err := os.Stat(bedFilePath(l.Dir)); err != nil {
		return fmt.Errorf("the bed was never completely up: %w", err)
	}
	for _, m := range l.Machines() {
		services, err := m.Services()
		if err != nil {
			return fmt.Errorf("machine %s does not run: %w", m.Name, err)
		}
		for _, s := range services {
			if s.Pid == 0 {
				return fmt.Errorf("%s on %s does not run, see %s", s.Name, m.Name, m.Log(s.Name))
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, s := range cluster.Specs() {
		if err := healthyCluster(ctx, l, s); err != nil {
			return err
		}
	}
	return nil
}

func healthyCluster(ctx context.Context, l cluster.Layout, s cluster.Spec) error {
	api, err := kubeapi.New(s.Server(), l.Of(s.Name, "pki"))
	if err != nil {
		return err
	}
	if _, err := api.Raw(ctx, http.MethodGet, "/readyz", "", nil); err != nil {
		return fmt.Errorf("the API server of %s is not ready: %w", s.Name, err)
	}
	for _, n := range s.Nodes {
		node, err := api.Get(ctx, "/api/v1/nodes/"+n.Name)
		if err != nil {
			return err
		}
		if node.Condition("Ready") != "True" {
			return fmt.Errorf("node %s is not ready", n.Name)
		}
	}
	return nil
}

func printStatus(_ context.Context, l cluster.Layout) error {
	usage := machine.Usages(l.Machines())
	var total int64
	for _, m := range l.Machines() {
		u := usage[m.Name]
		total += u.KiB
		services, err := m.Services()
		if err != nil {
			fmt.Printf("%-9s does not run\n", m.Name)
			continue
		}
		fmt.Printf("%-9s %3d processes %5d MiB ", m.Name, u.Processes, u.KiB/1024)
		for _, s := range services {
			switch {
			case s.Pid == 0:
				fmt.Printf(" %s(down)", s.Name)
			case s.Restarts > 0:
				fmt.Printf(" %s(%d restarts)", s.Name, s.Restarts)
			default:
				fmt.Printf(" %s", s.Name)
			}
		}
		fmt.Println()
	}
	fmt.Printf("memory    %d MiB in all\n", total/1024)
	for _, s := range cluster.Specs() {
		fmt.Printf("%-9s %s  export KUBECONFIG=%s\n", s.Name, s.Server(), l.Of(s.Name, "kubeconfig"))
	}
	fmt.Printf("s3        https://%s  bucket %s\ngit       https://%s/%s\nfile      %s\n", s3Address, bucket, gitAddress, repository, bedFilePath(l.Dir))
	return nil
}
