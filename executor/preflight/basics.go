package preflight

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover"
	"github.com/tranship/tranship/spec"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// identity: two URLs may be one cluster, so the UID of kube-system counts.
func identity(_ context.Context, s *state) ([]Finding, error) {
	if s.Source.UID != s.Target.UID {
		return nil, nil
	}
	return []Finding{{Reason: "InvalidDestinationCluster",
		Message: fmt.Sprintf("clusters %s and %s are one and the same (UID %s of kube-system); name two different ones", s.Source.Name, s.Target.Name, s.Source.UID)}}, nil
}

// rights that a side needs; a cluster administrator has them all, which one
// question tells.
var rights = map[spec.Side][]authorizationv1.ResourceAttributes{
	spec.Source: {
		{Verb: "list", Resource: "secrets"},
		{Verb: "list", Resource: "pods"},
		{Verb: "list", Resource: "limitranges"},
		{Verb: "list", Group: "storage.k8s.io", Resource: "storageclasses"},
		{Verb: "patch", Group: "apps", Resource: "deployments"},
		{Verb: "patch", Group: "apps", Resource: "statefulsets"},
		{Verb: "patch", Group: "apps", Resource: "daemonsets"},
		{Verb: "patch", Group: "apps", Resource: "replicasets"},
		{Verb: "patch", Resource: "replicationcontrollers"},
		{Verb: "patch", Group: "batch", Resource: "jobs"},
		{Verb: "patch", Group: "batch", Resource: "cronjobs"},
		{Verb: "patch", Resource: "persistentvolumes"},
		{Verb: "create", Resource: "pods"},
		{Verb: "delete", Resource: "pods"},
		{Verb: "create", Group: "batch", Resource: "jobs"},
		{Verb: "create", Group: "velero.io", Resource: "backups"},
		{Verb: "create", Group: "velero.io", Resource: "backupstoragelocations"},
		{Verb: "list", Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
		{Verb: "get", Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
	},
	spec.Target: {
		{Verb: "create", Resource: "namespaces"},
		{Verb: "create", Resource: "secrets"},
		{Verb: "create", Resource: "pods"},
		{Verb: "delete", Resource: "pods"},
		{Verb: "create", Resource: "persistentvolumeclaims"},
		{Verb: "list", Group: "storage.k8s.io", Resource: "storageclasses"},
		{Verb: "patch", Resource: "persistentvolumes"},
		{Verb: "patch", Group: "apps", Resource: "deployments"},
		{Verb: "patch", Group: "apps", Resource: "statefulsets"},
		{Verb: "patch", Group: "apps", Resource: "daemonsets"},
		{Verb: "patch", Group: "apps", Resource: "replicasets"},
		{Verb: "patch", Resource: "replicationcontrollers"},
		{Verb: "patch", Group: "batch", Resource: "jobs"},
		{Verb: "patch", Group: "batch", Resource: "cronjobs"},
		{Verb: "patch", Group: "batch", Resource: "cronjobs", Subresource: "status"},
		{Verb: "create", Group: "autoscaling", Resource: "horizontalpodautoscalers"},
		{Verb: "delete", Group: "autoscaling", Resource: "horizontalpodautoscalers"},
		{Verb: "delete", Group: "apps", Resource: "deployments"},
		{Verb: "create", Group: "batch", Resource: "jobs"},
		{Verb: "create", Group: "velero.io", Resource: "restores"},
		{Verb: "create", Group: "velero.io", Resource: "backups"},
		{Verb: "create", Group: "velero.io", Resource: "backupstoragelocations"},
	},
}

// extensionRights are needed where the cluster has the API group.
var extensionRights = map[spec.Side][]authorizationv1.ResourceAttributes{
	spec.Source: {
		{Verb: "patch", Group: "keda.sh", Resource: "scaledobjects"},
		{Verb: "patch", Group: "keda.sh", Resource: "scaledjobs"},
		{Verb: "patch", Group: "apps.openshift.io", Resource: "deploymentconfigs"},
	},
	spec.Target: {
		{Verb: "create", Group: "keda.sh", Resource: "scaledobjects"},
		{Verb: "delete", Group: "keda.sh", Resource: "scaledobjects"},
		{Verb: "create", Group: "keda.sh", Resource: "scaledjobs"},
		{Verb: "delete", Group: "keda.sh", Resource: "scaledjobs"},
		{Verb: "patch", Group: "apps.openshift.io", Resource: "deploymentconfigs"},
		{Verb: "delete", Group: "apps.openshift.io", Resource: "deploymentconfigs"},
	},
}

// movingRights are needed too by a plan that moves volumes.
var movingRights = map[spec.Side][]authorizationv1.ResourceAttributes{
	spec.Source: {{Verb: "list", Group: "storage.k8s.io", Resource: "volumeattachments"}},
	spec.Target: {
		{Verb: "create", Resource: "persistentvolumes"},
		{Verb: "delete", Resource: "persistentvolumes"},
		{Verb: "list", Resource: "nodes"},
		{Verb: "list", Group: "storage.k8s.io", Resource: "csidrivers"},
		{Verb: "list", Group: "storage.k8s.io", Resource: "volumeattachments"},
	},
}

func rightsOn(side spec.Side) func(context.Context, *state) ([]Finding, error) {
	return func(ctx context.Context, s *state) ([]Finding, error) {
		c := s.On(side)
		all, err := may(ctx, c, authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"})
		if err != nil || all {
			return nil, err
		}
		var missing []string
		needed := rights[side]
		if mover.Moves(s.Plan()) {
			needed = slices.Concat(needed, movingRights[side])
		}
		if mover.Snapshots(s.Plan()) {
			needed = slices.Concat(needed, snapshotRights[side])
		}
		for _, r := range extensionRights[side] {
			served, err := c.ServesGroup(r.Group)
			if err != nil {
				return nil, err
			}
			if served {
				needed = append(slices.Clip(needed), r)
			}
		}
		for _, r := range needed {
			if r.Group == "velero.io" { // its objects are all in its own namespace
				r.Namespace = c.VeleroNamespace
			}
			ok, err := may(ctx, c, r)
			if err != nil {
				return nil, err
			}
			if !ok {
				missing = append(missing, strings.TrimSuffix(r.Verb+" "+r.Resource+"."+r.Group, "."))
			}
		}
		if len(missing) == 0 {
			return nil, nil
		}
		return []Finding{{Reason: kube.ReasonTokenNotPrivileged,
			Message: fmt.Sprintf("the account on cluster %s may not: %s; give it these rights, docs/permissions.md says what for", c.Name, strings.Join(missing, ", "))}}, nil
	}
}

func may(ctx context.Context, c *kube.Cluster, r authorizationv1.ResourceAttributes) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &r}}
	answer, err := c.Kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, c.Errorf(err, "ask which rights this account has")
	}
	return answer.Status.Allowed, nil
}

