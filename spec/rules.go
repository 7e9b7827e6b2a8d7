package spec

import "regexp"

// A nameRule says which text a field takes. say completes "x must be ...".
type nameRule struct {
	re  *regexp.Regexp
	max int
	say string
}

var (
	// label is what Kubernetes calls a DNS-1123 label.
	label = &nameRule{regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`), 63,
		"lower-case letters a-z, digits and '-', which neither starts nor ends with '-', at most 63 characters"}
	// subdomain is what Kubernetes calls a DNS-1123 subdomain.
	subdomain = &nameRule{regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`), 253,
		"lower-case letters a-z, digits, '-' and '.', which starts and ends with a letter or digit, at most 253 characters"}
	// secretKey is the key of an entry in a Secret, or a file name.
	secretKey = &nameRule{regexp.MustCompile(`^([-_a-zA-Z0-9]|\.[-_a-zA-Z0-9])[-._a-zA-Z0-9]*$`), 253,
		"letters, digits, '-', '_' and '.', at most 253 characters"}
	// bucketName is wider than the rule of AWS: other stores take more.
	bucketName = &nameRule{regexp.MustCompile(`^[A-Za-z0-9][-._A-Za-z0-9]+[A-Za-z0-9]$`), 253,
		"the bare name of a bucket, without s3:// and without a path (the path goes into prefix)"}
	objectPrefix = &nameRule{regexp.MustCompile(`^[-_A-Za-z0-9]+(\.[-_A-Za-z0-9]+)*(/[-_A-Za-z0-9]+(\.[-_A-Za-z0-9]+)*)*$`), 512,
		"a path such as team/tranship: letters, digits, '-', '_' and '.', no '/' at its ends"}
	region = &nameRule{regexp.MustCompile(`^[a-zA-Z0-9]+([-_][a-zA-Z0-9]+)*$`), 64,
		"the name of a region such as eu-central-1"}
	hostPort = &nameRule{regexp.MustCompile(`^[a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?(:[0-9]{1,5})?$`), 259,
		"a host with or without a port, such as registry.example.com:5000, without https:// and without a path"}
	imageName = &nameRule{regexp.MustCompile(`^[a-zA-Z0-9][-a-zA-Z0-9._:]*(/[-a-zA-Z0-9._]+)*(:[-a-zA-Z0-9._]+)?(@sha256:[0-9a-f]{64})?$`), 512,
		"an image such as quay.io/team/hook:1.4 or quay.io/team/hook@sha256:..."}
	playbookPath = &nameRule{regexp.MustCompile(`^[-_a-zA-Z0-9]+(\.[-_a-zA-Z0-9]+)*(/[-_a-zA-Z0-9]+(\.[-_a-zA-Z0-9]+)*)*\.ya?ml$`), 512,
		"the path of a .yml or .yaml file in this repository, from its root, without '..'"}
)

// rule is what holds for one field whatever the others say.
type rule struct {
	need string // set: the field is required, and this says what to write
	name *nameRule
	enum []string
}

var (
	actions     = []string{"copy", "move", "skip"}
	methods     = []string{"filesystem", "snapshot"}
	verifyError = []string{"Fail", "Warn"}
	transfers   = []string{"Repository", "Direct"}
	accessModes = []string{"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"}
	hookRuns    = []string{"Cutover", "Stage"}
)

