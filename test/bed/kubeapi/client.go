// Package kubeapi is as much of a Kubernetes client as the bed needs, without the
// libraries, so that the bed itself builds in a second.
package kubeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Object is an object of the API.
type Object map[string]any

// Client talks to one cluster as its administrator.
type Client struct {
	Server string
	http   *http.Client
}

// StatusError is an answer of the API server that is not a success.
type StatusError struct {
	Code    int
	Message string
}

// Error says what the API server refused, and why.
func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Code, e.Message) }

// NotFound reports whether the API server says that there is no such object.
func NotFound(err error) bool {
	var s *StatusError
	return errors.As(err, &s) && s.Code == http.StatusNotFound
}

// New makes a client from ca.crt, admin.crt and admin.key in the folder pki.
func New(server, pki string) (*Client, error) {
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the authority of the cluster: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(filepath.Join(pki, "admin.crt"), filepath.Join(pki, "admin.key"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the administrator's certificate: %w", err)
	}
	tlsConfig := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	return &Client{Server: server, http: &http.Client{
		Timeout:   15 * time.Second,
		Transport: &http.Transport{TLSClientConfig: tlsConfig, MaxIdleConnsPerHost: 16, ForceAttemptHTTP2: true},
	}}, nil
}

// Raw does a request and returns the body of a successful answer.
func (c *Client) Raw(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Server+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("cannot make a request for %s: %w", path, err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot %s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer for %s: %w", path, err)
	}
	if resp.StatusCode >= 300 {
		var status struct{ Message string }
		if json.Unmarshal(out, &status) != nil || status.Message == "" {
			status.Message = strings.TrimSpace(string(out))
		}
		return nil, fmt.Errorf("cannot %s %s: %w", method, path, &StatusError{resp.StatusCode, status.Message})
	}
	return out, nil
}

// Get reads an object.
func (c *Client) Get(ctx context.Context, path string) (Object, error) {
	raw, err := c.Raw(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, err
	}
	var o Object
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("cannot read the answer for %s: %w", path, err)
	}
	return o, nil
}

// Delete deletes an object; one that is not there is as good.
func (c *Client) Delete(ctx context.Context, path string) error {
	_, err := c.Raw(ctx, http.MethodDelete, path, "", nil)
	if NotFound(err) {
		return nil
	}
	return err
}

// Apply makes the objects what they are here (server-side apply).
func (c *Client) Apply(ctx context.Context, objects ...Object) error {
	for _, o := range objects {
		path, err := Path(o)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("cannot encode %s: %w", path, err)
		}
		if err := c.ApplyYAML(ctx, path, raw); err != nil {
			return err
		}
	}
	return nil
}

// ApplyYAML applies a document as it is to the object at path.
func (c *Client) ApplyYAML(ctx context.Context, path string, document []byte) error {
	_, err := c.Raw(ctx, http.MethodPatch, path+"?fieldManager=bed&force=true", "application/apply-patch+yaml", document)
	return err
}

// Wait asks until is says yes without an error. What it said last is the error
// after the timeout.
func Wait(ctx context.Context, timeout time.Duration, what string, is func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	for {
		done, err := is(ctx)
		if done && err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last == nil {
				last = ctx.Err()
			}
			return fmt.Errorf("cannot wait any longer for %s (%s): %w", what, timeout, last)
		case <-time.After(150 * time.Millisecond):
		}
	}
}
