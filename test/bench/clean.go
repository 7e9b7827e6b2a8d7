package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const cleanLimit = 3 * time.Minute

// cleanUp ends the daemon and removes everything of this program's from the
// clusters, the bucket, the Git server and the disk. Locations go before
// backups: while Velero has one, it fetches the backups again.
func (l *lab) cleanUp() error {
	ctx, stop := context.WithTimeout(context.Background(), cleanLimit)
	defer stop()
	if l.daemon != nil {
		l.daemon.stop()
	}
	var errs []error
	for _, c := range l.clusters() {
		if c.kube == nil {
			continue
		}
		_, err := l.kubectl(ctx, c, "", "-n", veleroNamespace, "delete", "backupstoragelocation.velero.io,secret", "-l", labelBench+"="+l.name, "--ignore-not-found")
		errs = append(errs, err)
		for _, p := range l.plans {
			errs = append(errs, l.cleanPlan(ctx, c, p))
		}
	}
	errs = append(errs, l.cleanBranches(ctx))
	if len(l.plans) > 0 {
		errs = append(errs, l.cleanBucket(ctx, l.name+"/"))
	}
	if err := os.RemoveAll(l.dir); err != nil {
		errs = append(errs, fmt.Errorf("cannot remove the lab's folder: %w", err))
	}
	return errors.Join(errs...)
}

func (l *lab) cleanPlan(ctx context.Context, c *cluster, plan string) error {
	var errs []error
	for _, args := range [][]string{
		{"delete", "namespace", plan, plan + peerSuffix, "--ignore-not-found", "--wait=false"},
		{"-n", veleroNamespace, "delete", "backupstoragelocation.velero.io", "-l", planLabel(plan), "--ignore-not-found"},
		{"-n", veleroNamespace, "delete", "backup.velero.io,restore.velero.io,downloadrequest.velero.io,configmap,secret", "-l", planLabel(plan), "--ignore-not-found"},
		{"-n", ourNamespace, "delete", "job,pod,pvc,configmap,secret", "-l", planLabel(plan), "--ignore-not-found", "--wait=false"},
	} {
		if _, err := l.kubectl(ctx, c, "", args...); err != nil {
			errs = append(errs, fmt.Errorf("cannot clean cluster %s: %w", c.name, err))
		}
	}
	return errors.Join(errs...)
}

func (l *lab) cleanBranches(ctx context.Context) error {
	if len(l.pushed) == 0 {
		return nil
	}
	slices.Sort(l.pushed)
	branches := append(slices.Compact(l.pushed), l.ledger())
	var errs []error
	for _, b := range branches {
		there, err := l.git(ctx, "clone", "ls-remote", "origin", "refs/heads/"+b)
		if err == nil && there != "" {
			_, err = l.git(ctx, "clone", "push", "-q", "origin", "--delete", b)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot delete branch %s: %w", b, err))
		}
	}
	return errors.Join(errs...)
}

// store is a client of the bed's object store.
func (l *lab) store() (*minio.Client, error) {
	u, err := url.Parse(l.bed.S3.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("cannot read the address of the object store: %w", err)
	}
	access, err := secret(l.bed.S3.AccessKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := secret(l.bed.S3.SecretKeyFile)
	if err != nil {
		return nil, err
	}
	ca, err := secret(l.bed.S3.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	return minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(access, key, ""), Secure: u.Scheme == "https", Region: l.bed.S3.Region,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	})
}

// cleanBucket removes everything below a prefix.
func (l *lab) cleanBucket(ctx context.Context, prefix string) error {
	s, err := l.store()
	if err != nil {
		return err
	}
	objects := s.ListObjects(ctx, l.bed.S3.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true})
	for o := range objects {
		if o.Err == nil {
			o.Err = s.RemoveObject(ctx, l.bed.S3.Bucket, o.Key, minio.RemoveObjectOptions{})
		}
		if o.Err != nil {
			return fmt.Errorf("cannot empty the bucket: %w", o.Err)
		}
	}
	return nil
}
