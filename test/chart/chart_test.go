// Package chart renders the chart of the daemon with the real Helm, and looks at what
// comes out. That it runs is shown by test/e2e.
package chart

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/lab"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const chart = "../../charts/tranship"

var program = sync.OnceValues(func() (string, error) { return lab.Helm("../tools") })

// helm runs Helm as on a cluster of the version that the bed has.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, append(args, "--kube-version", "1.34.4")...)
	home := t.TempDir()
	c.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	out, err := c.CombinedOutput()
	return string(out), err
}

// example is examples/daemon.yaml, and values that make the chart render it.
func example(t *testing.T) (document []byte, values string) {
	t.Helper()
	document, err := os.ReadFile("../../examples/daemon.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	if err := yaml.Unmarshal(document, &d); err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(map[string]any{
		"image": "registry.example.com/tranship/tranship:v0.1.0", "config": d["spec"], "reconcileToken": "reconcile",
		"secrets": []string{"git-plans", "git-ledger", "ledger-signing", "git-webhook", "cluster-old", "cluster-new", "s3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	values = filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return document, values
}

// objects are the rendered documents by their kinds.
type objects map[string]string

func render(t *testing.T, values string, more ...string) objects {
	t.Helper()
	out, err := helm(t, append([]string{"template", "tranship", chart, "--namespace", "tranship", "--values", values}, more...)...)
	if err != nil {
		t.Fatal(out)
	}
	all := objects{}
	for _, doc := range strings.Split(out, "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Namespace string }
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil || all[o.Kind] != "" {
			t.Fatalf("%v, or two of kind %s:\n%s", err, o.Kind, doc)
		}
		if o.Metadata.Namespace != "tranship" {
			t.Errorf("%s is not in the release's namespace", o.Kind)
		}
		all[o.Kind] = doc
	}
	return all
}

// read decodes an object and refuses a field that its kind does not have.
func (o objects) read(t *testing.T, kind string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(o[kind]), into); err != nil {
		t.Fatalf("%s: %v\n%s", kind, err, o[kind])
	}
}

// TestTheChartMakesOnlyWhatTheDaemonNeeds: no right on any cluster, no Secret, one pod
// that its Service and its NetworkPolicy select.
func TestTheChartMakesOnlyWhatTheDaemonNeeds(t *testing.T) {
	_, values := example(t)
	if out, err := helm(t, "lint", "--strict", "--values", values, chart); err != nil {
		t.Fatal(out)
	}
	o := render(t, values)
	if kinds, want := slices.Sorted(maps.Keys(o)), []string{"ConfigMap", "NetworkPolicy", "Service", "ServiceAccount", "StatefulSet"}; !slices.Equal(kinds, want) {
		t.Errorf("the chart makes %q, want %q: whatever else there is needs a reason in docs/security.md", kinds, want)
	}
	var account corev1.ServiceAccount
	o.read(t, "ServiceAccount", &account)
	if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
		t.Error("pods of the service account get a token")
	}
	var set appsv1.StatefulSet
	o.read(t, "StatefulSet", &set)
	var service corev1.Service
	o.read(t, "Service", &service)
	var policy networkingv1.NetworkPolicy
	o.read(t, "NetworkPolicy", &policy)
	labels := set.Spec.Template.Labels
	for what, selector := range map[string]map[string]string{"StatefulSet": set.Spec.Selector.MatchLabels, "Service": service.Spec.Selector, "NetworkPolicy": policy.Spec.PodSelector.MatchLabels} {
		if !maps.Equal(selector, labels) || len(selector) == 0 {
			t.Errorf("the %s selects %v, the pod has %v", what, selector, labels)
		}
	}
	if !slices.Equal(policy.Spec.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}) || len(policy.Spec.Ingress) != 0 {
		t.Errorf("what is not named is allowed: %+v", policy.Spec)
	}
	for _, rule := range policy.Spec.Egress {
		if len(rule.Ports) == 0 {
			t.Errorf("a rule allows every port: %+v", rule)
		}
	}
	o = render(t, values, "--set-json", `networkPolicy.from=[{"namespaceSelector":{}}]`, "--set-json", "networkPolicy.egress=[]")
	policy = networkingv1.NetworkPolicy{}
	o.read(t, "NetworkPolicy", &policy)
	if in := policy.Spec.Ingress; len(in) != 1 || len(in[0].From) != 1 || len(in[0].Ports) != 1 || in[0].Ports[0].Port.IntVal != 9440 || len(policy.Spec.Egress) != 0 || len(policy.Spec.PolicyTypes) != 2 {
		t.Errorf("the rules are %+v", policy.Spec)
	}
}

