package e2e

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	shared "github.com/tranship/tranship/test/lab"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// released is the daemon of a lab as a pod of the source cluster, as the chart makes it.
type released struct {
	*lab
	helm      string
	namespace string
	values    map[string]any

	mu      sync.Mutex
	reached map[netip.AddrPort]bool // where the pod has connected to
}

// release makes a namespace of the Pod Security level restricted with the lab's secrets;
// nothing is installed yet.
func (l *lab) release() *released {
	l.t.Helper()
	r := &released{lab: l, namespace: l.name + "-daemon", reached: map[netip.AddrPort]bool{}}
	var err error
	r.helm, err = shared.Helm("../tools")
	l.must(err)
	for _, v := range []string{"HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"} {
		l.t.Setenv(v, filepath.Join(l.dir, "helm"))
	}
	l.t.Cleanup(func() {
		_, _ = l.kubectl(l.bed.Source.Kubeconfig, "delete", "namespace", r.namespace, "--ignore-not-found", "--wait=false")
	})
	l.onSource("create", "namespace", r.namespace)
	l.onSource("label", "namespace", r.namespace, "pod-security.kubernetes.io/enforce=restricted")
	names := []string{"git", "old", "new", "s3"}
	for _, name := range names {
		l.onSource("-n", r.namespace, "create", "secret", "generic", name, "--from-file="+filepath.Join(l.dir, "secrets", name))
	}
	var config struct{ Spec map[string]any }
	l.must(yaml.Unmarshal([]byte(l.text(filepath.Join(l.dir, "config.yaml"))), &config))
	r.values = map[string]any{
		"image": image.ref, "secrets": names, "config": config.Spec, "memory": "256Mi", "storage": map[string]any{"size": "64Mi"},
		"networkPolicy": map[string]any{"egress": []any{r.to(l.bed.Git.URL), r.to(l.bed.Source.Server), r.to(l.bed.Target.Server), r.to(l.bed.S3.Endpoint)}},
	}
	return r
}

// to is the rule of a NetworkPolicy that lets the daemon go to a server.
func (r *released) to(url string) any {
	r.t.Helper()
	host, port, ok := strings.Cut(strings.TrimPrefix(url, "https://"), ":")
	port, _, _ = strings.Cut(port, "/")
	n, err := strconv.Atoi(port)
	if !ok || err != nil {
		r.t.Fatalf("%s has no port", url)
	}
	return map[string]any{"to": []any{map[string]any{"ipBlock": map[string]any{"cidr": host + "/32"}}}, "ports": []any{map[string]any{"port": n}}}
}

// deploy makes the release what values say, by helm install or upgrade.
func (r *released) deploy(verb string) {
	r.t.Helper()
	text, err := yaml.Marshal(r.values)
	r.must(err)
	r.write("values.yaml", string(text))
	r.run(r.helm, verb, "tranship", "../../charts/tranship", "--kubeconfig", r.bed.Source.Kubeconfig, "--namespace", r.namespace, "--values", filepath.Join(r.dir, "values.yaml"))
}

// ready waits until a pod other than the one before is ready, and so has read the plans
// or waits for the Lease.
func (r *released) ready(name, before string) corev1.Pod {
	r.t.Helper()
	var pod corev1.Pod
	r.poll("pod "+name+" to be ready", 200*time.Millisecond, func() (string, bool) {
		pod = r.pod(name)
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return "", string(pod.UID) != before
			}
		}
		seen, _ := json.Marshal(pod.Status)
		return string(seen), false
	})
	return pod
}

func (r *released) pod(name string) (pod corev1.Pod) {
	r.t.Helper()
	if out := r.onSource("-n", r.namespace, "get", "pod", name, "--ignore-not-found", "-o", "json"); out != "" {
		r.must(json.Unmarshal([]byte(out), &pod))
	}
	return pod
}

