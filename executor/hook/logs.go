package hook

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/executor/kube"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// logCap is how much of the end of a pod's output is kept.
	logCap = 64 << 10
	// logLines bounds what the node sends, logRead what is read of it.
	logLines int64 = 5000
	logRead        = 8 << 20
	// noLogs is how a kubelet begins what it sends in place of the output of a
	// container that it has removed.
	noLogs = "unable to retrieve container logs for "
)

// podsOf lists a Job's pods; without the right to, there are none to see.
func podsOf(ctx context.Context, c *kube.Cluster, j *batchv1.Job) []corev1.Pod {
	list, err := c.Kube.CoreV1().Pods(j.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "job-name=" + j.Name})
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		by := metav1.GetControllerOf(&p)
		return by == nil || by.UID != j.UID
	})
}

func newest(pods []corev1.Pod) *corev1.Pod {
	if len(pods) == 0 {
		return nil
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	return &pods[0]
}

// logs is the output of the newest pod of each Job of the phase.
func (s *state) logs(ctx context.Context, e *kube.Env, k *keeper) string {
	var b strings.Builder
	for n, j := range s.jobs {
		if j == nil {
			continue
		}
		t := s.tasks[n]
		fmt.Fprintf(&b, "--- hook %s, phase %s, %s\n", t.Hook, t.Phase, kube.Describe(t.object(e, "")))
		b.WriteString(k.read(ctx, e.On(t.Side()), j))
	}
	return b.String()
}

// lastLook is how long before its deadline a Job's output is kept.
const lastLook = 3 * time.Second

// keeper remembers the output of Jobs that are about to take their pods with
// them, as they do past their deadline. It is a courtesy: what a restarted
// daemon did not keep is said to be gone.
type keeper struct {
	mu   sync.Mutex
	last map[types.UID]output
}

func (k *keeper) keep(ctx context.Context, c *kube.Cluster, j *batchv1.Job) {
	out := podLog(ctx, c, j)
	if out.pod == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil {
		k.last = map[types.UID]output{}
	}
	k.last[j.UID] = out
}

// read returns the output of a Job's newest pod; what was kept of a newer one
// that is gone now wins over an older try that is still there.
func (k *keeper) read(ctx context.Context, c *kube.Cluster, j *batchv1.Job) string {
	out := podLog(ctx, c, j)
	k.mu.Lock()
	defer k.mu.Unlock()
	if kept, ok := k.last[j.UID]; ok && kept.pod != out.pod {
		out = kept
	}
	if done, _, _, _ := outcome(j); done {
		delete(k.last, j.UID)
	}
	return out.text
}

// output is what a pod has written; without a pod, why there is none.
type output struct{ pod, text string }

// podLog is the end of the newest pod's output.
func podLog(ctx context.Context, c *kube.Cluster, j *batchv1.Job) output {
	pod := newest(podsOf(ctx, c, j))
	if pod == nil {
		return output{text: "(its pods are gone, and their output with them)\n"}
	}
	lines := logLines
	stream, err := c.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{TailLines: &lines}).Stream(ctx)
	if err != nil {
		return output{text: fmt.Sprintf("(the output of pod %s cannot be read: %v)\n", pod.Name, err)}
	}
	defer func() { _ = stream.Close() }()
	text, err := io.ReadAll(io.LimitReader(stream, logRead))
	if strings.HasPrefix(string(text), noLogs) {
		return output{text: fmt.Sprintf("(the node has removed the output of pod %s)\n", pod.Name)}
	}
	head := fmt.Sprintf("pod %s, newest of %d tries\n", pod.Name, j.Status.Failed+j.Status.Succeeded)
	if err != nil {
		head += fmt.Sprintf("(broken off: %v)\n", err)
	}
	return output{pod.Name, head + tail(text, logCap)}
}

// tail keeps the last n bytes and says how many it cut.
func tail(text []byte, n int) string {
	if len(text) == 0 {
		return "(no output)\n"
	}
	cut := max(len(text)-n, 0)
	out := strings.ToValidUTF8(string(text[cut:]), "\uFFFD")
	if !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	if cut > 0 {
		return fmt.Sprintf("(%d bytes cut)\n", cut) + out
	}
	return out
}
