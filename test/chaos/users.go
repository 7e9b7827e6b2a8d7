package main

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// usersEvery is how often both sides are asked who uses a moved volume.
const usersEvery = 300 * time.Millisecond

// watchUsers looks until the returned function is called whether a moved volume
// has pods on both sides at once. A pod of the source that is there before and
// after the target was asked was there at that instant, too.
func (s *scenario) watchUsers(ctx context.Context) (stop func()) {
	if !s.way.facts.Moves {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	looked := 0
	go func() {
		defer close(done)
		var before map[string]string
		for ; ctx.Err() == nil; pause(ctx, usersEvery) {
			there, err := s.sides[target].users(ctx, s.plan)
			if err != nil {
				before = nil
				continue
			}
			after, err := s.sides[source].users(ctx, s.plan)
			if err != nil {
				before = nil
				continue
			}
			looked++
			for uid, here := range after {
				for _, other := range there {
					if before[uid] != "" {
						s.book.violation("%s: the moved volume is used on both sides at once: by pod %s on the source and pod %s on the target", s.plan, here, other)
						return
					}
				}
			}
			before = after
		}
	}()
	return func() {
		cancel()
		<-done
		s.book.say("%s: both sides were asked %d times who uses the moved volume", s.plan, looked)
	}
}

// users are the pods that have a node and the application's claim and are not
// over: their names by UID.
func (s *side) users(ctx context.Context, namespace string) (map[string]string, error) {
	list, err := s.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	users := map[string]string{}
	for _, p := range list.Items {
		if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, v := range p.Spec.Volumes {
			if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == "data" {
				users[string(p.UID)] = p.Name
			}
		}
	}
	return users, nil
}
