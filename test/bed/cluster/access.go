package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tranship/tranship/test/bed/kubeapi"
)

// The product's own place on a cluster.
const (
	SystemNamespace = "tranship-system"
	ServiceAccount  = "tranship"
)

// TokenFile holds the token of the product's service account.
func (c *Cluster) TokenFile() string { return c.Of(c.Name, "token") }

// CAFile holds the authority of the API server.
func (c *Cluster) CAFile() string { return c.Of(c.Name, "ca.crt") }

// GrantAccess makes the product's service account, and saves a token that lives as
// long as the bed.
func (c *Cluster) GrantAccess(ctx context.Context) error {
	meta := object{"name": ServiceAccount, "namespace": SystemNamespace}
	const secret = ServiceAccount + "-token"
	err := c.API.Apply(ctx,
		kubeapi.Object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": SystemNamespace}},
		kubeapi.Object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
		adminBinding(SystemNamespace, ServiceAccount),
		kubeapi.Object{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token", "metadata": object{
			"name": secret, "namespace": SystemNamespace, "annotations": object{"kubernetes.io/service-account.name": ServiceAccount},
		}})
	if err != nil {
		return err
	}
	var token, ca []byte
	err = kubeapi.Wait(ctx, time.Minute, "a token of "+c.Name, func(ctx context.Context) (bool, error) {
		o, err := c.API.Get(ctx, "/api/v1/namespaces/"+SystemNamespace+"/secrets/"+secret)
		if err != nil {
			return false, err
		}
		var errToken, errCA error
		token, errToken = base64.StdEncoding.DecodeString(o.Text("data", "token"))
		ca, errCA = base64.StdEncoding.DecodeString(o.Text("data", "ca.crt"))
		return len(token) > 0 && len(ca) > 0, errors.Join(errToken, errCA)
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.TokenFile(), token, 0o600); err != nil {
		return fmt.Errorf("cannot save the token: %w", err)
	}
	if err := os.WriteFile(c.CAFile(), ca, 0o644); err != nil {
		return fmt.Errorf("cannot save the authority: %w", err)
	}
	return nil
}
