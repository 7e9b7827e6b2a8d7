package velero

import (
	"slices"
	"testing"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOneLocationEachProvider: which VolumeSnapshotLocations a Backup names, so that
// Velero finds exactly one of each provider.
func TestOneLocationEachProvider(t *testing.T) {
	at := func(name, provider string, credential bool) velerov1.VolumeSnapshotLocation {
		l := velerov1.VolumeSnapshotLocation{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: velerov1.VolumeSnapshotLocationSpec{Provider: provider}}
		if credential {
			l.Spec.Credential = &corev1.SecretKeySelector{}
		}
		return l
	}
	type locations = []velerov1.VolumeSnapshotLocation
	for name, c := range map[string]struct {
		all          locations
		wanted, want []string
	}{
		"none at all":            {nil, nil, nil},
		"one of each provider":   {locations{at("a", "aws", false), at("g", "gcp", false)}, nil, nil},
		"two of one":             {locations{at("b", "aws", false), at("a", "aws", false), at("g", "gcp", false)}, nil, []string{"a"}},
		"default goes first":     {locations{at("a", "aws", false), at("default", "aws", true)}, nil, []string{"default"}},
		"one without credential": {locations{at("a", "aws", true), at("b", "aws", false)}, nil, []string{"b"}},
		"two of two":             {locations{at("h", "gcp", false), at("g", "gcp", false), at("b", "aws", false), at("a", "aws", false)}, nil, []string{"a", "g"}},
		"asked for":              {locations{at("a", "aws", false), at("b", "aws", false)}, []string{"b"}, []string{"b"}},
		"asked for of the other": {locations{at("g", "gcp", false), at("a", "aws", false), at("b", "aws", false)}, []string{"g"}, []string{"g", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := oneEach(c.all, c.wanted); !slices.Equal(got, c.want) {
				t.Errorf("named %v, want %v", got, c.want)
			}
		})
	}
}
