package spec

import "strings"

const testCert = `-----BEGIN CERTIFICATE-----
MIIBdDCCARmgAwIBAgIBATAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDEwR0ZXN0MB4X
-----END CERTIFICATE-----
`

type ruleCase struct {
	kind, name string
	path, say  string
	sets       []string
}

func set1(kind, path, value, at, say string) ruleCase {
	return ruleCase{kind: kind, name: path + "=" + value, path: at, say: say, sets: []string{path, value}}
}

var ruleCases = append(append(clusterCases, planCases...), configCases...)

var clusterCases = []ruleCase{
	set1(KindCluster, "metadata.name", "old cluster", "metadata.name", "lower-case letters"), // F-106
	set1(KindCluster, "metadata.name", "Old", "metadata.name", "lower-case letters"),
	set1(KindCluster, "metadata.name", "-old", "metadata.name", "lower-case letters"),
	set1(KindCluster, "metadata.name", "älter", "metadata.name", "lower-case letters"),
	set1(KindCluster, "metadata.name", strings.Repeat("a", 64), "metadata.name", "at most 63"),
	set1(KindCluster, "metadata.name", "''", "metadata.name", "name is missing"),
	set1(KindCluster, "spec.server", "-", "spec", "has 0 of them"),
	set1(KindCluster, "spec", "{inCluster: true, insecureSkipTLSVerify: true}", "spec.insecureSkipTLSVerify", "goes with server only"),
	set1(KindCluster, "spec", "{kubeconfig: {from: k}, token: {from: t}}", "spec.token", "goes with server only"),
	set1(KindCluster, "spec.inCluster", "true", "spec", "exactly one of server"),
	set1(KindCluster, "spec.kubeconfig", "{from: k}", "spec", "exactly one of server"),
	set1(KindCluster, "spec.server", "http://api.example.com", "spec.server", "must start with https://"),
	set1(KindCluster, "spec.server", "api.example.com:6443", "spec.server", "must be a URL"),
	set1(KindCluster, "spec.server", "https://", "spec.server", "must be a URL"),
	set1(KindCluster, "spec.server", "https://x?token=1", "spec.server", "must end before '?'"),
	set1(KindCluster, "spec.token", "-", "spec.token", "token is missing"),
	set1(KindCluster, "spec.token", "{from: ../etc}", "spec.token.from", "from must be"),
	set1(KindCluster, "spec.token", "{from: x, key: ..}", "spec.token.key", "key must be"),
	set1(KindCluster, "spec.token", "{from: x, key: a/b}", "spec.token.key", "key must be"),
	set1(KindCluster, "spec.token", "{key: x}", "spec.token.from", "from is missing"),
	set1(KindCluster, "spec.caBundle", "LS0tLS1CRUdJTg==", "spec.caBundle", "base64 -d"), // F-123
	set1(KindCluster, "spec.caBundle", `"-----BEGIN NONSENSE"`, "spec.caBundle", "not PEM text"),
	set1(KindCluster, "spec.caBundle", `"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"`, "spec.caBundle", "private key never belongs into Git"),
	{KindCluster, "broken certificate", "spec.caBundle", "certificate 1 cannot be read", []string{"spec.caBundle", "|\n  " + strings.ReplaceAll(testCert, "\n", "\n  ")}},
	set1(KindCluster, "spec.registry", "https://registry.example.com", "spec.registry", "without https://"),
	set1(KindCluster, "spec.veleroNamespace", "Velero", "spec.veleroNamespace", "veleroNamespace must be"),
	set1(KindCluster, "spec.tokne", "{from: x}", "spec.tokne", `did you mean "token"?`),
	set1(KindCluster, "spec.inCluster", "yes please", "spec.inCluster", "must be true or false"),

	set1(KindReplicationRepository, "spec.provider", "s3", "spec.provider", "write aws, gcp or azure"),
	set1(KindReplicationRepository, "spec.provider", "-", "spec.provider", "provider is missing"),
	set1(KindReplicationRepository, "spec.bucket", "s3://migrations", "spec.bucket", "without s3://"),
	set1(KindReplicationRepository, "spec.bucket", "-", "spec.bucket", "bucket is missing"),
	set1(KindReplicationRepository, "spec.prefix", "/tranship", "spec.prefix", "no '/' at its ends"),
	set1(KindReplicationRepository, "spec.prefix", "a/../b", "spec.prefix", "prefix must be"),
	set1(KindReplicationRepository, "spec.region", "-", "spec.region", "F-117"),
	set1(KindReplicationRepository, "spec.region", "eu central", "spec.region", "region must be"),
	set1(KindReplicationRepository, "spec.endpoint", "http://s3.example.com", "spec.endpoint", "must start with https://"), // F-118
	set1(KindReplicationRepository, "spec.endpoint", "https://s3.example.com/bucket", "spec.endpoint", "not of the bucket"),
	set1(KindReplicationRepository, "spec.credentials", "-", "spec.credentials", "accessKey and secretKey"),
	set1(KindReplicationRepository, "spec.encryption", "-", "spec.encryption", "always encrypted"),
	set1(KindReplicationRepository, "spec.encryption", "{from: ''}", "spec.encryption.from", "from is missing"),
	set1(KindReplicationRepository, "spec.azureStorageAccount", "acc", "spec.azureStorageAccount", "does not belong to provider aws"),
	{KindReplicationRepository, "azure without account", "spec.azureStorageAccount", "F-125", []string{"spec.provider", "azure", "spec.region", "-", "spec.azureResourceGroup", "rg"}},
	{KindReplicationRepository, "gcp with endpoint", "spec.endpoint", "does not belong to provider gcp", []string{"spec.provider", "gcp", "spec.endpoint", "https://x"}},

	set1(KindHook, "spec.playbook", "hooks/x.yml", "spec.command", "exclude each other"),
	set1(KindHook, "spec.command", "-", "spec", "something to run"),
	set1(KindHook, "spec.image", "-", "spec.image", "image that holds the command"),
	set1(KindHook, "spec.image", "quay.io/team/hook: latest", "spec.image", "image must be"),
	set1(KindHook, "spec", "{playbook: ../x.yml}", "spec.playbook", "without '..'"),
	set1(KindHook, "spec", "{playbook: hooks/x.sh}", "spec.playbook", ".yml or .yaml"),
	set1(KindHook, "spec", "{playbook: x.yml, args: [a]}", "spec.args", "args go with command"),
	set1(KindHook, "spec.backoffLimit", "-1", "spec.backoffLimit", "F-079"),
	set1(KindHook, "spec.backoffLimit", "3000000000", "spec.backoffLimit", "whole number"),
	set1(KindHook, "spec.activeDeadline", "-5m", "spec.activeDeadline", "longer than zero"),
	set1(KindHook, "spec.activeDeadline", "'5'", "spec.activeDeadline", "a duration such as"),
}

