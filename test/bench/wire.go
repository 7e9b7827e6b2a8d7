package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const wireTick = 50 * time.Millisecond

// wire counts what the nodes of the bed send and receive. The bed's nodes hang
// on this machine by one link each; everything of their pods goes over it.
type wire struct {
	cancel  context.CancelFunc
	done    chan struct{}
	samples []wireSample // written by one goroutine until done is closed
	read    chan chan []wireSample
}

// wireSample are bytes since the link came up: what the source's nodes sent,
// and what the target's received.
type wireSample struct {
	at       time.Time
	up, down float64
}

func (l *lab) watchWire(ctx context.Context) *wire {
	ctx, cancel := context.WithCancel(ctx)
	w := &wire{cancel: cancel, done: make(chan struct{}), read: make(chan chan []wireSample)}
	go func() {
		defer close(w.done)
		for {
			// What the host receives on a link is what the node has sent.
			w.samples = append(w.samples, wireSample{time.Now(), counted(l.bed.Source.Nodes, "rx_bytes"), counted(l.bed.Target.Nodes, "tx_bytes")})
			select {
			case <-ctx.Done():
				return
			case answer := <-w.read:
				answer <- append([]wireSample(nil), w.samples...)
			case <-time.After(wireTick):
			}
		}
	}()
	return w
}

func (w *wire) stop() {
	w.cancel()
	<-w.done
}

// between is what went over the wire in a time, in bytes.
func (w *wire) between(from, to time.Time) (up, down float64) {
	answer := make(chan []wireSample)
	var samples []wireSample
	select {
	case w.read <- answer:
		samples = <-answer
	case <-w.done:
		samples = w.samples
	}
	var first, last wireSample
	for _, s := range samples {
		if !s.at.After(from) || first.at.IsZero() {
			first = s
		}
		if last = s; !s.at.Before(to) {
			break
		}
	}
	return last.up - first.up, last.down - first.down
}

// counted sums a counter over the links of nodes. A link that is gone counts
// nothing; the ratio then shows it.
func counted(nodes []string, counter string) (sum float64) {
	for _, n := range nodes {
		raw, err := os.ReadFile(filepath.Join("/sys/class/net", "tb-"+n, "statistics", counter))
		if err != nil {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(string(raw)), 64)
		if err == nil {
			sum += v
		}
	}
	return sum
}
