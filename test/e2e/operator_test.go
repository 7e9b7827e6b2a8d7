package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	shared "github.com/tranship/tranship/test/lab"
)

// databaseDefinition is the kind of test/operator.
const databaseDefinition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: databases.test.tranship.dev, labels: {tranship.dev/of-tests: "true"}}
spec:
  group: test.tranship.dev
  scope: Namespaced
  names: {plural: databases, kind: Database}
  versions: [{name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

var operatorImage struct {
	once sync.Once
	ref  string
	err  error
}

// operatorImageOf is the image of test/operator, on every node of the bed.
func (l *lab) operatorImageOf() string {
	l.t.Helper()
	operatorImage.once.Do(func() {
		binary := filepath.Join(l.dir, "operator")
		l.run("env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binary, "../operator")
		other := *l.Lab
		other.Binary = binary
		operatorImage.ref, operatorImage.err = other.LoadImage("../bed", filepath.Dir(os.Getenv("TRANSHIP_BED")))
	})
	l.must(operatorImage.err)
	return operatorImage.ref
}

// hooks are the account of hooks, and a Hook of each name that runs test/operator
// with these arguments.
func (l *lab) hooks(commands map[string]string) string {
	var b strings.Builder
	for name, args := range commands {
		fmt.Fprintf(&b, "---\napiVersion: tranship.dev/v1alpha1\nkind: Hook\nmetadata: {name: %s}\nspec: {image: %q, command: [/tranship], args: [%s], backoffLimit: 0, activeDeadline: 5m}\n", name, l.operatorImageOf(), args)
	}
	return b.String()
}

// hookAccount may change what hooks of these tests change.
const hookAccount = `
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: hooks, namespace: NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: hooks, namespace: NS}
rules: [{apiGroups: [apps, test.tranship.dev], resources: [deployments, databases], verbs: [get, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: hooks, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: hooks}
subjects: [{kind: ServiceAccount, name: hooks, namespace: NS}]
`

// waiter is a Deployment that is ready only while a Service answers.
const waiter = `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS, labels: {part: "yes", team: shop}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        command: [/bin/sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.2; done"]
        readinessProbe: {exec: {command: [wget, -q, -O, /dev/null, "http://SERVICE:8080/"]}, periodSeconds: 1, timeoutSeconds: 10}
`

// queueApp is an application that needs a queue, which no plan covers.
func (l *lab) queueApp() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"], "SERVICE", "queue").Replace(`apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: queue, namespace: NS}
spec:
  selector: {matchLabels: {app: queue}}
  template:
    metadata: {labels: {app: queue}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: queue, image: IMAGE, command: [/bin/sh, -c, "mkdir -p /tmp/www && echo ok > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"]}]
---
apiVersion: v1
kind: Service
metadata: {name: queue, namespace: NS}
spec: {selector: {app: queue}, ports: [{port: 8080}]}
` + hookAccount + waiter)
}

// undoneBefore fails unless a run has undone one step before it began to undo another.
func (l *lab) undoneBefore(r *spec.Run, first, then string) {
	l.t.Helper()
	at := func(name string) *spec.Undid {
		for _, s := range r.Steps {
			if s.Name == name && s.Undid != nil && s.State == spec.StepUndone {
				return s.Undid
			}
		}
		l.t.Fatalf("step %s was not undone: %+v", name, r.Steps)
		return nil
	}
	if at(first).Ended.After(at(then).Started.Time) {
		l.t.Errorf("%s was undone at %s, after the undo of %s had begun at %s", first, at(first).Ended, then, at(then).Started)
	}
}

// noJobsOfHooks fails when Jobs of hooks are left on the source.
func (l *lab) noJobsOfHooks() {
	l.t.Helper()
	if got := l.onSource("-n", l.name, "get", "jobs", "-o", "name"); got != "" {
		l.t.Errorf("Jobs are left on the source: %s", got)
	}
}

// killedInAnUndo kills the daemon while the undo of a hook runs, and takes what it
// knew away.
func (l *lab) killedInAnUndo() {
	l.t.Helper()
	l.created("jobs", "tranship.dev/undoes")
	l.kill()
	l.must(os.RemoveAll(l.DataDir()))
	l.must(l.Start(0, "--take-over"))
}

// TestWhatAHookStoppedRunsBeforeTheSource: the source needs what the hook of a
// cutover has stopped, and the target does not have it. The daemon loses everything
// while the hook is undone.
func TestWhatAHookStoppedRunsBeforeTheSource(t *testing.T) {
	l := newLab(t)
	const extra = `labelSelector: {matchLabels: {part: "yes"}}
hooks: [{hook: queue-down, undo: queue-up, phase: PreBackup, namespace: NS, serviceAccountName: hooks}]
cutover: {healthTimeout: 20s}
`
	in := strings.ReplaceAll(extra, "NS", l.name)
	l.apply(l.queueApp())
	l.rolledOut("deployment/web")
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, in)
	files["hooks.yaml"] = l.hooks(map[string]string{
		"queue-down": `patch, apps/v1/deployments, queue, '{"spec":{"replicas":0}}', "0"`,
		"queue-up":   `patch, apps/v1/deployments, queue, '{"spec":{"replicas":1}}', "1"`,
	})
	l.commit("Plan the move", files)
	l.start()
	l.waitReason("Staged", time.Minute)
	l.flip(spec.Migrated, in)
	l.killedInAnUndo()
	s := l.waitReason("CutoverNotDone", 5*time.Minute)
	if health := stepOf(s.Run, "health"); health.Reason != "DeadlineExceeded" {
		t.Errorf("the cutover failed for another reason: %+v", s.Run.Status)
	}
	l.undoneBefore(s.Run, "hooks-with-undo", "stop")
	if !slices.ContainsFunc(s.Run.Facts.Times, func(n spec.NamedTime) bool { return n.Name == "undone queue-down of spec.hooks[0]" }) {
		t.Errorf("the record does not say that the hook was undone: %+v", s.Run.Facts.Times)
	}
	if got := l.onSource("-n", l.name, "get", "deployments", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.readyReplicas} {end}"); got != "queue 1 web 2 " {
		t.Errorf("on the source runs %q", got)
	}
	l.noJobsOfHooks()
}

// operator installs the kind Database and its operator for the lab's namespace on
// both clusters. The operator lives in a namespace of its own.
func (l *lab) operator() {
	l.t.Helper()
	home := l.name + "-operator"
	for side, c := range map[string]*shared.Cluster{"source": &l.bed.Source, "target": &l.bed.Target} {
		l.write("operator.yaml", databaseDefinition+strings.NewReplacer("HOME", home, "NS", l.name, "SIDE", side, "IMAGE", l.operatorImageOf()).Replace(`---
apiVersion: v1
kind: Namespace
metadata: {name: HOME}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: HOME}
rules:
- {apiGroups: [test.tranship.dev], resources: [databases, databases/status, databases/finalizers], verbs: ["*"]}
- {apiGroups: ["", apps], resources: [secrets, services, statefulsets], verbs: [get, list, create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: HOME}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: HOME}
subjects: [{kind: ServiceAccount, name: default, namespace: HOME}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: operator, namespace: HOME}
spec:
  selector: {matchLabels: {app: operator}}
  template:
    metadata: {labels: {app: operator}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: operator, image: IMAGE, args: [run, NS], env: [{name: CLUSTER, value: SIDE}]}]}