// TestTheChartConfinesTheDaemon: what the Pod Security level restricted asks for, and
// more.
func TestTheChartConfinesTheDaemon(t *testing.T) {
	_, values := example(t)
	for _, own := range []bool{false, true} {
		var set appsv1.StatefulSet
		render(t, values, "--set", "user="+map[bool]string{true: "1000700000", false: "null"}[own]).read(t, "StatefulSet", &set)
		pod := set.Spec.Template.Spec
		if c := pod.SecurityContext; !*c.RunAsNonRoot || c.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("the pod has %+v", c)
		} else if own && (*c.RunAsUser != 1000700000 || *c.RunAsGroup != 1000700000 || *c.FSGroup != 1000700000) || !own && (c.RunAsUser != nil || c.FSGroup != nil) {
			t.Errorf("the user is %+v", c)
		}
		if *pod.AutomountServiceAccountToken || pod.HostNetwork || pod.HostPID || pod.HostIPC {
			t.Errorf("the pod has a token, or is in a namespace of the node: %+v", pod)
		}
		if len(pod.Containers) != 1 || len(pod.InitContainers) != 0 {
			t.Fatal("the pod has not one container")
		}
		c := pod.Containers[0]
		if s := c.SecurityContext; *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.Privileged != nil || len(s.Capabilities.Add) != 0 || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("the container has %+v", s)
		}
		if c.Resources.Limits.Memory().String() != "512Mi" || !slices.Contains(c.Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: "435MiB"}) {
			t.Errorf("memory: %+v, %+v", c.Resources, c.Env)
		}
		writable := []string{}
		for _, m := range c.VolumeMounts {
			if !m.ReadOnly {
				writable = append(writable, m.MountPath)
			}
		}
		if !slices.Equal(writable, []string{"/var/lib/tranship", "/tmp"}) {
			t.Errorf("writable are %q", writable)
		}
		for _, v := range pod.Volumes {
			if s := v.Secret; s != nil && *s.DefaultMode != 0o440 || v.HostPath != nil || v.Projected != nil {
				t.Errorf("volume %+v", v)
			}
		}
	}
}

// TestTheChartPassesTheConfigurationOn: the daemon reads what examples/daemon.yaml says,
// finds every Secret where --secrets-dir looks, and is replaced when the configuration
// changes.
func TestTheChartPassesTheConfigurationOn(t *testing.T) {
	document, values := example(t)
	want, problems := spec.DecodeConfig("daemon.yaml", document)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	o := render(t, values)
	var config corev1.ConfigMap
	o.read(t, "ConfigMap", &config)
	got, problems := spec.DecodeConfig("config.yaml", []byte(config.Data["config.yaml"]))
	if len(problems) > 0 || !reflect.DeepEqual(got.Spec, want.Spec) {
		t.Errorf("the configuration is\n%s\n%v", config.Data["config.yaml"], problems)
	}
	var set appsv1.StatefulSet
	o.read(t, "StatefulSet", &set)
	pod := set.Spec.Template.Spec
	named := map[string]string{}
	for _, v := range pod.Volumes {
		if v.Secret != nil {
			named[v.Name] = v.Secret.SecretName
		}
	}
	mounted := map[string]bool{}
	for _, m := range pod.Containers[0].VolumeMounts {
		if name, ok := named[m.Name]; ok {
			mounted[name] = m.MountPath == "/secrets/"+name
		}
	}
	for _, m := range append(regexp.MustCompile(`from: (\S+)`).FindAllStringSubmatch(string(document), -1), []string{"", "reconcile"}) {
		if !mounted[m[1]] {
			t.Errorf("Secret %s is not below /secrets: %v", m[1], mounted)
		}
	}
	for _, arg := range []string{"--secrets-dir=/secrets", "--reconcile-token-file=/secrets/reconcile/token", "--listen=:9440"} {
		if !slices.Contains(pod.Containers[0].Args, arg) {
			t.Errorf("%s is not among %q", arg, pod.Containers[0].Args)
		}
	}
	var known appsv1.StatefulSet
	render(t, values, "--set", "inCluster=true").read(t, "StatefulSet", &known)
	if *pod.AutomountServiceAccountToken || !*known.Spec.Template.Spec.AutomountServiceAccountToken {
		t.Error("a token is there for all, or not where a cluster is the pod's own")
	}
	var changed appsv1.StatefulSet
	render(t, values, "--set", "config.interval=1h").read(t, "StatefulSet", &changed)
	if maps.Equal(changed.Spec.Template.Annotations, set.Spec.Template.Annotations) {
		t.Error("a changed configuration leaves the old pod running")
	}
}

