package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/test/demo/walk"
)

// judge compares the volumes when the plan's PostBackup hook asks for it: after
// the last copy, before the application starts on the target. The hook runs in
// the cluster and waits for the answer; the comparison reads the bed's disks.
type judge struct {
	server *http.Server
	url    string
	bed    *bed

	once    sync.Once
	mu      sync.Mutex
	volumes []volumePair
	verdict *verdict
}

// volumePair is a volume and its copy, by the handles of the storage driver.
type volumePair struct{ claim, source, target string }

// verdict is what came out.
type verdict struct {
	lines       []string // what was compared
	differences []string
	err         error
	at          time.Time
	took        time.Duration
}

func (v *verdict) problem() error {
	switch {
	case v == nil:
		return errors.New("the hook never asked for the comparison")
	case v.err != nil:
		return fmt.Errorf("the volumes could not be compared: %w", v.err)
	case len(v.differences) > 0:
		return fmt.Errorf("the volumes differ:\n  %s", strings.Join(v.differences, "\n  "))
	}
	return nil
}

func (d *demo) startJudge(context.Context) error {
	host, err := d.bed.host()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return fmt.Errorf("cannot listen where pods reach this program: %w; is the bed up?", err)
	}
	path := "/" + rand.Text() // not for everybody in the clusters
	d.judge = &judge{url: "http://" + l.Addr().String() + path, bed: d.bed}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+path, d.judge.answer)
	d.judge.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = d.judge.server.Serve(l) }() // ends with stop
	return nil
}

func (j *judge) stop() {
	if j != nil {
		_ = j.server.Close() // nobody asks any more
	}
}

// expect says which volumes to compare.
func (j *judge) expect(volumes []volumePair) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.volumes = volumes
}

func (j *judge) result() *verdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.verdict
}

func (j *judge) answer(w http.ResponseWriter, _ *http.Request) {
	j.once.Do(j.compare)
	v := j.result()
	if err := v.problem(); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	fmt.Fprintf(w, "equal: %s\n", strings.Join(v.lines, "; "))
}

func (j *judge) compare() {
	j.mu.Lock()
	defer j.mu.Unlock()
	v := &verdict{at: time.Now()}
	defer func() { v.took = time.Since(v.at); j.verdict = v }()
	if len(j.volumes) == 0 {
		v.err = errors.New("no volumes are known yet")
		return
	}
	for _, pair := range j.volumes {
		s, differences, err := walk.Compare(j.bed.volume(pair.source), j.bed.volume(pair.target), 20)
		if err != nil {
			v.err = errors.Join(v.err, fmt.Errorf("%s: %w", pair.claim, err))
			continue
		}
		v.lines = append(v.lines, fmt.Sprintf("%s: %d entries, %s", pair.claim, s.Entries, size(s.Bytes)))
		for _, d := range differences {
			v.differences = append(v.differences, pair.claim+": "+d)
		}
	}
}
