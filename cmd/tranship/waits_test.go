package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTellWait(t *testing.T) {
	run := &spec.Run{}
	run.Spec.Closure.Source.Metadata.Name, run.Spec.Closure.Target.Metadata.Name = "old", "new"
	for object, want := range map[string]string{
		"source Pod shop/web-1":         "on cluster old: kubectl -n shop describe pod web-1",
		"target PersistentVolume pvc-1": "on cluster new: kubectl describe persistentvolume pvc-1",
		"somewhere Pod shop/web-1":      "",
		"":                              "",
	} {
		if got := lookAt(object, run); got != want {
			t.Errorf("%q: %q, want %q", object, got, want)
		}
	}
	if got := lookAt("source Pod shop/web-1", nil); got != "" {
		t.Errorf("without a run the clusters are not known: %q", got)
	}
	now := time.Date(2026, 12, 1, 1, 2, 0, 0, time.UTC)
	end := metav1.NewTime(now.Add(4 * time.Minute))
	var out bytes.Buffer
	tellWait(&out, &spec.Waiting{Reason: "StillAttached", Object: "target PersistentVolume pvc-1", Message: "waits", Since: metav1.NewTime(now.Add(-time.Minute)), Deadline: &end}, run, now)
	if !strings.Contains(out.String(), "(1m, at most 4m more)\nlook      on cluster new: kubectl describe persistentvolume pvc-1") {
		t.Error(out.String())
	}
}
