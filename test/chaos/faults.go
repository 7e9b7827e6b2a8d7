package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	maxOutage   = time.Minute
	killEvery   = 200 * time.Millisecond // less than a machine takes to start a service again
	answerLimit = time.Minute            // for an API server to be back
	moverLimit  = 5 * time.Second        // for a mover that can be killed
)

// killMover ends a reader, writer or holder of the plan's; it waits for one.
func (h *havoc) killMover(ctx context.Context) (string, time.Duration, error) {
	for end := time.Now().Add(moverLimit); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, killEvery) {
		pods, err := h.movers(ctx)
		if err != nil {
			return "no mover killed", 0, err
		}
		for _, i := range h.rnd.Perm(len(pods)) {
			if did, n, err := h.killIn(pods[i]); n > 0 || err != nil {
				return did, 0, err
			}
		}
	}
	return "no mover ran that could be killed in " + h.where(), 0, nil
}

func (h *havoc) movers(ctx context.Context) (pods []corev1.Pod, err error) {
	for _, s := range h.sides {
		list, err := s.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{
			LabelSelector: "tranship.dev/component,tranship.dev/plan=" + spec.ShortName(h.plan), FieldSelector: "status.phase=Running"})
		if err != nil {
			return nil, err
		}
		pods = append(pods, list.Items...)
	}
	return pods, nil
}

// killVelero ends Velero's server on one side.
func (h *havoc) killVelero(ctx context.Context) (string, time.Duration, error) {
	s := h.sides[h.rnd.IntN(2)]
	list, err := s.kube.CoreV1().Pods("velero").List(ctx, metav1.ListOptions{LabelSelector: "deploy=velero", FieldSelector: "status.phase=Running"})
	if err != nil || len(list.Items) == 0 {
		return "Velero does not run", 0, err
	}
	did, _, err := h.killIn(list.Items[0])
	return did, 0, err
}

// veleroRuns is nil when Velero runs on both sides. A pod that the kubelet makes
// wait, longer with each kill, is replaced: the next phase is about other faults.
func (s *scenario) veleroRuns(ctx context.Context) error {
	for _, side := range s.sides {
		pods := side.kube.CoreV1().Pods("velero")
		list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "deploy=velero"})
		if err != nil {
			return err
		}
		ready := false
		for _, p := range list.Items {
			for _, c := range p.Status.ContainerStatuses {
				if w := c.State.Waiting; w != nil && w.Reason == "CrashLoopBackOff" {
					_ = pods.Delete(ctx, p.Name, metav1.DeleteOptions{}) // it is asked again
				}
				ready = ready || c.Ready && p.DeletionTimestamp == nil
			}
		}
		if !ready {
			return fmt.Errorf("Velero does not run on the %s", side.name)
		}
	}
	return nil
}

func (h *havoc) killIn(pod corev1.Pod) (did string, killed int, err error) {
	n, err := killPod(string(pod.UID))
	if n > 0 {
		h.book.kill("")
	}
	return fmt.Sprintf("%d processes of pod %s/%s killed in %s", n, pod.Namespace, pod.Name, h.where()), n, err
}

// where names the step that the run is in, for people.
func (h *havoc) where() string {
	if step := h.watch.now(h.plan).step(); step != "" {
		return step
	}
	return "no step"
}

// cutOff lets no packet of the daemon through to one of its peers for a while.
func (h *havoc) cutOff(ctx context.Context) (string, time.Duration, error) {
	peers := [][2]string{{"Git", h.lab.Bed.Git.URL}, {"the store", h.lab.Bed.S3.Endpoint}, {"the source", h.lab.Bed.Source.Server}, {"the target", h.lab.Bed.Target.Server}}
	peer, d, at := peers[h.rnd.IntN(len(peers))], h.forAWhile(), h.where()
	u, err := url.Parse(peer[1])
	if err != nil {
		return "nothing cut off", 0, err
	}
	rule := []string{"OUTPUT", "-p", "tcp", "-m", "owner", "--gid-owner", strconv.Itoa(gid), "-d", u.Hostname(), "--dport", u.Port(), "-j", "DROP"}
	if out, err := exec.Command("iptables", append([]string{"-w", "-I"}, rule...)...).CombinedOutput(); err != nil {
		return "nothing cut off", 0, fmt.Errorf("iptables: %w: %s", err, out)
	}
	began := time.Now()
	pause(ctx, d)
	out, err := exec.Command("iptables", append([]string{"-w", "-D"}, rule...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("iptables: %w: %s", err, out)
	}
	d = time.Since(began)
	return fmt.Sprintf("daemon cut off from %s for %.0f s from %s on", peer[0], d.Seconds(), at), d, err
}

// forAWhile is an outage's length: mostly short, a minute at most.
func (h *havoc) forAWhile() time.Duration {
	share := h.rnd.Float64()
	return time.Second + time.Duration(share*share*float64(maxOutage-time.Second))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (h *havoc) gitDown(ctx context.Context) (string, time.Duration, error) {
	return h.down(ctx, "git")
}

func (h *havoc) storeDown(ctx context.Context) (string, time.Duration, error) {
	return h.down(ctx, "s3")
}

// down kills a service whenever it comes up, for a while. It comes back by
// itself, whatever becomes of this program.
func (h *havoc) down(ctx context.Context, service string) (string, time.Duration, error) {
	d, at, began := h.forAWhile(), h.where(), time.Now()
	m, n := h.machine("host"), 0
	for time.Since(began) < d && ctx.Err() == nil {
		killed, err := m.killService(service)
		if err != nil {
			return fmt.Sprintf("%s killed %d times", service, n), time.Since(began), err
		}
		if killed {
			h.book.kill("")
			n++
		}
		pause(ctx, killEvery)
	}
	return fmt.Sprintf("%s down for %.0f s from %s on, killed %d times", service, time.Since(began).Seconds(), at, n), time.Since(began), nil
}

func (h *havoc) killAPIServer(ctx context.Context) (string, time.Duration, error) {
	return h.killControl(ctx, "kube-apiserver")
}

func (h *havoc) killEtcd(ctx context.Context) (string, time.Duration, error) {
	return h.killControl(ctx, "etcd")
}

// killControl ends a part of a control plane and waits until the API server
// answers again.
func (h *havoc) killControl(ctx context.Context, service string) (string, time.Duration, error) {
	s, began, at := h.sides[h.rnd.IntN(2)], time.Now(), h.where()
	killed, err := h.machine(s.cluster.Nodes[0]).killService(service)
	if err != nil || !killed {
		return service + " not killed", 0, err
	}
	h.book.kill("")
	for time.Since(began) < answerLimit {
		pause(context.WithoutCancel(ctx), time.Second)
		if err = s.answers(); err == nil {
			break
		}
	}
	return fmt.Sprintf("%s of the %s killed in %s, back after %.0f s", service, s.name, at, time.Since(began).Seconds()), time.Since(began), err
}

// answers asks an API server for something that etcd must be there for.
func (s *side) answers() error {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	_, err := s.kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: 1})
	return err
}

// mend takes away what a run that was ended in mid-fault may have left.
func mend() error {
	out, err := exec.Command("iptables", "-w", "-S", "OUTPUT").CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables: %w: %s", err, out)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if rest, ours := strings.CutPrefix(line, "-A "); ours && strings.Contains(line, "--gid-owner "+strconv.Itoa(gid)) {
			if out, again := exec.Command("iptables", append([]string{"-w", "-D"}, strings.Fields(rest)...)...).CombinedOutput(); again != nil {
				err = errors.Join(err, fmt.Errorf("iptables: %w: %s", again, out))
			}
		}
	}
	return err
}
