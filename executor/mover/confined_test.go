package mover

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// A holder, which runs in the application's namespace, may do nothing; a mover has
// the capabilities that files need, and only the one that reads a device has all.
func TestHoldersAndMoversAreConfined(t *testing.T) {
	source, target := deviceWorld(t)
	e := testEnv(source, target, "upload", "mover.upload")
	want(t, drive(t, e), reconciler.Working)
	bare := func(name string, p *corev1.PodSpec) corev1.SecurityContext {
		c := p.Containers[0].SecurityContext
		if p.AutomountServiceAccountToken == nil || *p.AutomountServiceAccountToken || p.HostNetwork || p.HostPID || p.HostIPC || len(p.Containers)+len(p.InitContainers) != 1 {
			t.Errorf("%s: %+v", name, p)
		}
		if s := p.SecurityContext.SeccompProfile; s == nil || s.Type != corev1.SeccompProfileTypeRuntimeDefault || !*c.ReadOnlyRootFilesystem {
			t.Errorf("%s: %+v, %+v", name, p.SecurityContext, c)
		}
		return *c
	}
	for _, claim := range []string{"data", "disk"} {
		p := source.pod(holderName(e, &spec.Volume{Namespace: "shop", Claim: claim})).Spec
		c := bare("the holder of "+claim, &p)
		if c.Privileged != nil || *c.AllowPrivilegeEscalation || len(c.Capabilities.Add) > 0 || !slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) || !*p.SecurityContext.RunAsNonRoot {
			t.Errorf("the holder of %s may do more than hold: %+v", claim, c)
		}
	}
	jobs := source.allJobs()
	if len(jobs) != 2 {
		t.Fatalf("%d movers", len(jobs))
	}
	named := []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "MKNOD", "SETFCAP", "LEASE"}
	for i := range jobs {
		c := bare("a mover", &jobs[i].Spec.Template.Spec)
		if assignmentOf(source, &jobs[i]).Request.Volumes[0].Mode == engine.ModeBlock {
			continue // TestDevicesAreReadApart
		}
		if c.Privileged != nil || *c.AllowPrivilegeEscalation || !slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("a mover may do more than it should: %+v", c)
		}
		for _, add := range c.Capabilities.Add {
			if !slices.Contains(named, add) {
				t.Errorf("a mover has capability %s", add)
			}
		}
	}
}
