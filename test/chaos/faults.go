package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/lab"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	maxOutage   = time.Minute
	answerLimit = time.Minute     // for an API server to be back
	moverLimit  = 5 * time.Second // for a mover that can be killed
)

// killMover ends a reader, writer or holder of the plan's; it waits for one.
func (h *havoc) killMover(ctx context.Context) (string, time.Duration, error) {
	for end := time.Now().Add(moverLimit); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, time.Second/5) {
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

// killPod ends every process of a pod but its sandbox, with SIGKILL.
func killPod(uid string) (killed int, err error) {
	pids, err := lab.PodProcesses(uid)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return killed, fmt.Errorf("cannot kill a process of a pod: %w", err)
		}
		killed++
	}
	return killed, nil
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
	mend, err := lab.Cut(gid, peer[1])
	if err != nil {
		return "nothing cut off", 0, err
	}
	began := time.Now()
	pause(ctx, d)
	err = mend()
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
	n := 0
	err := h.lab.Bed.KeepDown(ctx, "host", service, d, func() {
		h.book.kill("")
		n++
	})
	return fmt.Sprintf("%s down for %.0f s from %s on, killed %d times", service, time.Since(began).Seconds(), at, n), time.Since(began), err
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
	killed, err := h.lab.Bed.KillService(s.cluster.Nodes[0], service)
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
