package kube

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EventTime is the newest of the fields in which events keep their time.
func EventTime(ev *corev1.Event) metav1.Time {
	t := ev.LastTimestamp
	if t.Before(&ev.FirstTimestamp) {
		t = ev.FirstTimestamp
	}
	if micro := metav1.NewTime(ev.EventTime.Time); t.Before(&micro) {
		t = micro
	}
	return t
}
