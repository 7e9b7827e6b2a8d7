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
	now := time.Date(2026, 12, 1, 1, 2, 0, 0, time.UTC)
	end := metav1.NewTime(now.Add(4 * time.Minute))
	var out bytes.Buffer
	tellWait(&out, &spec.Waiting{Reason: "StillAttached", Object: "target PersistentVolume pvc-1", Message: "waits", Look: "on cluster new: kubectl describe persistentvolume pvc-1", Events: []string{"2026-12-01T01:01:30Z VolumeFailedDelete: in use"}, Since: metav1.NewTime(now.Add(-time.Minute)), Deadline: &end}, now)
	if !strings.Contains(out.String(), "(1m, at most 4m more)\nlook      on cluster new: kubectl describe persistentvolume pvc-1\nevent     2026-12-01T01:01:30Z VolumeFailedDelete: in use\n") {
		t.Error(out.String())
	}
}