// TestThePageOfInstalling: the values that docs/install.md shows make a daemon, and it
// says how to make every Secret that they name.
func TestThePageOfInstalling(t *testing.T) {
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1)
	if len(shown) != 1 {
		t.Fatalf("docs/install.md has %d pieces of YAML, want the values", len(shown))
	}
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, shown[0][1], 0o600); err != nil {
		t.Fatal(err)
	}
	o := render(t, values)
	var config corev1.ConfigMap
	o.read(t, "ConfigMap", &config)
	if _, problems := spec.DecodeConfig("config.yaml", []byte(config.Data["config.yaml"])); len(problems) > 0 {
		t.Error(problems)
	}
	var set appsv1.StatefulSet
	o.read(t, "StatefulSet", &set)
	n := 0
	for _, v := range set.Spec.Template.Spec.Volumes {
		if v.Secret != nil {
			n++
			if !strings.Contains(string(page), "kubectl -n tranship create secret generic "+v.Secret.SecretName+" ") {
				t.Errorf("docs/install.md does not say how to make Secret %s", v.Secret.SecretName)
			}
		}
	}
	if n == 0 {
		t.Error("the values name no Secret")
	}
}

// TestTheChartsDaemonsShareALease: two of them may use one Lease of their namespace, and
// nothing else.
func TestTheChartsDaemonsShareALease(t *testing.T) {
	_, values := example(t)
	o := render(t, values, "--set", "replicas=2")
	if kinds, want := slices.Sorted(maps.Keys(o)), []string{"ConfigMap", "NetworkPolicy", "Role", "RoleBinding", "Service", "ServiceAccount", "StatefulSet"}; !slices.Equal(kinds, want) {
		t.Errorf("the chart makes %q, want %q", kinds, want)
	}
	var set appsv1.StatefulSet
	o.read(t, "StatefulSet", &set)
	pod := set.Spec.Template.Spec
	if *set.Spec.Replicas != 2 || !*pod.AutomountServiceAccountToken || !slices.Contains(pod.Containers[0].Args, "--lease=tranship/tranship") {
		t.Errorf("%d replicas, token %t, %q", *set.Spec.Replicas, *pod.AutomountServiceAccountToken, pod.Containers[0].Args)
	}
	var role rbacv1.Role
	o.read(t, "Role", &role)
	leases := rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}}
	create, use := leases, leases
	create.Verbs, use.Verbs, use.ResourceNames = []string{"create"}, []string{"get", "update"}, []string{"tranship"}
	if !reflect.DeepEqual(role.Rules, []rbacv1.PolicyRule{create, use}) {
		t.Errorf("the role is %+v", role.Rules)
	}
	var binding rbacv1.RoleBinding
	o.read(t, "RoleBinding", &binding)
	if s := binding.Subjects; binding.RoleRef.Kind != "Role" || binding.RoleRef.Name != role.Name || len(s) != 1 || s[0].Name != pod.ServiceAccountName || s[0].Namespace != "tranship" {
		t.Errorf("the binding is %+v", binding)
	}
}

// TestTheChartRefuses what nobody can mean.
func TestTheChartRefuses(t *testing.T) {
	_, values := example(t)
	for set, want := range map[string]string{
		"image=":                       "image is not set: nobody publishes one; make it as docs/install.md says",
		"image=two words":              "/image",
		"config=null":                  "config is not set",
		"replica=2":                    "'replica' not allowed",
		"replicas=0":                   "/replicas",
		"storage.className=fast":       "'className' not allowed",
		"networkPolicy.enabled=false":  "'enabled' not allowed",
		"user=0":                       "/user",
		"inCluster=maybe":              "/inCluster",
		"memory=512":                   "/memory",
		"memory=512M":                  "/memory",
		"secrets[0]=../etc":            "/secrets/0",
		"secrets={a,a}":                "/secrets",
		"reconcileToken=a/b":           "/reconcileToken",
		"env.HTTPS_PROXY.valueFrom=x":  "/env/HTTPS_PROXY",
		"args={run}":                   "/args/0",
		"networkPolicy.egress[0]=null": "/networkPolicy/egress/0",
		"networkPolicy.from[0]=null":   "/networkPolicy/from/0",
	} {
		if out, err := helm(t, "template", "tranship", chart, "--values", values, "--set", set); err == nil || !strings.Contains(out, want) {
			t.Errorf("--set %s: %v, without %q: %s", set, err, want, lab.Tail(out, 500))
		}
	}
}
