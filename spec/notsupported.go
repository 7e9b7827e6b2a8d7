package spec

import (
	"fmt"
	"reflect"
	"slices"
)

// support says what this release does with a field. The zero value is: it does
// what the field says.
type support struct {
	// not is true for values that this release does not act on; nil: none.
	not func(l leaf) bool
	// say completes the sentence "... is not supported yet: ".
	say string
}

var full = support{}

// set refuses every value but the zero one.
func set(say string) support {
	return support{not: func(l leaf) bool { return !l.Value.IsZero() && (l.Value.Kind() != reflect.Slice || l.Value.Len() > 0) }, say: say}
}

// otherThan refuses every text but the empty one and those given.
func otherThan(say string, supported ...string) support {
	return support{not: func(l leaf) bool {
		return l.Value.String() != "" && !slices.Contains(supported, l.Value.String())
	}, say: say}
}

// NotSupported lists what a closure asks for and this release does not do. A
// plan with such a problem is Stalled: nothing that somebody wrote is silently
// ignored. A field that the tables below do not know is not supported either.
func NotSupported(c *Closure) []Problem {
	var out []Problem
	seen := map[string]bool{}
	check := func(kind, name string, object any) {
		if key := documentKey(kind, name); !seen[key] {
			seen[key] = true
			out = append(out, c.unsupported(kind, name, object)...)
		}
	}
	check(KindMigrationPlan, c.Plan.Metadata.Name, &c.Plan)
	check(KindCluster, c.Source.Metadata.Name, &c.Source)
	check(KindCluster, c.Target.Metadata.Name, &c.Target)
	check(KindReplicationRepository, c.Repository.Metadata.Name, &c.Repository)
	for i := range c.Hooks {
		check(KindHook, c.Hooks[i].Metadata.Name, &c.Hooks[i])
	}
	return out
}

func (c *Closure) unsupported(kind, name string, object any) []Problem {
	var out []Problem
	walk(object, func(l leaf) {
		if !isLeaf(l.Value.Type()) {
			return
		}
		s, ok := supports[kind][l.Pattern]
		if !ok {
			s = set("this release does not know the field")
		}
		if s.not == nil || !s.not(l) {
			return
		}
		out = append(out, c.problem(documentKey(kind, name), l.Path, fmt.Sprintf("%s is not supported yet: %s", written(l), s.say)))
	})
	return out
}

// written repeats a field as it stands in the document.
func written(l leaf) string {
	v := l.Value
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if k := v.Kind(); k == reflect.String || k == reflect.Bool {
		return fmt.Sprintf("%s: %v", leafName(l.Path), v)
	}
	return leafName(l.Path)
}

// problem names file and line when the closure was read from documents.
func (c *Closure) problem(key, path, message string) Problem {
	if c.origin != nil && c.origin.docs[key] != nil {
		return c.origin.docs[key].problem(path, message)
	}
	return Problem{Path: path, Message: message, Document: key}
}

const onlyS3 = "write provider aws, which is every S3: AWS, MinIO, Ceph, Multi-Cloud Object Gateway"

// supports holds every field of every document that people write; a test
// demands that none is missing.
var supports = map[string]map[string]support{
	KindCluster: {
		"apiVersion": full, "kind": full, "metadata.name": full,
		"spec.server": full, "spec.token.from": full, "spec.token.key": full,
		"spec.kubeconfig.from": full, "spec.kubeconfig.key": full, "spec.inCluster": full,
		"spec.caBundle": full, "spec.insecureSkipTLSVerify": full, "spec.veleroNamespace": full,
		"spec.registry":           set("internal images are not copied; push them to a registry that both clusters reach, and remove the field"),
		"spec.azureResourceGroup": set("Velero's VolumeSnapshotLocation on the cluster names the resource group of snapshots; remove it"),
	},
	KindReplicationRepository: {
		"apiVersion": full, "kind": full, "metadata.name": full,
		"spec.bucket": full, "spec.prefix": full, "spec.region": full, "spec.endpoint": full,
		"spec.credentials.from": full, "spec.credentials.key": full, "spec.encryption.from": full, "spec.encryption.key": full,
		"spec.caBundle": full, "spec.insecureSkipTLSVerify": full,
		"spec.provider":            otherThan(onlyS3, string(ProviderAWS)),
		"spec.azureStorageAccount": set(onlyS3), "spec.azureResourceGroup": set(onlyS3),
	},
	KindHook: {
		"apiVersion": full, "kind": full, "metadata.name": full,
		"spec.image": full, "spec.command[]": full, "spec.args[]": full, "spec.backoffLimit": full, "spec.activeDeadline": full,
		"spec.playbook": set("build an image that holds the playbook, and write image and command, such as [ansible-playbook, /play.yml]"),
	},
	KindMigrationPlan: planSupports,
}

const (
	noMethod = "write filesystem or snapshot"
)

var planSupports = map[string]support{
	"apiVersion": full, "kind": full, "metadata.name": full, "metadata.labels": full,
	"spec.state": full, "spec.suspend.reason": full, "spec.suspend.until": full,
	"spec.sourceCluster": full, "spec.targetCluster": full, "spec.replicationRepository": full,
	"spec.namespaces[].name": full, "spec.namespaces[].targetName": full, "spec.labelSelector": full,

	"spec.volumes.defaults.action":              full,
	"spec.volumes.defaults.method":              otherThan(noMethod, "filesystem", "snapshot"),
	"spec.volumes.defaults.verify":              full,
	"spec.volumes.defaults.onVerifyError":       full,
	"spec.volumes.defaults.transfer":            full,
	"spec.volumes.overrides[].namespace":        full,
	"spec.volumes.overrides[].claim":            full,
	"spec.volumes.overrides[].action":           full,
	"spec.volumes.overrides[].method":           otherThan(noMethod, "filesystem", "snapshot"),
	"spec.volumes.overrides[].verify":           full,
	"spec.volumes.overrides[].onVerifyError":    full,
	"spec.volumes.overrides[].transfer":         full,
	"spec.volumes.overrides[].storageClassName": full,
	"spec.volumes.overrides[].accessMode":       full,
	"spec.volumes.overrides[].targetClaim":      full,

	"spec.hooks[].hook": full, "spec.hooks[].phase": full, "spec.hooks[].cluster": full,
	"spec.hooks[].namespace": full, "spec.hooks[].serviceAccountName": full, "spec.hooks[].runs[]": full, "spec.hooks[].undo": full,

	"spec.stage.schedule": full, "spec.stage.timeZone": full, "spec.stage.startingDeadline": full, "spec.stage.requestedAt": full,

	"spec.windows[].kind":      full,
	"spec.windows[].schedule":  full,
	"spec.windows[].duration":  full,
	"spec.windows[].from":      full,
	"spec.windows[].to":        full,
	"spec.windows[].timeZone":  full,
	"spec.windows[].applies[]": full,

	"spec.cutover.quiesce":   full,
	"spec.cutover.notBefore": full, "spec.cutover.notAfter": full,
	"spec.cutover.onFailure":     otherThan("a failed cutover always goes back to the source; write RollBack", "RollBack"),
	"spec.cutover.onWindowClose": full,
	"spec.cutover.timeout":       full, "spec.cutover.copyTimeout": full, "spec.cutover.healthTimeout": full,
	"spec.cutover.gitOutage": full, "spec.cutover.attempt": full, "spec.cutover.scope": full,

	"spec.rollback.keepVolumes":  full,
	"spec.rollback.targetWrites": full,

	"spec.existing":    full,
	"spec.dependsOn[]": full,
}
