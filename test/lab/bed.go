// Package lab runs the product on the bed as people do: the real binary, a
// branch and a ledger of its own on a real Git server, two real clusters with
// Velero and object storage. The tests end to end and the chaos program share
// it. Nothing in it is a fake.
package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Cluster is one side of the bed.
type Cluster struct {
	Server, CAFile, TokenFile, Kubeconfig string
	Nodes, NodeIPs                        []string // the control plane runs on the first
}

// Account is a user of the Git server.
type Account struct{ User, PasswordFile string }

// Bed is bed.json of test/bed.
type Bed struct {
	Dir            string `json:"-"` // of bed.json, beside which its machines are
	Source, Target Cluster
	S3             struct{ Endpoint, Bucket, Region, CAFile, AccessKeyFile, SecretKeyFile string }
	Git            struct {
		URL, CAFile string
		Dev, Daemon Account
	}
	Images  map[string]string
	Kubectl string
}

// ReadBed reads the file that the running bed has written.
func ReadBed(file string) (*Bed, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("no bed is running (%w): start one with make bed-up", err)
	}
	b := &Bed{Dir: filepath.Dir(file)}
	if err := json.Unmarshal(raw, b); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	return b, nil
}

// Text reads a small file, without the white space around it.
func Text(file string) (string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("cannot read a file of the bed: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// StoreKeys lists what lies in the bed's bucket below a prefix.
func (b *Bed) StoreKeys(ctx context.Context, prefix string) (keys []string, err error) {
	var text [3]string
	for i, file := range []string{b.S3.CAFile, b.S3.AccessKeyFile, b.S3.SecretKeyFile} {
		if text[i], err = Text(file); err != nil {
			return nil, err
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(text[0]))
	client, err := minio.New(strings.TrimPrefix(b.S3.Endpoint, "https://"), &minio.Options{
		Creds: credentials.NewStaticV4(text[1], text[2], ""), Secure: true, Region: b.S3.Region,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot reach the object store: %w", err)
	}
	for o := range client.ListObjects(ctx, b.S3.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, fmt.Errorf("cannot list the bucket: %w", o.Err)
		}
		keys = append(keys, o.Key)
	}
	return keys, nil
}