var planCases = []ruleCase{
	set1(KindMigrationPlan, "metadata.name", "my_shop", "metadata.name", "lower-case letters"), // F-136
	set1(KindMigrationPlan, "metadata.name", "a..b", "metadata.name", "lower-case letters"),
	set1(KindMigrationPlan, "metadata.name", strings.Repeat("a", 254), "metadata.name", "at most 253"),
	set1(KindMigrationPlan, "spec.state", "-", "spec.state", "a new plan starts as Staged"),
	set1(KindMigrationPlan, "spec.state", "staged", "spec.state", `did you mean "Staged"?`),
	set1(KindMigrationPlan, "spec.suspend", "{until: '2026-01-01T00:00:00Z'}", "spec.suspend.reason", "people who will wonder"),
	set1(KindMigrationPlan, "spec.suspend", "{reason: x, until: tomorrow}", "spec.suspend.until", "a time such as"),
	set1(KindMigrationPlan, "spec.targetCluster", "old", "spec.targetCluster", "both"),
	set1(KindMigrationPlan, "spec.sourceCluster", "-", "spec.sourceCluster", "sourceCluster is missing"),
	set1(KindMigrationPlan, "spec.replicationRepository", "-", "spec.replicationRepository", "F-023"),
	set1(KindMigrationPlan, "spec.namespaces", "[]", "spec.namespaces", "at least one"),
	set1(KindMigrationPlan, "spec.namespaces[0]", "{name: kube-system}", "spec.namespaces[0].name", "belongs to the cluster itself"),
	set1(KindMigrationPlan, "spec.namespaces[0]", "{name: openshift}", "spec.namespaces[0].name", "belongs to the cluster itself"),
	set1(KindMigrationPlan, "spec.namespaces[0]", "{name: a, targetName: velero}", "spec.namespaces[0].targetName", "belongs to the cluster itself"),
	set1(KindMigrationPlan, "spec.namespaces[0]", "{name: tranship-system}", "spec.namespaces[0].name", "belongs to the cluster itself"),
	set1(KindMigrationPlan, "spec.namespaces[0]", "{name: shop-db}", "spec.namespaces[1].name", "already namespaces[0]"),
	set1(KindMigrationPlan, "spec.namespaces[0]", "{name: shop-data}", "spec.namespaces[1].targetName", "two namespaces cannot become one"),
	set1(KindMigrationPlan, "spec.namespaces[0]", "{name: "+strings.Repeat("n", 64)+"}", "spec.namespaces[0].name", "at most 63"),
	set1(KindMigrationPlan, "spec.labelSelector", "{matchExpressions: [{key: a, operator: Is}]}", "spec.labelSelector", "cannot be understood"),

	set1(KindMigrationPlan, "spec.volumes", "{defaults: {action: clone}}", "spec.volumes.defaults.action", "write copy, move or skip"),
	set1(KindMigrationPlan, "spec.volumes", "{defaults: {method: filesytem}}", "spec.volumes.defaults.method", `did you mean "filesystem"?`),
	set1(KindMigrationPlan, "spec.volumes", "{defaults: {verify: true, method: snapshot}}", "spec.volumes.defaults.verify", "F-061"),
	set1(KindMigrationPlan, "spec.volumes", "{defaults: {transfer: rsync}}", "spec.volumes.defaults.transfer", "Repository or Direct"),
	set1(KindMigrationPlan, "spec.volumes", "{overrides: [{namespace: shpo, claim: a}]}", "spec.volumes.overrides[0].namespace", `did you mean "shop"?`),
	set1(KindMigrationPlan, "spec.volumes", "{overrides: [{namespace: shop}]}", "spec.volumes.overrides[0].claim", "claim is missing"),
	set1(KindMigrationPlan, "spec.volumes", "{overrides: [{namespace: shop, claim: a}, {namespace: shop, claim: a}]}", "spec.volumes.overrides[1]", "overrides[0]"),
	set1(KindMigrationPlan, "spec.volumes", "{overrides: [{namespace: shop, claim: a, targetClaim: c}, {namespace: shop, claim: b, targetClaim: c}]}", "spec.volumes.overrides[1].targetClaim", "two claims cannot become one"),
	set1(KindMigrationPlan, "spec.volumes", "{overrides: [{namespace: shop, claim: a, accessMode: RWO}]}", "spec.volumes.overrides[0].accessMode", "ReadWriteOnce"),
	set1(KindMigrationPlan, "spec.volumes", "{overrides: [{namespace: shop, claim: a, action: skip, storageClassName: x}]}", "spec.volumes.overrides[0].storageClassName", "action copy only"),
	set1(KindMigrationPlan, "spec.volumes", "{defaults: {action: move, verify: true}}", "spec.volumes.defaults.verify", "action move for every claim"),
	set1(KindMigrationPlan, "spec.volumes", "{defaults: {method: snapshot}, overrides: [{namespace: shop, claim: a, verify: true}]}", "spec.volumes.overrides[0].verify", "F-061"),

	set1(KindMigrationPlan, "spec.hooks", "[{hook: x, phase: BeforeBackup, namespace: ns}]", "spec.hooks[0].phase", "is not known"),
	set1(KindMigrationPlan, "spec.hooks", "[{hook: x, phase: PreBackup}]", "spec.hooks[0].namespace", "namespace is missing"),
	set1(KindMigrationPlan, "spec.hooks", "[{hook: x, phase: PreBackup, namespace: kube-system}]", "spec.hooks[0].namespace", "hooks do not run in"),
	set1(KindMigrationPlan, "spec.hooks", "[{hook: x, phase: PreBackup, namespace: ns}, {hook: y, phase: PreBackup, namespace: ns}]", "spec.hooks[1].phase", "F-074"),
	set1(KindMigrationPlan, "spec.hooks", "[{hook: x, phase: PreBackup, namespace: ns, runs: [Stage, Cutover]}, {hook: y, phase: PreBackup, namespace: ns, runs: [Stage]}]", "spec.hooks[1].phase", "stage runs"),
	set1(KindMigrationPlan, "spec.hooks", "[{hook: x, phase: PreRestore, namespace: ns, runs: [Stage]}]", "spec.hooks[0].runs", "restores no objects"),
	set1(KindMigrationPlan, "spec.hooks", "[{hook: x, phase: PreBackup, namespace: ns, runs: [Cutover, Cutover]}]", "spec.hooks[0].runs[1]", "written twice"),
	set1(KindMigrationPlan, "spec.hooks", "[{hook: x, phase: PreBackup, namespace: ns, cluster: destination}]", "spec.hooks[0].cluster", "source or target"),

	set1(KindMigrationPlan, "spec.stage", "{schedule: '@daily'}", "spec.stage.schedule", "five fields"),
	set1(KindMigrationPlan, "spec.stage", "{schedule: '0 0 30 2 *'}", "spec.stage.schedule", "never fires"),
	set1(KindMigrationPlan, "spec.stage", "{schedule: '0 1 * * *', timeZone: Local}", "spec.stage.timeZone", "IANA"),
	set1(KindMigrationPlan, "spec.stage", "{timeZone: Europe/Berlin}", "spec.stage.timeZone", "no effect"),
	set1(KindMigrationPlan, "spec.stage", "{startingDeadline: 1h}", "spec.stage.startingDeadline", "no effect"),
	set1(KindMigrationPlan, "spec.stage", "{schedule: '0 1 * * *', startingDeadline: 0s}", "spec.stage.startingDeadline", "longer than zero"),

	set1(KindMigrationPlan, "spec.windows", "[{kind: Allow}]", "spec.windows[0]", "needs schedule and duration"),
	set1(KindMigrationPlan, "spec.windows", "[{kind: Allow, schedule: '0 1 * * *'}]", "spec.windows[0].duration", "how long"),
	set1(KindMigrationPlan, "spec.windows", "[{kind: Allow, duration: 1h}]", "spec.windows[0].schedule", "when the window opens"),
	set1(KindMigrationPlan, "spec.windows", "[{schedule: '0 1 * * *', duration: 1h}]", "spec.windows[0].kind", "Allow or Deny"),
	set1(KindMigrationPlan, "spec.windows", "[{kind: Deny, from: '2026-01-02T00:00:00Z', to: '2026-01-01T00:00:00Z'}]", "spec.windows[0].to", "later than from"),
	set1(KindMigrationPlan, "spec.windows", "[{kind: Deny, from: '2026-01-02T00:00:00Z'}]", "spec.windows[0]", "both from and to"),
	set1(KindMigrationPlan, "spec.windows", "[{kind: Deny, from: '2026-01-02T00:00:00Z', to: '2026-01-03T00:00:00Z', duration: 1h}]", "spec.windows[0]", "write two windows"),
	set1(KindMigrationPlan, "spec.windows", "[{kind: Deny, from: '2026-01-02T00:00:00Z', to: '2026-01-03T00:00:00Z', timeZone: UTC}]", "spec.windows[0].timeZone", "no effect"),
	set1(KindMigrationPlan, "spec.windows", "[{kind: Deny, schedule: '0 1 * * *', duration: 1h, applies: [Stage, Stage]}]", "spec.windows[0].applies[1]", "written twice"),

	set1(KindMigrationPlan, "spec.cutover", "{notBefore: '2026-01-02T00:00:00Z', notAfter: '2026-01-02T00:00:00Z'}", "spec.cutover.notAfter", "no cutover could ever start"),
	set1(KindMigrationPlan, "spec.cutover", "{onFailure: Retry}", "spec.cutover.onFailure", "RollBack or Stop"),
	set1(KindMigrationPlan, "spec.cutover", "{onWindowClose: Pause}", "spec.cutover.onWindowClose", "Finish"),
	set1(KindMigrationPlan, "spec.cutover", "{attempt: -2}", "spec.cutover.attempt", "1 or more"),
	set1(KindMigrationPlan, "spec.cutover", "{attempt: two}", "spec.cutover.attempt", "whole number"),
	set1(KindMigrationPlan, "spec.cutover", "{gitOutage: 0s}", "spec.cutover.gitOutage", "longer than zero"),
	set1(KindMigrationPlan, "spec.rollback", "{targetWrites: Keep}", "spec.rollback.targetWrites", "Discard or CopyBack"),
	set1(KindMigrationPlan, "spec.existing", "Overwrite", "spec.existing", "Fail, Skip or Update"),
	set1(KindMigrationPlan, "spec.dependsOn", "[shop]", "spec.dependsOn[0]", "depends on itself"),
	set1(KindMigrationPlan, "spec.dependsOn", "[a, a]", "spec.dependsOn[1]", "already in"),
	set1(KindMigrationPlan, "spec.dependsOn", "['']", "spec.dependsOn[0]", "is missing"),
}

