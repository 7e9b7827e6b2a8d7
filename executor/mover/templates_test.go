package mover

import (
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// settled discovers as the verbs do, with nothing recorded.
func settled(t *testing.T, inv *Inventory, plan *spec.PlanSpec) Discovery {
	t.Helper()
	d, err := inv.Discover(plan)
	if err != nil {
		t.Fatal(err)
	}
	inv.settleTemplates(&d)
	inv.checkNames(&d)
	return d
}

func mysql(class *string, modes ...corev1.PersistentVolumeAccessMode) Owner {
	o := workload("StatefulSet", "mysql")
	o.ClaimTemplates = claimTemplates("data")
	o.ClaimTemplates[0].Spec = corev1.PersistentVolumeClaimSpec{StorageClassName: class, AccessModes: modes}
	return o
}

// TestTemplates: what a StatefulSet's template says and which classes there
// are, and what it must say on the target ("" as it is).
func TestTemplates(t *testing.T) {
	gold := []spec.VolumeOverride{{Namespace: "shop", Claim: "data-mysql-0", StorageClassName: "gold"}, {Namespace: "shop", Claim: "data-mysql-1", StorageClassName: "gold"}}
	fast, both := []*storagev1.StorageClass{class("fast", "csi", true)}, []*storagev1.StorageClass{class("fast", "csi", true), class("gold", "x", false)}
	cases := map[string]struct {
		template  *string
		overrides []spec.VolumeOverride
		target    []*storagev1.StorageClass
		want      string
		modes     string
		note      string
	}{
		"the same class":                                  {template: ptr.To("fast"), target: fast},
		"no class, and the same default":                  {target: fast},
		"no class, and another default":                   {target: []*storagev1.StorageClass{class("fast", "csi", false), class("slow", "y", true)}, want: "fast"},
		"the plan's class":                                {template: ptr.To("fast"), overrides: gold, target: both, want: "gold"},
		"the plan's class, none in the source":            {overrides: gold, target: both, want: "gold"},
		"a class that the target lacks":                   {template: ptr.To("fast"), target: []*storagev1.StorageClass{class("slow", "y", true)}, want: "slow"},
		"a class for further ordinals":                    {template: ptr.To("gold"), target: both},
		"a class for further ordinals, not on the target": {template: ptr.To("gold"), target: fast, want: "fast"},
		"skipped, its class is there":                     {template: ptr.To("fast"), overrides: []spec.VolumeOverride{{Namespace: "shop", Claim: "data-mysql-0", Action: "skip"}, {Namespace: "shop", Claim: "data-mysql-1", Action: "skip"}}, target: fast},
		"skipped, its class is not there":                 {template: ptr.To("fast"), overrides: []spec.VolumeOverride{{Namespace: "shop", Claim: "data-mysql-0", Action: "skip"}, {Namespace: "shop", Claim: "data-mysql-1", Action: "skip"}}, target: []*storagev1.StorageClass{class("slow", "y", true)}, want: "slow"},
		"the plan's mode":                                 {template: ptr.To("fast"), overrides: []spec.VolumeOverride{{Namespace: "shop", Claim: "data-mysql-0", AccessMode: "ReadWriteOncePod"}}, target: fast, modes: "ReadWriteOncePod"},
		"one ordinal differs":                             {template: ptr.To("fast"), overrides: gold[1:], target: both, note: "its class is not that of data-mysql-0, which further ordinals of StatefulSet mysql get"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inv := inventory([]string{"data-mysql-0", "data-mysql-1"}, mysql(c.template, corev1.ReadWriteOnce))
			inv.TargetClasses = nil
			for _, k := range c.target {
				inv.TargetClasses = append(inv.TargetClasses, *k)
			}
			plan := planOf()
			plan.Volumes.Overrides = c.overrides
			d := settled(t, inv, plan)
			if len(d.Problems) > 0 || len(d.Volumes) != 2 {
				t.Fatalf("%+v", d)
			}
			for _, v := range d.Volumes {
				modes := ""
				for _, m := range v.Template.AccessModes {
					modes += string(m)
				}
				if v.Template.StatefulSet != "mysql" || v.Template.Name != "data" || v.Template.StorageClassName != c.want || modes != c.modes {
					t.Errorf("%s: %+v, want class %q, modes %q", v.Claim, *v.Template, c.want, c.modes)
				}
			}
			if notes := strings.Join(d.Volumes[1].Notes, "; "); notes != c.note {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
}

// A StatefulSet that never ran has no claim that could show its class.
func TestATemplateWithoutClaimsIsWarnedOf(t *testing.T) {
	inv := inventory([]string{"other"}, mysql(ptr.To("nowhere"), corev1.ReadWriteOnce))
	d := settled(t, inv, planOf())
	if len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], `template data of StatefulSet shop/mysql, of which no claim is covered, asks for storage class "nowhere"`) {
		t.Errorf("%q", d.Warnings)
	}
}

func TestNamesOnTheTarget(t *testing.T) {
	rename := func(from, to string) spec.VolumeOverride {
		return spec.VolumeOverride{Namespace: "shop", Claim: from, TargetClaim: to}
	}
	for name, c := range map[string]struct {
		overrides []spec.VolumeOverride
		want      string // "<reason> <words>"
	}{
		"a free name":                           {[]spec.VolumeOverride{rename("a", "c")}, ""},
		"two swap":                              {[]spec.VolumeOverride{rename("a", "b"), rename("b", "a")}, ""},
		"the name of a claim that is not moved": {[]spec.VolumeOverride{rename("a", "b"), {Namespace: "shop", Claim: "b", Action: "skip"}}, ""},
		"a template's claim":                    {[]spec.VolumeOverride{rename("data-mysql-0", "x")}, "TemplateClaim find their claims by name"},
		"the name of another":                   {[]spec.VolumeOverride{rename("a", "b")}, "TargetClaimTaken claims shop/a and shop/b would both be shop-new/b"},
		"the name of a claim to come":           {[]spec.VolumeOverride{rename("a", "data-mysql-7")}, "TemplateClaim would take it for a claim of its template data"},
	} {
		t.Run(name, func(t *testing.T) {
			inv := inventory([]string{"a", "b", "data-mysql-0"}, mysql(ptr.To("fast")), workload("Deployment", "web", "a"))
			plan := planOf()
			plan.Volumes.Overrides = c.overrides
			d := settled(t, inv, plan)
			reason, words, _ := strings.Cut(c.want, " ")
			if c.want == "" && len(d.Problems) > 0 || c.want != "" && (len(d.Problems) != 1 || d.Problems[0].Reason != reason || !strings.Contains(d.Problems[0].Message, words)) {
				t.Errorf("got %v, want %q", d.Problems, c.want)
			}
		})
	}
}

// TestOwners: everything that mounts a claim is named, and what the plan does
// not cover is said, for nobody would stop it.
func TestOwners(t *testing.T) {
	web, cron := workload("Deployment", "web", "data"), workload("CronJob", "report", "data")
	web.Labels = map[string]string{"app": "shop"}
	inv := inventory([]string{"data", "alone"}, web, cron)
	d := settled(t, inv, planOf())
	if v := d.Volumes[1]; !slices.Equal(v.Owners, []string{"CronJob/report", "Deployment/web"}) || len(v.Notes) > 0 {
		t.Errorf("%+v", v)
	}
	if v := d.Volumes[0]; v.Claim != "alone" || len(v.Owners) > 0 {
		t.Errorf("%+v", v)
	}
	plan := planOf()
	plan.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop"}}
	d = settled(t, inv, plan)
	if len(d.Volumes) != 1 || !slices.Equal(d.Volumes[0].Notes, []string{"CronJob/report, which the plan does not cover, uses it too: the cutover cannot stop that"}) {
		t.Errorf("%+v", d.Volumes)
	}
}
