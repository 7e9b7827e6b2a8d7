package spec

import (
	"strings"
	"testing"
)

// Each row breaks one rule of a whole document and must give exactly one
// problem, at that path, with that text in its sentence.
func TestEachRuleIsSaidOnceAtItsField(t *testing.T) {
	for _, tc := range ruleCases {
		t.Run(tc.kind+"/"+tc.name, func(t *testing.T) {
			ps := problemsOf(with(t, baseYAML[tc.kind], tc.sets...))
			if len(ps) != 1 {
				t.Fatalf("want one problem at %s, got:\n%s", tc.path, lines(ps))
			}
			if ps[0].Path != tc.path || !strings.Contains(ps[0].Message, tc.say) {
				t.Errorf("want %s: ...%s..., got %s", tc.path, tc.say, ps[0])
			}
			if ps[0].Line < 1 || ps[0].File != "test.yaml" {
				t.Errorf("no place: %+v", ps[0])
			}
		})
	}
}

// Each row is right, however odd it looks.
func TestRightDocumentsHaveNoProblem(t *testing.T) {
	for kind, text := range baseYAML {
		if ps := problemsOf(text); len(ps) > 0 {
			t.Errorf("base %s: %v", kind, ps)
		}
	}
	for _, tc := range rightCases {
		if ps := problemsOf(with(t, baseYAML[tc.kind], tc.sets...)); len(ps) > 0 {
			t.Errorf("%s %v:\n%s", tc.kind, tc.sets, lines(ps))
		}
	}
}

var rightCases = []struct {
	kind string
	sets []string
}{
	{KindCluster, []string{"spec", "{inCluster: true}"}},
	{KindCluster, []string{"spec", "{kubeconfig: {from: kube}, veleroNamespace: velero-2, registry: 'registry.example.com:5000', azureResourceGroup: rg}"}},
	{KindCluster, []string{"spec.insecureSkipTLSVerify", "true", "spec.server", "https://rancher.example.com/k8s/clusters/c-m-1"}},
	{KindCluster, []string{"metadata.name", "a"}},
	{KindReplicationRepository, []string{"spec.region", "-", "spec.endpoint", "https://10.0.0.1:9000/"}},
	{KindReplicationRepository, []string{"spec.bucket", "'2026'", "spec.prefix", "team/tranship.d"}},
	{KindReplicationRepository, []string{"spec.provider", "gcp", "spec.region", "-"}},
	{KindReplicationRepository, []string{"spec.provider", "azure", "spec.region", "-", "spec.azureStorageAccount", "acc", "spec.azureResourceGroup", "rg"}},
	{KindHook, []string{"spec", "{playbook: hooks/freeze.yml}"}},
	{KindHook, []string{"spec.args", `["--prefix", ""]`, "spec.backoffLimit", "0", "spec.activeDeadline", "90s"}},
	{KindMigrationPlan, []string{"metadata.name", "shop-2.eu"}},
	{KindMigrationPlan, []string{"spec.namespaces", "[{name: default}, {name: openshiftapps}, {name: kubeflow}]"}},
	{KindMigrationPlan, []string{"spec.namespaces", "[{name: a, targetName: b}, {name: b, targetName: a}]"}},
	{KindMigrationPlan, []string{"spec.hooks", "[{hook: x, phase: PreBackup, namespace: ns}, {hook: x, phase: PreBackup, namespace: ns, runs: [Stage]}, {hook: x, phase: PostRestore, namespace: ns, cluster: source}]"}},
	{KindMigrationPlan, []string{"spec.hooks", "[{hook: x, undo: thaw, phase: PreBackup, namespace: ns, cluster: source, runs: [Cutover]}, {hook: x, phase: PreBackup, namespace: ns, runs: [Stage]}]"}},
	{KindMigrationPlan, []string{"spec.windows", "[{kind: Allow, schedule: '0 22 * * 5', duration: 6h, timeZone: Europe/Berlin, applies: [Cutover]}, {kind: Deny, from: '2026-12-24T00:00:00Z', to: '2026-12-27T00:00:00Z'}]"}},
	{KindMigrationPlan, []string{"spec.stage", "{schedule: '0 1 * * *', timeZone: Europe/Berlin, startingDeadline: 1h, requestedAt: '2026-12-01T10:00:00+01:00'}"}},
	{KindMigrationPlan, []string{"spec.labelSelector", "{matchExpressions: [{key: app, operator: In, values: [a]}], matchLabels: {app.kubernetes.io/name: x}}"}},
	{KindMigrationPlan, []string{"spec.volumes", "{defaults: {action: move, method: filesystem}, overrides: [{namespace: shop, claim: a, action: copy}]}"}},
	{KindMigrationPlan, []string{"spec.volumes", "{defaults: {action: skip}, overrides: [{namespace: shop, claim: a, action: copy, storageClassName: ceph, targetClaim: b}]}"}},
	{KindDaemonConfig, []string{"spec.source.url", "http://localhost/plans.git"}},
	{KindDaemonConfig, []string{"spec.source.url", "git@example.com:team/plans.git", "spec.source.credentials", "{from: git, key: deploy}"}},
	{KindDaemonConfig, []string{"spec.source.proxy", "{from: proxy}"}},
	{KindDaemonConfig, []string{"spec.source.tag", "v1.2.3+build"}},
	{KindDaemonConfig, []string{"spec.source.semver", "'>=1.2.0 <2.0.0 || ~3.1'"}},
	{KindDaemonConfig, []string{"spec.source.ref", "refs/pull/7/head"}},
	{KindDaemonConfig, []string{"spec.source.url", "/srv/plans.git", "spec.ledger.url", "file:///srv/ledger.git", "spec.ledger.branch", "main"}},
	{KindDaemonConfig, []string{"spec.source.url", "ssh://git@example.com/plans.git", "spec.source.credentials", "{from: git}", "spec.source.branch", "release/1.2", "spec.source.path", "eu/prod"}},
	{KindDaemonConfig, []string{"metadata", "{name: x}", "spec.limits", "{namespaces: 50}"}},
}

