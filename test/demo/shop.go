package main

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"
)

//go:embed files/shop.yaml
var shopManifests string

const (
	namespace    = "shop"            // of the application
	ourNamespace = "tranship-system" // of the product, on both clusters
	planName     = "shop"
	password     = "correct-horse-battery-staple" // of the demonstration's database, which lives for minutes
)

// installShop installs the application on the source.
func (d *demo) installShop(ctx context.Context) error {
	manifests := strings.NewReplacer("@PASSWORD@", password, "@POSTGRES@", d.images.postgres, "@CLIENT@", d.images.client).Replace(shopManifests)
	if err := d.bed.Source.apply(ctx, manifests); err != nil {
		return fmt.Errorf("cannot install the application on the source: %w", err)
	}
	for _, workload := range []string{"statefulset/db", "deployment/web"} {
		if _, err := d.bed.Source.kubectl(ctx, "rollout", "status", "-n", namespace, workload, "--timeout="+patience.String()); err != nil {
			return fmt.Errorf("the application does not become ready on the source: %w", err)
		}
	}
	d.say("shop", "PostgreSQL (StatefulSet, whenScaled: Delete) and web (Deployment) run on the source, a volume each")
	return nil
}

// startWriter starts the client that counts what was acknowledged.
func (d *demo) startWriter(ctx context.Context) error {
	addresses, err := addressesOn(ctx, &d.bed.Source)
	if err != nil {
		return err
	}
	if d.writer, err = newWriter(ctx, addresses); err != nil {
		return err
	}
	if err := wait(ctx, "the first acknowledged writes", patience, 200*time.Millisecond, func(context.Context) (bool, string, error) {
		c := d.writer.counts()
		return c.orders >= 50 && c.files >= 2, c.String(), nil
	}); err != nil {
		return fmt.Errorf("%w (%v)", err, d.writer.lastError())
	}
	d.say("client", "writes orders and files without a pause, and counts what is acknowledged")
	return nil
}

// addresses are where a client reaches the application on one cluster.
type addresses struct{ database, web string }

func addressesOn(ctx context.Context, c *cluster) (addresses, error) {
	db, err := c.serviceIP(ctx, "db")
	if err != nil {
		return addresses{}, fmt.Errorf("cannot find the database on the %s: %w", c.name, err)
	}
	web, err := c.serviceIP(ctx, "web")
	if err != nil {
		return addresses{}, fmt.Errorf("cannot find the web application on the %s: %w", c.name, err)
	}
	return addresses{
		database: fmt.Sprintf("postgres://shop:%s@%s:5432/shop?connect_timeout=5&sslmode=disable", password, db),
		web:      "http://" + web,
	}, nil
}
