package mover

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// quantities reads "cpu=1m memory=16Mi".
func quantities(t *testing.T, pairs ...string) corev1.ResourceList {
	t.Helper()
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

// TestFitLimits: the holder's own wishes (1m to 100m CPU, 16Mi to 64Mi) under a
// namespace's ranges.
func TestFitLimits(t *testing.T) {
	q := func(pairs ...string) corev1.ResourceList { return quantities(t, pairs...) }
	for name, c := range map[string]struct {
		items []corev1.LimitRangeItem
		want  string // requests and limits: cpu, memory, ephemeral-storage
	}{
		"none":                          {nil, "1m 16Mi 0, 100m 64Mi 0"},
		"a claim's range":               {[]corev1.LimitRangeItem{{Type: corev1.LimitTypePersistentVolumeClaim, Min: q("cpu", "1")}}, "1m 16Mi 0, 100m 64Mi 0"},
		"a minimum":                     {[]corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Min: q("cpu", "10m", "memory", "32Mi")}}, "10m 32Mi 0, 100m 64Mi 0"},
		"a minimum over the limit":      {[]corev1.LimitRangeItem{{Type: corev1.LimitTypePod, Min: q("cpu", "250m")}}, "250m 16Mi 0, 250m 64Mi 0"},
		"a maximum":                     {[]corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Max: q("cpu", "50m", "memory", "32Mi")}}, "1m 16Mi 0, 50m 32Mi 0"},
		"a maximum of another resource": {[]corev1.LimitRangeItem{{Type: corev1.LimitTypePod, Max: q("ephemeral-storage", "1Gi")}}, "1m 16Mi 0, 100m 64Mi 1Gi"},
		"a ratio":                       {[]corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, MaxLimitRequestRatio: q("cpu", "10", "memory", "3")}}, "10m 22369622 0, 100m 64Mi 0"},
		"a ratio of one":                {[]corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, MaxLimitRequestRatio: q("memory", "1")}}, "1m 64Mi 0, 100m 64Mi 0"},
		"a ratio after a maximum":       {[]corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, MaxLimitRequestRatio: q("cpu", "4")}, {Type: corev1.LimitTypePod, Max: q("cpu", "40m")}}, "10m 16Mi 0, 40m 64Mi 0"},
		"everything":                    {[]corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Min: q("cpu", "10m", "memory", "20Mi"), Max: q("cpu", "80m", "memory", "48Mi"), MaxLimitRequestRatio: q("cpu", "4", "memory", "2")}}, "20m 24Mi 0, 80m 48Mi 0"},
	} {
		wish := corev1.ResourceRequirements{Requests: q("cpu", "1m", "memory", "16Mi"), Limits: q("cpu", "100m", "memory", "64Mi")}
		r := fitLimits(wish, []corev1.LimitRange{{Spec: corev1.LimitRangeSpec{Limits: c.items}}})
		text := func(l corev1.ResourceList) string {
			return fmt.Sprint(l.Cpu(), " ", l.Memory(), " ", l.StorageEphemeral())
		}
		if got := text(r.Requests) + ", " + text(r.Limits); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if wish.Requests.Cpu().String() != "1m" {
			t.Fatalf("%s: the wish itself was changed", name)
		}
	}
}
