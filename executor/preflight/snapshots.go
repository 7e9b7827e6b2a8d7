package preflight

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Velero encrypts what its node agents move with one password a cluster.
const (
	repositorySecret = "velero-repo-credentials"
	repositoryKey    = "repository-password"
	// publicPassword is what Velero uses where nobody has chosen one.
	publicPassword = "static-passw0rd"
)

// snapshotRights are those beyond the others that a copy by snapshot needs.
var snapshotRights = map[spec.Side][]authorizationv1.ResourceAttributes{
	spec.Source: {
		{Verb: "create", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots"},
		{Verb: "create", Group: "velero.io", Resource: "datauploads"},
		{Verb: "list", Group: "velero.io", Resource: "volumesnapshotlocations"},
		{Verb: "create", Group: "velero.io", Resource: "serverstatusrequests"},
	},
	spec.Target: {
		{Verb: "create", Group: "velero.io", Resource: "datadownloads"},
		{Verb: "list", Group: "velero.io", Resource: "volumesnapshotlocations"},
		{Verb: "create", Group: "velero.io", Resource: "serverstatusrequests"},
		{Verb: "create", Resource: "pods"},
	},
}

// snapshotCopies: volumes of method snapshot are moved by Velero's node agents,
// which must be there, and understand each other. Native ones need neither.
func snapshotCopies(ctx context.Context, s *state) ([]Finding, error) {
	if !slices.ContainsFunc(s.volumes.Volumes, func(v spec.Volume) bool {
		return v.Action == "copy" && v.Method == "snapshot" && v.SnapshotPlugin == ""
	}) {
		return nil, nil
	}
	var found []Finding
	var passwords [][]byte
	for _, c := range []*kube.Cluster{s.Source, s.Target} {
		agent, err := nodeAgent(ctx, c)
		if err != nil {
			return nil, err
		}
		found = append(found, agent...)
		secret, err := c.Kube.CoreV1().Secrets(c.VeleroNamespace).Get(ctx, repositorySecret, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			found = append(found, Finding{Reason: "RepositoryPasswordMissing", Object: fmt.Sprintf("%s Secret %s/%s", c.Side, c.VeleroNamespace, repositorySecret), Passing: true,
				Message: fmt.Sprintf("cluster %s has no Secret %s/%s, with which Velero encrypts what it moves: start Velero once, or create the Secret with the same entry %s on both clusters", c.Name, c.VeleroNamespace, repositorySecret, repositoryKey)})
			continue
		}
		if err != nil {
			return nil, c.Errorf(err, "read Secret %s/%s", c.VeleroNamespace, repositorySecret)
		}
		passwords = append(passwords, bytes.TrimSpace(secret.Data[repositoryKey]))
	}
	return append(found, comparePasswords(s, passwords)...), nil
}

// comparePasswords never says what they are. We do not change them either:
// whatever else Velero has saved with them would be lost.
func comparePasswords(s *state, passwords [][]byte) []Finding {
	switch {
	case len(passwords) < 2:
		return nil
	case !bytes.Equal(passwords[0], passwords[1]):
		return []Finding{{Reason: "RepositoryPasswordsDiffer", Object: fmt.Sprintf("target Secret %s/%s", s.Target.VeleroNamespace, repositorySecret),
			Message: fmt.Sprintf("the entry %s of Secret %s differs between Velero's namespaces on clusters %s and %s, so that the target cannot read what the source moves: make them equal, or write method: filesystem", repositoryKey, repositorySecret, s.Source.Name, s.Target.Name)}}
	case string(passwords[0]) == publicPassword:
		return []Finding{{Reason: "RepositoryPasswordPublic", Warning: true,
			Message: fmt.Sprintf("volumes copied by snapshot are encrypted with Velero's public default password, for nobody has set %s on clusters %s and %s: whoever reads the bucket reads them", repositorySecret, s.Source.Name, s.Target.Name)}}
	}
	return nil
}

func nodeAgent(ctx context.Context, c *kube.Cluster) ([]Finding, error) {
	at := fmt.Sprintf("%s DaemonSet %s/node-agent", c.Side, c.VeleroNamespace)
	d, err := c.Kube.AppsV1().DaemonSets(c.VeleroNamespace).Get(ctx, "node-agent", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return []Finding{{Reason: "NodeAgentMissing", Object: at,
			Message: fmt.Sprintf("Velero on cluster %s has no DaemonSet node-agent in namespace %s, which moves the data of snapshots: install Velero with --use-node-agent, or write method: filesystem", c.Name, c.VeleroNamespace)}}, nil
	}
	if err != nil {
		return nil, c.Errorf(err, "read DaemonSet %s/node-agent", c.VeleroNamespace)
	}
	if d.Status.NumberReady == 0 {
		return []Finding{{Reason: "NodeAgentMissing", Object: at, Passing: true,
			Message: fmt.Sprintf("no pod of DaemonSet %s/node-agent is ready on cluster %s, and only they move the data of snapshots: `kubectl -n %s describe daemonset node-agent` says why", c.VeleroNamespace, c.Name, c.VeleroNamespace)}}, nil
	}
	return nil, nil
}