func TestEveryProblemOfADocumentIsSaidAtOnce(t *testing.T) {
	ps := problemsOf(with(t, planYAML, "metadata.name", "Shop_1", "spec.state", "Migrate", "spec.targetCluster", "old",
		"spec.namespaces", "[{name: kube-system}, {name: UPPER}]", "spec.cutover", "{attempt: -1, timeout: 0s, tiemout: 1h}",
		"spec.stage", "{schedule: nightly, timeZone: Mars/Olympus}", "spec.suspend", "{}"))
	paths := map[string]bool{}
	for _, p := range ps {
		paths[p.Path] = true
		if p.Document != "MigrationPlan/Shop_1" {
			t.Errorf("%v belongs to %q", p, p.Document)
		}
	}
	for _, want := range []string{"metadata.name", "spec.state", "spec.targetCluster", "spec.namespaces[0].name", "spec.namespaces[1].name",
		"spec.cutover.attempt", "spec.cutover.timeout", "spec.cutover.tiemout", "spec.stage.schedule", "spec.stage.timeZone", "spec.suspend.reason"} {
		if !paths[want] {
			t.Errorf("nothing said about %s:\n%s", want, lines(ps))
		}
	}
}

// What cannot be decoded is not reported as missing on top.
func TestABrokenFieldIsSaidOnce(t *testing.T) {
	for path, value := range map[string]string{"spec.state": "[Staged]", "spec.namespaces": "shop", "spec.namespaces[0]": "shop", "spec": "[]", "metadata": "shop", "spec.cutover.timeout": "5"} {
		if ps := problemsOf(with(t, planYAML, path, value)); len(ps) != 1 || ps[0].Path != path {
			t.Errorf("%s: %s:\n%s", path, value, lines(ps))
		}
	}
}

// Sentences may land in logs and in Git: a password in a URL must not.
func TestSentencesHoldNoPassword(t *testing.T) {
	for _, url := range []string{"https://me:hunter2@git.example.com/x", "http://me:hunter2@git.example.com/x", "ftp://me:hunter2@x/y", "https://me:hunter2@%zz", "ssh://me:hunter2@host/x"} {
		for _, text := range []string{
			with(t, configYAML, "spec.source.url", url), with(t, clusterYAML, "spec.server", url),
			with(t, repositoryYAML, "spec.endpoint", url), with(t, configYAML, "spec.ledger.url", url),
		} {
			ps := problemsOf(text)
			if len(ps) == 0 || strings.Contains(lines(ps), "hunter2") {
				t.Errorf("%s: %s", url, lines(ps))
			}
		}
	}
}
