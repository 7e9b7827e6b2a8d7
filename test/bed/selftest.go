package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/selftest"
)

func runSelftest(ctx context.Context, args []string) error {
	set, dir := flags("selftest")
	if err := set.Parse(args); err != nil {
		return err
	}
	l := cluster.Layout{Dir: *dir}
	if err := healthy(ctx, l); err != nil {
		return fmt.Errorf("%w; start a bed with `bed up`", err)
	}
	c := selftest.Config{
		Layout: l, Busybox: bedImages.Busybox, S3Host: s3Address, Bucket: bucket,
		GitURL: "https://" + gitAddress + "/" + repository, GitCA: servicesDir(l, "ca.crt"),
	}
	for file, into := range map[string]*string{
		"s3-access-key": &c.AccessKey, "s3-secret-key": &c.SecretKey, "ca.crt": &c.S3CA,
		"git-" + developer: &c.DevPassword, "git-" + daemonUser: &c.DaemonPassword,
	} {
		raw, err := os.ReadFile(servicesDir(l, file))
		if err != nil {
			return fmt.Errorf("cannot read a credential of the bed: %w", err)
		}
		*into = string(raw)
	}
	start := time.Now()
	c.Report = func(text string) { fmt.Printf("%6.1fs  %s\n", time.Since(start).Seconds(), text) }
	return selftest.Run(ctx, c)
}