var configCases = []ruleCase{
	set1(KindDaemonConfig, "spec.source.url", "-", "spec.source.url", "url is missing"),
	set1(KindDaemonConfig, "spec.source.url", "git.example.com:plans", "spec.source.url", "must start with https://"),
	set1(KindDaemonConfig, "spec.source.url", "ssh://git:password@git.example.com/x", "spec.source.url", "must start with https://"),
	set1(KindDaemonConfig, "spec.source.url", "git@git.example.com:-x", "spec.source.url", "cannot be understood"),
	set1(KindDaemonConfig, "spec.source.url", "git@git.example.com:x", "spec.source.credentials", "identity and known_hosts"),
	{KindDaemonConfig, "proxy over ssh", "spec.source.proxy", "https:// only", []string{"spec.source.url", "git@x:y", "spec.source.credentials", "{from: git}", "spec.source.proxy", "{from: p}"}},
	{KindDaemonConfig, "one repository, two spellings", "spec.ledger.branch", "people merge to", []string{"spec.source.url", "git@x:y.git", "spec.source.credentials", "{from: git}", "spec.ledger", "{url: 'ssh://git@X/y', credentials: {from: git}, branch: main}"}},
	set1(KindDaemonConfig, "spec.source.proxy", "{from: proxy, key: address}", "spec.source.proxy.key", "remove key"),
	set1(KindDaemonConfig, "spec.source.url", "https:///plans", "spec.source.url", "no host"),
	set1(KindDaemonConfig, "spec.source.url", "https://me@git.example.com/x", "spec.source.url", "must not hold a user"),
	{KindDaemonConfig, "credentials over http", "spec.source.credentials", "never go over http://", []string{"spec.source.url", "http://x/y", "spec.source.credentials", "{from: git}"}},
	set1(KindDaemonConfig, "spec.source.branch", "../main", "spec.source.branch", "short name of a branch"),
	set1(KindDaemonConfig, "spec.source.path", "./plans", "spec.source.path", "folder of the repository"),
	set1(KindDaemonConfig, "spec.source.path", "a/../b", "spec.source.path", "folder of the repository"),
	set1(KindDaemonConfig, "spec.source.branch", "tranship/ledger", "spec.ledger.branch", "people merge to"),
	set1(KindDaemonConfig, "spec.ledger.branch", "main", "spec.ledger.branch", "people merge to"),
	set1(KindDaemonConfig, "spec.ledger", "{url: 'https://GIT.example.com/plans/', branch: main}", "spec.ledger.branch", "people merge to"),
	set1(KindDaemonConfig, "spec.ledger.path", "x", "spec.ledger.path", "its own layout"),
	set1(KindDaemonConfig, "spec.ledger.authorEmail", "nobody", "spec.ledger.authorEmail", "e-mail"),
	set1(KindDaemonConfig, "spec.ledger.rotation", "Monthly", "spec.ledger.rotation", "Yearly"),
	set1(KindDaemonConfig, "spec.ledger.signingKey", "{}", "spec.ledger.signingKey.from", "name of a Secret"),
	set1(KindDaemonConfig, "spec.ledger.signingKey", "{from: sign, key: mine}", "spec.ledger.signingKey.key", "fixed names"),
	set1(KindDaemonConfig, "spec.ledger.signers", "[{owner: Bot, ssh: ssh-ed25519 AAAA}]", "spec.ledger.signers[0].name", "a name for the key"),
	set1(KindDaemonConfig, "spec.ledger.signers", "[{name: bot, owner: Bot}]", "spec.ledger.signers[0]", "either ssh or openPGP"),
	set1(KindDaemonConfig, "spec.ledger.authorName", `"a\nb"`, "spec.ledger.authorName", "line breaks"),
	set1(KindDaemonConfig, "spec.mover.image", "-", "spec.mover.image", "image is missing"),
	set1(KindDaemonConfig, "spec.mover.memory", "much", "spec.mover.memory", "quantity"),
	set1(KindDaemonConfig, "spec.mover.bytesPerSecond", "50 MB", "spec.mover.bytesPerSecond", "quantity"),
	set1(KindDaemonConfig, "spec.mover.kubeletRoot", "var/lib/kubelet", "spec.mover.kubeletRoot", "absolute path"),
	set1(KindDaemonConfig, "spec.interval", "1ms", "spec.interval", "1s or longer"),
	set1(KindDaemonConfig, "spec.interval", "0s", "spec.interval", "longer than zero"),
	set1(KindDaemonConfig, "spec.shard", "{name: east}", "spec.shard.paths", "the folders of the repository"),
	set1(KindDaemonConfig, "spec.shard", "{name: east-2026, paths: [east]}", "spec.shard.name", "must not end in a year"),
	set1(KindDaemonConfig, "spec.shard", "{paths: [east]}", "spec.shard.name", "no other shard"),
	set1(KindDaemonConfig, "spec.shard", "{name: east, paths: [/east/]}", "spec.shard.paths[0]", "a folder of the repository"),
	set1(KindDaemonConfig, "spec.concurrencyPerPair", "-1", "spec.concurrencyPerPair", "0 (the default) or more"),
	set1(KindDaemonConfig, "spec.concurrency", "-1", "spec.concurrency", "0 (the default) or more"),
	set1(KindDaemonConfig, "spec.limits", "{namespaces: -1}", "spec.limits.namespaces", "0 (the default) or more"),
	set1(KindDaemonConfig, "spec.limits", "{moversPerPlan: -1}", "spec.limits.moversPerPlan", "0 (the default) or more"),
	set1(KindDaemonConfig, "spec.namespace", "Tranship", "spec.namespace", "namespace must be"),
	set1(KindDaemonConfig, "spec.webhooks", "[{secret: {from: a}}]", "spec.webhooks[0].type", "type is missing"),
	set1(KindDaemonConfig, "spec.webhooks", "[{type: github, secret: {from: a}}]", "spec.webhooks[0].type", "GitHub"),
	set1(KindDaemonConfig, "spec.webhooks", "[{type: GitHub}]", "spec.webhooks[0].secret.from", "from is missing"),
	set1(KindDaemonConfig, "spec.limit", "{}", "spec.limit", `did you mean "limits"?`),
	set1(KindDaemonConfig, "apiVersion", "tranship.dev/v2", "", "newer than what this release reads"),
}
