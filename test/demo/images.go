package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// images are the names of what runs in pods. There is no registry: they are made
// here and imported into the nodes.
type images struct{ tranship, postgres, client string }

func (d *demo) makeImages(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	begin := time.Now()
	product, err := d.programImage(ctx, cache, "tranship", d.tranship)
	if err != nil {
		return err
	}
	program := filepath.Join(cache, "client")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./client")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := output(build); err != nil {
		return fmt.Errorf("cannot build the demonstration's application: %w", err)
	}
	client, err := d.programImage(ctx, cache, "client", program)
	if err != nil {
		return err
	}
	postgres, err := d.postgresImage(ctx, cache)
	if err != nil {
		return err
	}
	if err := d.bed.command(ctx, "load", "--dir", d.bed.dir, product.tar, client.tar, postgres.tar); err != nil {
		return fmt.Errorf("cannot load the images into the nodes: %w", err)
	}
	d.images = images{product.ref, postgres.ref, client.ref}
	d.say("images", "%s, %s, %s (%.1f s)", product.ref, postgres.ref, client.ref, time.Since(begin).Seconds())
	return nil
}

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the cache folder: %w; set HOME", err)
	}
	dir := filepath.Join(base, "tranship", "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache of images: %w", err)
	}
	return dir, nil
}

type builtImage struct{ ref, tar string }

// programImage is an image of one static program, named after its content.
func (d *demo) programImage(ctx context.Context, cache, name, program string) (builtImage, error) {
	f, err := os.Open(program)
	if err != nil {
		return builtImage{}, fmt.Errorf("cannot read the program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return builtImage{}, fmt.Errorf("cannot read the program: %w", err)
	}
	key, repository := hex.EncodeToString(h.Sum(nil))[:12], "localhost/"+name
	if name != "tranship" {
		repository = "localhost/demo-" + name
	}
	b := builtImage{repository + ":" + key, filepath.Join(cache, name+"-"+key+".tar")}
	return b, d.cached(b, name, func(temp string) error {
		return d.bed.command(ctx, "image", "--out", temp, "--ref", b.ref, "--entrypoint", "/"+name, "--env", "HOME=/tmp", name+"="+program)
	})
}

// cached makes an image unless it is there, and forgets older ones of its name.
func (d *demo) cached(b builtImage, name string, build func(temp string) error) error {
	if _, err := os.Stat(b.tar); err == nil {
		return nil
	}
	temp := b.tar + ".new"
	if err := build(temp); err != nil {
		return errors.Join(fmt.Errorf("cannot make the image %s: %w", b.ref, err), os.RemoveAll(temp))
	}
	older, err := filepath.Glob(filepath.Join(filepath.Dir(b.tar), name+"-*.tar"))
	if err != nil {
		return err
	}
	for _, old := range older {
		if err := os.Remove(old); err != nil {
			return fmt.Errorf("cannot remove an old image: %w", err)
		}
	}
	return os.Rename(temp, b.tar)
}
