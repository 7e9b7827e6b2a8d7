package kube

import (
	"context"
	"io"
	"net/http"
)

// bounded limits every request but a watch, so that a cluster that accepts
// connections and then says nothing cannot hold a run: rest.Config.Timeout
// would end the watches as well.
type bounded struct{ next http.RoundTripper }

func bound(next http.RoundTripper) http.RoundTripper { return bounded{next} }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	q := req.URL.Query()
	if q.Get("watch") == "true" || q.Get("watch") == "1" || q.Get("follow") == "true" {
		return b.next.RoundTrip(req)
	}
	ctx, cancel := context.WithTimeout(req.Context(), requestTimeout)
	resp, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	// An upgraded connection (exec, port-forward) lives on after its response.
	if resp.StatusCode == http.StatusSwitchingProtocols {
		context.AfterFunc(req.Context(), cancel)
		return resp, nil
	}
	resp.Body = &cancelingBody{resp.Body, cancel}
	return resp, nil
}

// WrappedRoundTripper lets client-go see through the wrapper.
func (b bounded) WrappedRoundTripper() http.RoundTripper { return b.next }

type cancelingBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelingBody) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}