// rules holds every rule about a single field, by kind and pattern. What a
// table cannot say is in validate_*.go. The schema is made from it too.
var rules = map[string]map[string]rule{
	KindCluster: {
		"metadata.name":           {need: "the name that plans use for this cluster", name: label}, // F-106
		"spec.token.from":         {need: "the name of a Secret in the daemon's namespace", name: subdomain},
		"spec.token.key":          {name: secretKey},
		"spec.kubeconfig.from":    {need: "the name of a Secret in the daemon's namespace", name: subdomain},
		"spec.kubeconfig.key":     {name: secretKey},
		"spec.registry":           {name: hostPort},
		"spec.veleroNamespace":    {name: label},
		"spec.azureResourceGroup": {},
	},
	KindReplicationRepository: {
		"metadata.name":         {need: "the name that plans use for this repository", name: label},
		"spec.provider":         {need: "aws, gcp or azure (aws is every S3)", enum: []string{"aws", "gcp", "azure"}}, // F-114
		"spec.bucket":           {need: "the name of a bucket that exists; it is not created (F-026)", name: bucketName},
		"spec.prefix":           {name: objectPrefix},
		"spec.region":           {name: region},
		"spec.credentials":      {need: "{from: NAME}, a Secret in the daemon's namespace with accessKey and secretKey (aws) or cloud (gcp, azure)"},
		"spec.credentials.from": {need: "the name of a Secret in the daemon's namespace", name: subdomain},
		"spec.credentials.key":  {name: secretKey},
		"spec.encryption":       {need: "{from: NAME, key: password}, a Secret in the daemon's namespace; volume data is always encrypted and there is no default password"},
		"spec.encryption.from":  {need: "the name of a Secret in the daemon's namespace", name: subdomain},
		"spec.encryption.key":   {name: secretKey},
	},
	KindHook: {
		"metadata.name": {need: "the name that plans use for this hook", name: label},
		"spec.image":    {name: imageName},
		"spec.playbook": {name: playbookPath},
	},
	KindMigrationPlan: planRules,
	KindDaemonConfig:  configRules,
}

var planRules = map[string]rule{
	"metadata.name":              {need: "the name of this plan", name: subdomain}, // F-136
	"spec.state":                 {need: "Staged, Migrated, RolledBack or Closed; a new plan starts as Staged", enum: []string{"Staged", "Migrated", "RolledBack", "Closed"}},
	"spec.suspend.reason":        {need: "why the plan is suspended, for the people who will wonder"},
	"spec.sourceCluster":         {need: "the name of a Cluster", name: label},
	"spec.targetCluster":         {need: "the name of a Cluster", name: label},
	"spec.replicationRepository": {need: "the name of a ReplicationRepository; the migration needs one even when volumes are moved (F-023)", name: label},
	"spec.namespaces":            {need: "at least one, such as [{name: shop}]"},
	"spec.namespaces[].name":     {need: "the namespace on the source cluster", name: label},
	"spec.namespaces[].targetName": {
		name: label},
	"spec.volumes.defaults.action":              {enum: actions},
	"spec.volumes.defaults.method":              {enum: methods},
	"spec.volumes.defaults.onVerifyError":       {enum: verifyError},
	"spec.volumes.defaults.transfer":            {enum: transfers},
	"spec.volumes.overrides[].namespace":        {need: "the claim's namespace on the source cluster", name: label},
	"spec.volumes.overrides[].claim":            {need: "the name of a PersistentVolumeClaim on the source cluster", name: subdomain},
	"spec.volumes.overrides[].action":           {enum: actions},
	"spec.volumes.overrides[].method":           {enum: methods},
	"spec.volumes.overrides[].onVerifyError":    {enum: verifyError},
	"spec.volumes.overrides[].transfer":         {enum: transfers},
	"spec.volumes.overrides[].storageClassName": {name: subdomain},
	"spec.volumes.overrides[].accessMode":       {enum: accessModes},
	"spec.volumes.overrides[].targetClaim":      {name: subdomain},
	"spec.hooks[].hook":                         {need: "the name of a Hook", name: label},
	"spec.hooks[].phase":                        {need: "PreBackup, PostBackup, PreRestore or PostRestore", enum: []string{"PreBackup", "PostBackup", "PreRestore", "PostRestore"}},
	"spec.hooks[].cluster":                      {enum: []string{"source", "target"}},
	"spec.hooks[].namespace":                    {need: "the namespace in which the hook's Job runs", name: label},
	"spec.hooks[].serviceAccountName":           {name: subdomain},
	"spec.hooks[].runs[]":                       {enum: hookRuns},
	"spec.hooks[].undo":                         {name: label},
	"spec.windows[].kind":                       {need: "Allow or Deny", enum: []string{"Allow", "Deny"}},
	"spec.windows[].applies[]":                  {enum: []string{"Stage", "Cutover"}},
	"spec.cutover.onFailure":                    {enum: []string{"RollBack", "Stop"}},
	"spec.cutover.onWindowClose":                {enum: []string{"Finish", "PauseAtSafePoint", "Cancel"}},
	"spec.rollback.targetWrites":                {enum: []string{"Discard", "CopyBack"}},
	"spec.existing":                             {enum: []string{"Fail", "Skip", "Update"}},
	"spec.dependsOn[]":                          {need: "the name of another MigrationPlan", name: subdomain},
}
