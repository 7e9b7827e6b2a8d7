package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Limits of every connection. A watch has no time limit of its own: it ends
// with the context of the call that began it. The rate lets one listing of
// everything in a few namespaces (some fifty requests, eight at a time)
// through without waiting; servers protect themselves by priority and
// fairness.
const (
	dialTimeout    = 10 * time.Second
	requestTimeout = 60 * time.Second
	connectTimeout = 20 * time.Second
	clientQPS      = 200
	clientBurst    = 400
)

// UserAgent is how API servers and their audit logs see the daemon; cmd adds
// the version.
var UserAgent = "tranship"

// Connect opens one side of a run and proves that it answers: it reads the
// cluster's identity, the UID of kube-system. What goes wrong comes back as
// an *AccessError, a sentence for people.
func Connect(ctx context.Context, side spec.Side, doc *spec.Cluster, secrets Secrets) (*Cluster, error) {
	config, err := Config(ctx, doc, secrets)
	if err != nil {
		return nil, err
	}
	c, err := open(side, doc, config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	ns, err := c.Kube.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return nil, Explain(doc, config.Host, err)
	}
	c.UID = string(ns.UID)
	return c, nil
}

func open(side spec.Side, doc *spec.Cluster, config *rest.Config) (*Cluster, error) {
	c := &Cluster{Side: side, Name: doc.Metadata.Name, Config: config, VeleroNamespace: veleroNamespace(doc)}
	config.Wrap(c.clock.wrap)
	config.Wrap(c.fence)
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, accessError(ReasonInvalidCluster, err, "cluster %s: %v; correct its Cluster document", doc.Metadata.Name, err)
	}
	typed, err := kubernetes.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, accessError(ReasonInvalidCluster, err, "cluster %s: %v; correct its Cluster document", doc.Metadata.Name, err)
	}
	dyn, err := dynamic.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, accessError(ReasonInvalidCluster, err, "cluster %s: %v; correct its Cluster document", doc.Metadata.Name, err)
	}
	disco, err := discovery.NewDiscoveryClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, accessError(ReasonInvalidCluster, err, "cluster %s: %v; correct its Cluster document", doc.Metadata.Name, err)
	}
	c.Kube, c.Dynamic, c.Exec = typed, dyn, execOver(config, typed.CoreV1().RESTClient())
	c.Discovery = memory.NewMemCacheClient(disco)
	c.Mapper = restmapper.NewDeferredDiscoveryRESTMapper(c.Discovery)
	return c, nil
}

func veleroNamespace(doc *spec.Cluster) string {
	if doc.Spec.VeleroNamespace != "" {
		return doc.Spec.VeleroNamespace
	}
	return "velero"
}

// Config is the client configuration of a Cluster document.
func Config(ctx context.Context, doc *spec.Cluster, secrets Secrets) (*rest.Config, error) {
	config, err := baseConfig(ctx, doc, secrets)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = clientQPS, clientBurst
	config.UserAgent = UserAgent
	// Warnings about deprecated versions concern the application's author, who
	// does not read this daemon's standard error.
	config.WarningHandlerWithContext = rest.NoWarnings{}
	config.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	config.Wrap(bound)
	return config, nil
}

func baseConfig(ctx context.Context, doc *spec.Cluster, secrets Secrets) (*rest.Config, error) {
	s := &doc.Spec
	switch {
	case s.InCluster:
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, accessError(ReasonInvalidCluster, err, "cluster %s says inCluster, but this process does not run in a cluster: %v", doc.Metadata.Name, err)
		}
		return config, nil
	case s.Kubeconfig != nil:
		return kubeconfigOf(ctx, doc, secrets)
	case s.Server == "":
		return nil, accessError(ReasonInvalidCluster, nil, "cluster %s names none of spec.server, spec.kubeconfig and spec.inCluster", doc.Metadata.Name)
	}
	config := &rest.Config{Host: s.Server}
	config.Insecure = s.InsecureSkipTLSVerify
	config.CAData = []byte(s.CABundle)
	if s.Token != nil {
		token, err := secrets.Read(ctx, *s.Token, "token")
		if err != nil {
			return nil, accessError(ReasonInvalidSecretRef, err, "cluster %s: %v", doc.Metadata.Name, err)
		}
		config.BearerToken = string(TrimSpace(token))
	}
	return config, nil
}

// kubeconfigOf refuses a kubeconfig that runs programs or reads files: it
// would do so as the daemon.
func kubeconfigOf(ctx context.Context, doc *spec.Cluster, secrets Secrets) (*rest.Config, error) {
	raw, err := secrets.Read(ctx, *doc.Spec.Kubeconfig, "kubeconfig")
	if err != nil {
		return nil, accessError(ReasonInvalidSecretRef, err, "cluster %s: %v", doc.Metadata.Name, err)
	}
	where := refString(*doc.Spec.Kubeconfig, "kubeconfig")
	parsed, err := clientcmd.Load(raw)
	if err != nil {
		// The parser's error may quote the file, that is, its secrets.
		return nil, accessError(ReasonInvalidSecretRef, nil, "cluster %s: %s is not a kubeconfig", doc.Metadata.Name, where)
	}
	if why := foreignParts(parsed); why != "" {
		return nil, accessError(ReasonInvalidSecretRef, nil, "cluster %s: %s %s; give a kubeconfig with embedded token and certificates", doc.Metadata.Name, where, why)
	}
	config, err := clientcmd.NewDefaultClientConfig(*parsed, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, accessError(ReasonInvalidSecretRef, nil, "cluster %s: %s has no usable current context", doc.Metadata.Name, where)
	}
	if doc.Spec.CABundle != "" {
		config.CAData = []byte(doc.Spec.CABundle)
	}
	return config, nil
}

func foreignParts(c *clientcmdapi.Config) string {
	for _, u := range c.AuthInfos {
		switch {
		case u.Exec != nil:
			return "runs a program for its credentials (exec)"
		case u.AuthProvider != nil:
			return "uses an auth-provider plugin"
		case u.TokenFile != "" || u.ClientCertificate != "" || u.ClientKey != "":
			return "points at files outside itself"
		}
	}
	for _, cl := range c.Clusters {
		if cl.CertificateAuthority != "" {
			return "points at files outside itself"
		}
	}
	return ""
}

// fingerprint changes when the document or a secret that it refers to does.
func fingerprint(ctx context.Context, doc *spec.Cluster, secrets Secrets) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00", documentDigest(doc))
	for _, r := range []struct {
		ref *spec.SecretRef
		key string
	}{{doc.Spec.Token, "token"}, {doc.Spec.Kubeconfig, "kubeconfig"}} {
		if r.ref == nil {
			continue
		}
		value, err := secrets.Read(ctx, *r.ref, r.key)
		if err != nil {
			return "", accessError(ReasonInvalidSecretRef, err, "cluster %s: %v", doc.Metadata.Name, err)
		}
		fmt.Fprintf(h, "%s\x00%x\x00", refString(*r.ref, r.key), sha256.Sum256(value))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func documentDigest(doc *spec.Cluster) string {
	raw, err := json.Marshal(doc)
	if err != nil { // a struct of strings always marshals
		panic(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// IsAccessError returns the AccessError in err, if there is one.
func IsAccessError(err error) (*AccessError, bool) {
	var a *AccessError
	ok := errors.As(err, &a)
	return a, ok
}
