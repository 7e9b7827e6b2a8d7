package kube

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A server whose clock differs is noticed by whatever is asked of it.
func TestSkewIsMeasured(t *testing.T) {
	for _, by := range []time.Duration{0, 7 * time.Minute, -3 * time.Hour} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		}))
		c := &Cluster{}
		client := http.Client{Transport: c.clock.wrap(http.DefaultTransport)}
		resp, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		server.Close()
		if d := (c.Ahead() - by).Abs(); d > 2*time.Second {
			t.Errorf("ahead by %s: measured %s", by, c.Ahead())
		}
		if d := c.Now().Sub(time.Now().Add(by)).Abs(); d > 2*time.Second {
			t.Errorf("ahead by %s: its time is off by %s", by, d)
		}
	}
}

func TestSkewFromBadAnswers(t *testing.T) {
	var c Cluster
	c.clock.learn("", time.Now(), 0)
	c.clock.learn("yesterday", time.Now(), 0)
	c.clock.learn(time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), time.Now(), time.Minute)
	if c.Ahead() != 0 {
		t.Errorf("learnt %s from answers that say nothing", c.Ahead())
	}
}