// veleroKinds are those that the verbs use.
var veleroKinds = []string{"backups", "restores", "backupstoragelocations", "downloadrequests", "deletebackuprequests"}

func veleroOn(side spec.Side) func(context.Context, *state) ([]Finding, error) {
	return func(ctx context.Context, s *state) ([]Finding, error) {
		c := s.On(side)
		problem := func(format string, args ...any) []Finding {
			return []Finding{{Reason: "VeleroNotReady", Object: fmt.Sprintf("%s Deployment %s/velero", side, c.VeleroNamespace), Message: fmt.Sprintf(format, args...)}}
		}
		const install = "install it there (docs/install.md)"
		served, err := c.Kube.Discovery().ServerResourcesForGroupVersion("velero.io/v1")
		if apierrors.IsNotFound(err) {
			return problem("Velero is not installed on cluster %s; %s", c.Name, install), nil
		}
		if err != nil {
			return nil, c.Errorf(err, "read which of Velero's kinds there are")
		}
		have := map[string]bool{}
		for _, r := range served.APIResources {
			have[r.Name] = true
		}
		for _, k := range veleroKinds {
			if !have[k] {
				return problem("Velero on cluster %s does not know %s.velero.io/v1; %s", c.Name, k, install), nil
			}
		}
		d, err := c.Kube.AppsV1().Deployments(c.VeleroNamespace).Get(ctx, "velero", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return problem("cluster %s has no Deployment velero in namespace %s; name the right one in spec.veleroNamespace, or %s", c.Name, c.VeleroNamespace, install), nil
		}
		if err != nil {
			return nil, c.Errorf(err, "read Deployment %s/velero", c.VeleroNamespace)
		}
		if d.Status.AvailableReplicas == 0 {
			found := problem("Velero on cluster %s is not running: no pod of Deployment %s/velero is available; `kubectl -n %s describe deployment velero` says why", c.Name, c.VeleroNamespace, c.VeleroNamespace)
			found[0].Passing = true
			return found, nil
		}
		return nil, nil
	}
}