`))
		l.on(c, "apply", "-f", filepath.Join(l.dir, "operator.yaml"))
		l.on(c, "wait", "crd/databases.test.tranship.dev", "--for=condition=Established", kubePatience)
		l.on(c, "-n", home, "rollout", "status", "deployment/operator", kubePatience)
	}
	l.t.Cleanup(func() {
		for _, k := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
			_, _ = l.kubectl(k, "delete", "namespace/"+home, "clusterrole/"+home, "clusterrolebinding/"+home, "--ignore-not-found", "--wait=false")
			_, _ = l.kubectl(k, "-n", l.name, "delete", "databases.test.tranship.dev", "--all")
			if left, err := l.kubectl(k, "get", "databases.test.tranship.dev", "-A", "-o", "name"); err == nil && !strings.Contains(left, "database") {
				_, _ = l.kubectl(k, "delete", "crd", "databases.test.tranship.dev", "--ignore-not-found")
			}
		}
	})
}

// databaseApp is an application whose database belongs to an operator; more is what
// else its custom resource says.
func (l *lab) databaseApp(more string) string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"], "SERVICE", "orders", "MORE", more).Replace(`apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: test.tranship.dev/v1
kind: Database
metadata: {name: orders, namespace: NS, labels: {tier: data}, annotations: {note: "ours"}}
spec: {replicas: 2, image: "IMAGE", storageClassName: bed-node, labels: {team: shop}, MORE}
` + hookAccount + waiter)
}

const (
	stopsTheDatabase  = `patch, test.tranship.dev/v1/databases, orders, '{"spec":{"suspended":true}}', "0"`
	pausesTheOperator = `patch, test.tranship.dev/v1/databases, orders, '{"spec":{"paused":true}}', "2"`
	stopsNothing      = `patch, test.tranship.dev/v1/databases, orders, '{"metadata":{"annotations":{"note":"by the hook"}}}', "2"`
	startsTheDatabase = `patch, test.tranship.dev/v1/databases, orders, '{"spec":{"suspended":null,"paused":null}}', "2"`
	ofTheShop         = "labelSelector: {matchLabels: {team: shop}}\n"
	databaseHook      = `{hook: down, undo: up, phase: PreBackup, namespace: NS, serviceAccountName: hooks}`
)

// openDatabase begins with the application on the source, with a plan and a daemon;
// extra is YAML below the plan's spec.
func (l *lab) openDatabase(more, extra, stops, hooks string) (plan string) {
	l.t.Helper()
	l.operator()
	l.apply(l.databaseApp(more))
	l.created("statefulset", "")
	l.rolledOut("statefulset/orders")
	l.rolledOut("deployment/web")
	plan = "hooks: [" + strings.ReplaceAll(hooks, "NS", l.name) + "]\n" + extra
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, plan)
	files["hooks.yaml"] = l.hooks(map[string]string{"down": stops, "up": startsTheDatabase, "fails": "cannot"})
	l.commit("Plan the move", files)
	l.start()
	l.waitReason("Staged", time.Minute)
	return plan
}

// asWritten is what people say in the custom resource.
func (l *lab) asWritten(c *shared.Cluster) string {
	l.t.Helper()
	return l.on(c, "-n", l.name, "get", "databases.test.tranship.dev", "orders", "-o", "jsonpath={.spec} {.metadata.labels.tier} {.metadata.annotations.note}")
}

// databaseRuns fails unless the custom resource is as written, its pods and those
// that need them are ready, and the data was born on the source.
func (l *lab) databaseRuns(c *shared.Cluster, written string) {
	l.t.Helper()
	if got := l.asWritten(c); got != written {
		l.t.Errorf("the custom resource says %s, want %s", got, written)
	}
	for what, want := range map[string]string{"statefulset/orders": "2", "deployment/web": "2"} {
		if got := l.on(c, "-n", l.name, "get", what, "-o", "jsonpath={.status.readyReplicas}"); got != want {
			l.t.Errorf("%s has %q ready replicas, want %s", what, got, want)
		}
	}
	l.bornOnTheSource(c)
}

// bornOnTheSource fails unless both pods have the data of the source's.
func (l *lab) bornOnTheSource(c *shared.Cluster) {
	l.t.Helper()
	for _, pod := range []string{"orders-0", "orders-1"} {
		if got := strings.TrimSpace(l.on(c, "-n", l.name, "exec", pod, "--", "cat", "/data/born")); got != pod+" on source" {
			l.t.Errorf("%s says it was born as %q", pod, got)
		}
	}
}

// noDatabaseOnTarget waits until nothing of the database is on the target any more.
func (l *lab) noDatabaseOnTarget() {
	l.t.Helper()
	l.gone("the database on the target", l.bed.Target.Kubeconfig, "-n", l.name, "get", "databases.test.tranship.dev,statefulset,deployment,pod")
}

// TestAnOperatorThatIsPaused: what it made belongs to nobody, as old operators do
// it, so that Tranship stops it; a hook keeps the operator from starting it again,
// and its undo lets it go on. The daemon loses everything while the hook is undone.
func TestAnOperatorThatIsPaused(t *testing.T) {
	long(t)
	l := newLab(t)
	plan := l.openDatabase(`orphans: true`, ofTheShop, pausesTheOperator, databaseHook)
	written := l.asWritten(&l.bed.Source)
	l.flip(spec.Migrated, plan)
	s := l.waitReason("Migrated", 5*time.Minute)
	l.logTimes(s.Run)
	l.bornOnTheSource(&l.bed.Target)
	if got := l.onSource("-n", l.name, "get", "pods", "-l", "database=orders", "-o", "name"); got != "" {
		t.Errorf("on the source runs %s", got)
	}
	l.flip(spec.RolledBack, plan+"rollback: {targetWrites: Discard}")
	l.killedInAnUndo()
	s = l.waitReason("RolledBack", 5*time.Minute)
	l.databaseRuns(&l.bed.Source, written)
	l.noJobsOfHooks()
	if !slices.ContainsFunc(s.Run.Facts.Times, func(n spec.NamedTime) bool { return n.Name == "undone down of spec.hooks[0]" }) {
		t.Errorf("the record does not say that the hook was undone: %+v", s.Run.Facts.Times)
	}
}
