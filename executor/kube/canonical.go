package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// setByUs are the fields that we change ourselves: held back on the target,
// stopped on the source.
var setByUs = map[schema.GroupKind][][]string{
	{Group: "apps", Kind: "Deployment"}:                    {{"spec", "replicas"}, {"spec", "paused"}},
	{Group: "apps", Kind: "StatefulSet"}:                   {{"spec", "replicas"}, {"spec", "persistentVolumeClaimRetentionPolicy"}},
	{Group: "apps", Kind: "ReplicaSet"}:                    {{"spec", "replicas"}},
	{Kind: "ReplicationController"}:                        {{"spec", "replicas"}},
	{Group: "apps.openshift.io", Kind: "DeploymentConfig"}: {{"spec", "replicas"}, {"spec", "paused"}},
	{Group: "batch", Kind: "Job"}:                          {{"spec", "suspend"}},
	{Group: "batch", Kind: "CronJob"}:                      {{"spec", "suspend"}},
	{Group: "apps", Kind: "DaemonSet"}:                     {{"spec", "template", "spec", "nodeSelector"}},
	{Kind: "Service"}:                                      {{"spec", "ipFamilies"}, {"spec", "ipFamilyPolicy"}},
}

// moot are annotations that say nothing of the content.
var moot = []string{lastApplied, "deployment.kubernetes.io/revision", "deprecated.daemonset.template.generation"}

// Canonical is the content of an object in the form in which source and
// target are compared: portable, held, without what controllers and we set.
func Canonical(i Item, t Translation) map[string]any {
	o := Held(i, t).Object
	for _, a := range moot {
		unstructured.RemoveNestedField(o, "metadata", "annotations", a)
	}
	for _, path := range setByUs[i.groupKind()] {
		unstructured.RemoveNestedField(o, path...)
	}
	delete(o, "apiVersion") // the two clusters may prefer different versions
	pruned, _ := prune(o).(map[string]any)
	return pruned
}

// prune drops empty values: absent, null and empty mean the same to an API
// server's defaulting, except in data, where an empty string is a value.
func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if p := prune(e); p != nil {
				out[k] = p
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		out := make([]any, len(v))
		for n, e := range v {
			out[n] = prune(e)
		}
		return out
	}
	return v
}

// Same says that two objects, one of each cluster, have the same content.
func Same(source, target Item, t Translation) bool {
	return reflect.DeepEqual(Canonical(source, t), Canonical(target, Translation{}))
}

// Digest is of the canonical content.
func Digest(i Item, t Translation) string {
	raw, err := json.Marshal(Canonical(i, t))
	if err != nil { // it came from JSON
		panic(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// clockMargin allows for API servers of one cluster whose clocks differ.
const clockMargin = time.Minute

// Untouched says that nobody has changed an object's content since an instant
// of its own cluster's clock. Without managedFields nothing can be said.
func Untouched(i Item, since time.Time) bool {
	since = since.Add(-clockMargin)
	fields := i.GetManagedFields()
	if len(fields) == 0 || i.GetCreationTimestamp().After(since) {
		return false
	}
	for _, f := range fields {
		if f.Subresource == "status" {
			continue
		}
		if f.Time == nil || f.Time.After(since) {
			return false
		}
	}
	return true
}