// bucket asks for it as the daemon; Velero and the movers ask from the
// clusters, and their answers come with the steps that follow.
func bucket(ctx context.Context, s *state) ([]Finding, error) {
	repository := &s.Run.Spec.Closure.Repository
	r, name := &repository.Spec, repository.Metadata.Name
	broken := func(reason, format string, args ...any) []Finding {
		return []Finding{{Reason: reason, Object: "ReplicationRepository " + name, Message: fmt.Sprintf(format, args...)}}
	}
	if r.Provider != spec.ProviderAWS || r.Credentials == nil {
		return broken("InvalidBackupStorageProvider", "ReplicationRepository %s: provider %q is not supported by this version", name, r.Provider), nil
	}
	client, endpoint, err := kube.Bucket(ctx, s.Env)
	if err != nil {
		return broken("InvalidBackupStorageSettings", "ReplicationRepository %s: %v", name, err), nil
	}
	err = list(ctx, client, r)
	if minio.ToErrorResponse(err).Code == "NoSuchBucket" {
		return broken("BucketMissing", "ReplicationRepository %s: there is no bucket %s at %s; create it, Tranship never does", name, r.Bucket, endpoint), nil
	}
	if err != nil {
		says, passing := storeProblem(err, name, endpoint, r)
		found := broken("BackupStorageProviderTestFailed", "%s", says)
		found[0].Passing = passing
		return found, nil
	}
	return nil, nil
}

// list asks for one object. The answer to a HEAD has no body, and some
// servers say "not found" there to wrong credentials.
func list(ctx context.Context, client *minio.Client, r *spec.RepositorySpec) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel() // ends the listing after its first entry
	for o := range client.ListObjects(ctx, r.Bucket, minio.ListObjectsOptions{Prefix: r.Prefix, MaxKeys: 1}) {
		return o.Err
	}
	return nil
}

const storeTimeout = 20 * time.Second

// storeProblem is a sentence, and whether a moment may mend it: a store that does
// not answer or is too busy may be starting again. minio's errors hold no secret, but
// the URL of a request says more than people need.
func storeProblem(err error, name, endpoint string, r *spec.RepositorySpec) (says string, passing bool) {
	if m := kube.TLSProblem(err, "ReplicationRepository "+name, endpoint, "its spec.caBundle"); m != "" {
		return m, false
	}
	answer := minio.ToErrorResponse(err)
	switch {
	case answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= 500:
		return fmt.Sprintf("ReplicationRepository %s: %s answers %s (%d) to a question about bucket %s", name, endpoint, answer.Code, answer.StatusCode, r.Bucket), true
	case answer.StatusCode >= 400 && answer.StatusCode < 500:
		// Servers differ in how they say that they do not know an access key.
		return fmt.Sprintf("ReplicationRepository %s: %s refuses the credentials of secret %s for bucket %s (%s); put the right accessKey and secretKey there, with the right to list, read and write", name, endpoint, r.Credentials.From, r.Bucket, answer.Code), false
	case answer.StatusCode != 0:
		return fmt.Sprintf("ReplicationRepository %s: %s answers %s to a question about bucket %s", name, endpoint, answer.Code, r.Bucket), false
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Sprintf("ReplicationRepository %s: %s cannot be reached: %v; check the address, the network and any proxy between", name, endpoint, err), true
}

func sourceNamespaces(ctx context.Context, s *state) ([]Finding, error) {
	var found []Finding
	for _, name := range s.Namespaces(spec.Source) {
		ns, err := s.Source.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			found = append(found, Finding{Reason: "NamespaceNotFoundOnSourceCluster", Object: "source Namespace " + name,
				Message: fmt.Sprintf("there is no namespace %s on cluster %s", name, s.Source.Name)})
		case err != nil:
			return nil, s.Source.Errorf(err, "read namespace %s", name)
		case ns.DeletionTimestamp != nil:
			found = append(found, Finding{Reason: "NamespaceTerminating", Object: "source Namespace " + name,
				Message: fmt.Sprintf("namespace %s on cluster %s is being deleted", name, s.Source.Name)})
		}
	}
	return found, nil
}

// planName: another repository may have a plan of this name on these clusters.
func planName(ctx context.Context, s *state) ([]Finding, error) {
	for _, c := range []*kube.Cluster{s.Source, s.Target} {
		taken, err := c.NameTaken(ctx, s.Env)
		if err != nil || taken != "" {
			return []Finding{{Reason: "PlanNameTaken", Message: taken}}, err
		}
	}
	return nil, nil
}
