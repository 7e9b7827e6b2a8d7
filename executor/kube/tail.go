package kube

import (
	"bufio"
	"bytes"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

const (
	tailLines   = 8               // that are kept
	tailIdle    = 2 * time.Minute // without a question, after which a tail ends
	tailCheck   = time.Second
	longestLine = 4 << 20 // bytes
)

// Tail follows the log of a container: what a pod of ours says is known at
// once, and not only when its kubelet has noticed that it is over. It is a
// convenience: whatever it says is also in the pod's termination message.
// Tail is safe for concurrent use.
type Tail struct {
	mu    sync.Mutex
	lines [][]byte // newest last
	asked time.Time
	last  string // how the final line begins
	ended chan struct{}
	end   func() // closes ended, once
	stop  context.CancelFunc
}

// tails are the logs that are being followed, by pod and container.
type tails struct {
	mu  sync.Mutex
	all map[tailKey]*Tail
}

type tailKey struct {
	pod       types.UID
	container string
}

// Tail returns the tail of a container that has started, beginning it if
// nobody follows it yet. The line that begins with last is the container's
// final word. A tail is forgotten when nobody has asked for it for two minutes;
// one that heard nothing is tried again.
func (c *Cluster) Tail(pod *corev1.Pod, container, last string) *Tail {
	c.tails.mu.Lock()
	defer c.tails.mu.Unlock()
	key := tailKey{pod.UID, container}
	t := c.tails.all[key]
	if t == nil {
		if c.tails.all == nil {
			c.tails.all = map[tailKey]*Tail{}
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		t = &Tail{last: last, stop: stop, ended: ended, end: sync.OnceFunc(func() { close(ended) })}
		c.tails.all[key] = t
		go func() {
			defer stop()
			c.follow(ctx, t, key.container, types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
			t.keep()
			c.tails.forget(key)
		}()
	}
	t.mu.Lock()
	t.asked = time.Now()
	t.mu.Unlock()
	return t
}

// Lines are the newest lines, oldest first.
func (t *Tail) Lines() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([][]byte(nil), t.lines...)
}

// Ended is closed when nothing more will be heard.
func (t *Tail) Ended() <-chan struct{} { return t.ended }

func (l *tails) forget(key tailKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, key)
}

// follow reads the log to its end, or until nobody asks for it any more.
func (c *Cluster) follow(ctx context.Context, t *Tail, container string, pod types.NamespacedName) {
	defer t.end()
	go func() {
		for t.wanted() && ctx.Err() == nil {
			time.Sleep(tailCheck)
		}
		t.stop()
	}()
	log, err := c.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: container, Follow: true, TailLines: ptr.To[int64](tailLines),
	}).Stream(ctx)
	if err != nil {
		return // nothing was heard: it is tried again
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		t.hear(append([]byte(nil), lines.Bytes()...))
	}
}

func (t *Tail) hear(line []byte) {
	t.mu.Lock()
	t.lines = append(t.lines, line)
	if len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
	t.mu.Unlock()
	if bytes.HasPrefix(line, []byte(t.last)) {
		t.end()
	}
}

func (t *Tail) wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.asked) < tailIdle
}

// keep waits as long as what was heard may still be asked for.
func (t *Tail) keep() {
	for len(t.Lines()) > 0 && t.wanted() {
		time.Sleep(tailCheck)
	}
	time.Sleep(tailCheck) // a log that cannot be read is not asked for in a tight loop
}
