package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/tranship/tranship/spec"
)

// Bucket is a client of the run's replication repository with the daemon's own
// credentials, and the address that it talks to. Errors hold no secret.
func Bucket(ctx context.Context, e *Env) (client *minio.Client, endpoint string, err error) {
	r := &e.Run.Spec.Closure.Repository.Spec
	access, err := e.Secrets.Read(ctx, spec.SecretRef{From: r.Credentials.From}, "accessKey")
	if err != nil {
		return nil, "", err
	}
	secret, err := e.Secrets.Read(ctx, spec.SecretRef{From: r.Credentials.From}, "secretKey")
	if err != nil {
		return nil, "", err
	}
	endpoint = r.Endpoint
	if endpoint == "" {
		endpoint = "https://s3.amazonaws.com"
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return nil, "", fmt.Errorf("spec.endpoint %q is no URL", endpoint)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: r.InsecureSkipTLSVerify}
	if r.CABundle != "" {
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(r.CABundle)) {
			return nil, "", errors.New("spec.caBundle holds no certificate")
		}
	}
	transport.DisableKeepAlives = true // a few questions now and then
	client, err = minio.New(u.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(string(TrimSpace(access)), string(TrimSpace(secret)), ""),
		Secure: u.Scheme == "https", Region: r.Region, Transport: transport, MaxRetries: 2,
		BucketLookup: lookup(r),
	})
	return client, endpoint, err
}

func lookup(r *spec.RepositorySpec) minio.BucketLookupType {
	if r.Endpoint != "" {
		return minio.BucketLookupPath
	}
	return minio.BucketLookupAuto
}
