package kube

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// Two repositories have a plan of one name, and the same clusters: the second acts on
// nothing, not even to close its plan, and the first does not notice.
func TestTwoRepositoriesWithOnePlanName(t *testing.T) {
	c := &Cluster{Name: "old", Kube: fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ours"}})}
	of := func(shard string, kind spec.RunKind) *Env {
		return &Env{Call: reconciler.Call{Run: &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: kind, Number: 1}}}, Settings: Settings{Namespace: "ours", Shard: shard, Ledger: "https://git/" + shard}}
	}
	for n, s := range []struct {
		env   *Env
		taken bool
	}{
		{of("second", spec.RunClose), false}, // nobody has it, and closing takes it not
		{of("first", spec.RunStage), false},
		{of("second", spec.RunStage), true},
		{of("second", spec.RunMigrate), true},
		{of("second", spec.RunClose), true},
		{of("second", spec.RunRollback), false},
		{of("first", spec.RunMigrate), false},
		{of("first", spec.RunClose), false},
		{of("", spec.RunStage), false},
	} {
		err := c.HoldName(t.Context(), s.env)
		if (err != nil) != s.taken || err != nil && !strings.Contains(err.Error(), "https://git/first") {
			t.Errorf("%d: %v", n, err)
		}
		if taken, err := c.NameTaken(t.Context(), s.env); s.env.Settings.Shard != "" && s.env.Run.Spec.Kind != spec.RunRollback && (err != nil || (taken != "") != s.taken) {
			t.Errorf("%d: %q %v", n, taken, err)
		}
	}
	undo := of("second", spec.RunMigrate)
	undo.Undo = true
	if err := c.HoldName(t.Context(), undo); err != nil {
		t.Errorf("an undo is refused: %v", err)
	}
}