// process is the daemon's, on this machine; its connections are watched from now on.
func (r *released) process(pod corev1.Pod) string {
	r.t.Helper()
	pids, err := shared.PodProcesses(string(pod.UID))
	r.must(err)
	if len(pids) != 1 {
		r.t.Fatalf("the pod has the processes %v, want one", pids)
	}
	dir := fmt.Sprintf("/proc/%d", pids[0])
	go func() {
		for r.look(dir) == nil {
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return dir
}

// look notes where connections of the pod's network lead that it has begun. The kernel
// shows one for a minute after its end.
func (r *released) look(dir string) error {
	for _, file := range []string{"/net/tcp", "/net/tcp6"} {
		text, err := os.ReadFile(dir + file)
		if err != nil {
			return err
		}
		for _, line := range strings.Split(string(text), "\n")[1:] {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] == "0A" || strings.HasSuffix(f[1], ":24E0") { // listens, or was called at 9440
				continue
			}
			if to, err := address(f[2]); err == nil {
				r.mu.Lock()
				r.reached[to] = true
				r.mu.Unlock()
			}
		}
	}
	return nil
}

// address reads one of /proc/net/tcp: words of 32 bits in the order of the machine.
func address(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	for i := 0; i+4 <= len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	ip, ok := netip.AddrFromSlice(raw)
	if !ok {
		err = errors.Join(err, err2, fmt.Errorf("no address: %s", s))
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), errors.Join(err, err2)
}

// isConfined asks the kernel what the process may do.
func (r *released) isConfined(dir string) {
	r.t.Helper()
	has := map[string]string{}
	for _, line := range strings.Split(r.text(dir+"/status"), "\n") {
		key, value, _ := strings.Cut(line, ":")
		has[key] = strings.Join(strings.Fields(value), " ")
	}
	for key, want := range map[string]string{
		"Uid": "65532 65532 65532 65532", "Gid": "65532 65532 65532 65532", "Groups": "65532", "NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if has[key] != want {
			r.t.Errorf("%s of the daemon's process is %q, want %q", key, has[key], want)
		}
	}
	for _, path := range []string{"/probe", "/secrets/git/probe", "/etc/tranship/probe"} {
		f, err := os.OpenFile(dir+"/root"+path, os.O_WRONLY|os.O_CREATE, 0o600)
		if !errors.Is(err, syscall.EROFS) {
			r.t.Errorf("%s of the pod can be written even by root: %v", path, err)
		}
		_ = f.Close()
	}
	if _, err := os.Lstat(dir + "/root/var/run/secrets"); err == nil {
		r.t.Error("the pod has a service account token")
	}
	for _, file := range []string{"git/password", "old/token", "new/token", "s3/secretKey"} {
		info, err := os.Stat(dir + "/root/secrets/" + file)
		if err != nil {
			r.t.Error(err)
			continue
		}
		if at := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o440 || at.Uid != 0 || at.Gid != 65532 {
			r.t.Errorf("secret %s has mode %o of %d:%d", file, info.Mode().Perm(), at.Uid, at.Gid)
		}
	}
}

// keptToPolicy compares where the daemon was seen to go with the rules that the API
// server has. Nothing on the bed enforces them.
func (r *released) keptToPolicy() {
	r.t.Helper()
	var policy networkingv1.NetworkPolicy
	r.must(json.Unmarshal([]byte(r.onSource("-n", r.namespace, "get", "networkpolicy", "tranship", "-o", "json")), &policy))
	r.mu.Lock()
	defer r.mu.Unlock()
	used := make([]bool, len(policy.Spec.Egress))
	for to := range r.reached {
		allowed := to.Addr().IsLoopback()
		for i, rule := range policy.Spec.Egress {
			in := netip.MustParsePrefix(rule.To[0].IPBlock.CIDR)
			if in.Contains(to.Addr()) && rule.Ports[0].Port.IntValue() == int(to.Port()) {
				allowed, used[i] = true, true
			}
		}
		if !allowed {
			r.t.Errorf("the daemon connected to %s, which its NetworkPolicy does not allow", to)
		}
	}
	// What is asked of the store takes an instant, and may not have been seen.
	if slices.Contains(used[:3], false) {
		r.t.Errorf("Git or an API server was not needed: the daemon went to %v", slices.Collect(maps.Keys(r.reached)))
	}
}

