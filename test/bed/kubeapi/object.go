package kubeapi

import "fmt"

// Field reads a nested field, nil if there is none.
func (o Object) Field(path ...string) any {
	var now any = map[string]any(o)
	for _, key := range path {
		switch m := now.(type) {
		case map[string]any:
			now = m[key]
		case Object:
			now = m[key]
		default:
			return nil
		}
	}
	return now
}

// Text reads a nested string, empty if there is none.
func (o Object) Text(path ...string) string {
	s, _ := o.Field(path...).(string)
	return s
}

// Number reads a nested number, 0 if there is none.
func (o Object) Number(path ...string) int {
	n, _ := o.Field(path...).(float64)
	return int(n)
}

// List reads a nested list of objects.
func (o Object) List(path ...string) []Object {
	items, _ := o.Field(path...).([]any)
	out := make([]Object, 0, len(items))
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// Condition is the status of a condition, empty if there is none.
func (o Object) Condition(kind string) string {
	for _, c := range o.List("status", "conditions") {
		if c.Text("type") == kind {
			return c.Text("status")
		}
	}
	return ""
}

// resources says where objects of a kind are.
var resources = map[string]struct {
	prefix, plural string
	cluster        bool
}{
	"v1/Namespace":                      {"/api/v1", "namespaces", true},
	"v1/ServiceAccount":                 {"/api/v1", "serviceaccounts", false},
	"v1/Secret":                         {"/api/v1", "secrets", false},
	"v1/ConfigMap":                      {"/api/v1", "configmaps", false},
	"v1/Service":                        {"/api/v1", "services", false},
	"v1/Pod":                            {"/api/v1", "pods", false},
	"v1/PersistentVolumeClaim":          {"/api/v1", "persistentvolumeclaims", false},
	"apps/v1/Deployment":                {"/apis/apps/v1", "deployments", false},
	"apps/v1/DaemonSet":                 {"/apis/apps/v1", "daemonsets", false},
	"discovery.k8s.io/v1/EndpointSlice": {"/apis/discovery.k8s.io/v1", "endpointslices", false},
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding": {"/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", true},
	"storage.k8s.io/v1/StorageClass":                  {"/apis/storage.k8s.io/v1", "storageclasses", true},
	"storage.k8s.io/v1/CSIDriver":                     {"/apis/storage.k8s.io/v1", "csidrivers", true},
	"snapshot.storage.k8s.io/v1/VolumeSnapshotClass":  {"/apis/snapshot.storage.k8s.io/v1", "volumesnapshotclasses", true},
	"snapshot.storage.k8s.io/v1/VolumeSnapshot":       {"/apis/snapshot.storage.k8s.io/v1", "volumesnapshots", false},
	"velero.io/v1/Backup":                             {"/apis/velero.io/v1", "backups", false},
	"velero.io/v1/Restore":                            {"/apis/velero.io/v1", "restores", false},
	"velero.io/v1/BackupStorageLocation":              {"/apis/velero.io/v1", "backupstoragelocations", false},
	"velero.io/v1/VolumeSnapshotLocation":             {"/apis/velero.io/v1", "volumesnapshotlocations", false},
	"velero.io/v1/DeleteBackupRequest":                {"/apis/velero.io/v1", "deletebackuprequests", false},
}

// Path is where the object is.
func Path(o Object) (string, error) {
	kind := o.Text("apiVersion") + "/" + o.Text("kind")
	r, ok := resources[kind]
	if !ok {
		return "", fmt.Errorf("cannot tell where %s is: add it to kubeapi/object.go", kind)
	}
	name := o.Text("metadata", "name")
	if r.cluster {
		return r.prefix + "/" + r.plural + "/" + name, nil
	}
	return r.prefix + "/namespaces/" + o.Text("metadata", "namespace") + "/" + r.plural + "/" + name, nil
}
