package velero

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/tranship/tranship/executor/kube"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	downloadWait = 20 * time.Second
	maxDownload  = 16 << 20
)

// download reads one of Velero's files about a backup or a restore. A
// DownloadRequest is how Velero is asked to be read; it changes nothing else
// and is deleted at once.
func download(ctx context.Context, e *kube.Env, c *kube.Cluster, kind velerov1.DownloadTargetKind, of string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, downloadWait)
	defer cancel()
	name := e.ObjectName("download/" + string(kind) + "/" + of)
	request := &velerov1.DownloadRequest{
		ObjectMeta: objectMeta(e, c, name),
		Spec:       velerov1.DownloadRequestSpec{Target: velerov1.DownloadTarget{Kind: kind, Name: of}},
	}
	if err := create(ctx, c, downloadResource, "DownloadRequest", request); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, c.Errorf(err, "ask Velero for the %s of %s", kind, of)
	}
	defer func() {
		// Also when the time is up: an expired link must not be found again.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if d, err := read[velerov1.DownloadRequest](clean, c, downloadResource, name); err == nil && d != nil {
			_ = remove(clean, c, downloadResource, d) // Velero removes it after ten minutes
		}
	}()
	link, err := linkOf(ctx, c, name)
	if err != nil {
		return nil, c.Errorf(err, "read the %s of %s", kind, of)
	}
	raw, err := fetch(ctx, e, link)
	if err != nil {
		return nil, c.Errorf(err, "read the %s of %s from the object storage", kind, of)
	}
	return raw, nil
}

func linkOf(ctx context.Context, c *kube.Cluster, name string) (string, error) {
	for {
		d, err := read[velerov1.DownloadRequest](ctx, c, downloadResource, name)
		if err != nil {
			return "", err
		}
		if d == nil {
			return "", errors.New("its DownloadRequest was deleted")
		}
		if d.Status.DownloadURL != "" {
			return d.Status.DownloadURL, nil
		}
		woken, err := wakeOn(ctx, c, downloadResource, d)
		if err != nil {
			return "", err
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return "", fmt.Errorf("Velero gave no link within %s; its log says why", downloadWait)
		}
	}
}

// fetch gets a presigned link. The link is a credential: no error shows it.
func fetch(ctx context.Context, e *kube.Env, link string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
	if err != nil {
		return nil, errors.New("Velero's link is no URL")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig, err = tlsConfig(e)
	if err != nil {
		return nil, err
	}
	transport.DisableCompression = true // the files are gzip themselves
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, withoutLink(err, req.URL)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", req.URL.Host, resp.Status)
	}
	unzipped, err := gzip.NewReader(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("what %s sends is not gzip", req.URL.Host)
	}
	return io.ReadAll(io.LimitReader(unzipped, maxDownload))
}

func withoutLink(err error, u *url.URL) error {
	if m := kube.TLSProblem(err, "the object storage", u.Scheme+"://"+u.Host, "spec.caBundle of the ReplicationRepository"); m != "" {
		return errors.New(m)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return fmt.Errorf("%s cannot be reached: %w", u.Host, err)
}

func tlsConfig(e *kube.Env) (*tls.Config, error) {
	r := &e.Run.Spec.Closure.Repository.Spec
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: r.InsecureSkipTLSVerify}
	if r.CABundle == "" {
		return config, nil
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM([]byte(r.CABundle)) {
		return nil, fmt.Errorf("spec.caBundle of ReplicationRepository %s holds no certificate", e.Run.Spec.Closure.Repository.Metadata.Name)
	}
	return config, nil
}