// answers asks the daemon through its Service.
func (r *released) answers() {
	r.t.Helper()
	ip := r.onSource("-n", r.namespace, "get", "service", "tranship", "-o", "jsonpath={.spec.clusterIP}")
	client := &http.Client{Timeout: 20 * time.Second}
	r.poll("an answer of the Service", 200*time.Millisecond, func() (string, bool) {
		res, err := client.Get("http://" + net.JoinHostPort(ip, "9440") + "/metrics")
		if err != nil {
			return err.Error(), false
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return fmt.Sprint(res.Status, err), strings.Contains(string(text), "tranship_plan_ready{")
	})
}

// told keeps what the pod has printed, as other tests have it of their daemon.
func (r *released) told() string {
	r.t.Helper()
	text := r.onSource("-n", r.namespace, "logs", "tranship-0")
	_, err := r.Log.Write([]byte(text))
	r.must(err)
	return text
}

// TestTheChartRunsTheDaemon installs the chart where only confined pods may run. A
// configuration that is wrong is named by the pod's status and mended by an upgrade; the
// daemon migrates an application, an upgraded one goes on with what it left behind, and
// takes the application back.
func TestTheChartRunsTheDaemon(t *testing.T) {
	l := newLab(t)
	r := l.release()
	l.apply(l.stateless())
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, "")
	l.commit("Plan the move", files)
	config := r.values["config"].(map[string]any)
	config["interval"] = "soon"
	r.deploy("install")
	l.poll("the pod to say what is wrong", 500*time.Millisecond, func() (string, bool) {
		for _, c := range r.pod("tranship-0").Status.ContainerStatuses {
			for _, s := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
				if s != nil {
					return s.Message, strings.Contains(s.Message, "spec.interval")
				}
			}
		}
		return "", false
	})
	config["interval"] = "1s"
	r.deploy("upgrade")
	pod := r.ready("tranship-0", "")
	r.isConfined(r.process(pod))
	l.rolledOut("deployment/web")
	l.waitReason("Staged", time.Minute)
	r.answers()
	l.flip(spec.Migrated, "")
	s := l.waitReason("Migrated", 3*time.Minute)
	if got := l.onTarget("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"); got != "2" {
		t.Errorf("the target has %q ready replicas, want 2", got)
	}
	r.told()
	if said := l.onSource("-n", r.namespace, "exec", "tranship-0", "--", "/tranship", "status", l.name, "--secrets-dir", "/secrets"); !strings.Contains(said, "Migrated") {
		t.Errorf("a command in the pod says: %s", said)
	}

	// A daemon without the journal of the one before would not take the ledger over so soon.
	config["interval"] = "2s"
	r.deploy("upgrade")
	next := r.ready("tranship-0", string(pod.UID))
	r.isConfined(r.process(next))
	if again := l.mustStatus(); again.Run.Metadata.Name != s.Run.Metadata.Name {
		t.Errorf("the upgraded daemon began %s", again.Run.Metadata.Name)
	}
	l.flip(spec.RolledBack, "rollback: {targetWrites: Discard}")
	l.waitReason("RolledBack", 3*time.Minute)
	if got := l.onSource("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"); got != "2" {
		t.Errorf("the source has %q ready replicas, want 2", got)
	}
	if said := r.told(); !strings.Contains(said, `"epoch":2`) {
		t.Errorf("the upgraded daemon did not continue:\n%s", said)
	}
	r.keptToPolicy()
	l.run(r.helm, "uninstall", "tranship", "--kubeconfig", l.bed.Source.Kubeconfig, "--namespace", r.namespace)
	l.gone("the release", l.bed.Source.Kubeconfig, "-n", r.namespace, "get", "pod,statefulset,service,networkpolicy,serviceaccount,configmap", "-l", "app.kubernetes.io/instance=tranship")
	if left := l.onSource("-n", r.namespace, "get", "pvc", "-o", "name"); strings.TrimSpace(left) != "persistentvolumeclaim/data-tranship-0" {
		t.Errorf("of the daemon's disk is left: %q", left)
	}
	l.nothingLeaks()
}

// leads is the process that has the Lease, other than the one before, and its pod.
func (r *released) leads(before string) (holder, pod string) {
	r.t.Helper()
	r.poll("a holder of the Lease", 200*time.Millisecond, func() (string, bool) {
		holder = r.onSource("-n", r.namespace, "get", "lease", "tranship", "--ignore-not-found", "-o", "jsonpath={.spec.holderIdentity}")
		pod, _, _ = strings.Cut(holder, "_")
		return holder, pod != "" && holder != before
	})
	return holder, pod
}

// acts waits until a pod's daemon has taken the ledger.
func (r *released) acts(pod string) {
	r.t.Helper()
	r.poll("the daemon of "+pod+" to act", 200*time.Millisecond, func() (string, bool) {
		said, err := r.kubectl(r.bed.Source.Kubeconfig, "-n", r.namespace, "logs", pod)
		return tail(said, 500), err == nil && strings.Contains(said, `"the daemon runs"`)
	})
}

// TestTheChartRunsTwoDaemons: one acts and the other waits, ready, so that an upgrade
// replaces both; when the one that acts goes, its Lease is free at once.
func TestTheChartRunsTwoDaemons(t *testing.T) {
	l := newLab(t)
	r := l.release()
	l.commit("Describe the clusters", l.infrastructure())
	r.values["replicas"] = 2
	r.deploy("install")
	both := []string{"tranship-0", "tranship-1"}
	uids := map[string]string{}
	for _, name := range both {
		uids[name] = string(r.ready(name, "").UID)
	}
	_, first := r.leads("")
	r.acts(first)
	for _, name := range both {
		if name != first && strings.Contains(l.onSource("-n", r.namespace, "logs", name), `"the daemon runs"`) {
			t.Errorf("%s leads, and %s acts", first, name)
		}
	}
	for what, want := range map[string]string{"update lease/tranship": "yes", "update lease/another": "no", "get secrets": "no", "get pods": "no", "list leases": "no"} {
		verb, object, _ := strings.Cut(what, " ")
		got, _ := l.kubectl(l.bed.Source.Kubeconfig, "-n", r.namespace, "auth", "can-i", verb, object, "--as=system:serviceaccount:"+r.namespace+":tranship") // "no" is an error
		if !strings.HasPrefix(got, want) {
			t.Errorf("may the daemon %s? %s", what, got)
		}
	}
	r.values["config"].(map[string]any)["interval"] = "2s"
	r.deploy("upgrade")
	for _, name := range both {
		r.ready(name, uids[name])
	}
	holder, leader := r.leads("")
	l.onSource("-n", r.namespace, "delete", "pod", leader, "--wait=false")
	_, next := r.leads(holder) // a new pod of the old name may be faster than the other one
	r.acts(next)
}
