package velero

import (
	"context"
	"fmt"
	"maps"
	"path"
	"reflect"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	cloudKey    = "cloud"
	passwordKey = "password"
	caKey       = "ca.crt"

	// revalidation is Velero's own period between two looks at a location,
	// and some time for the look.
	revalidation = 75 * time.Second
)

// LocationName is the plan's BackupStorageLocation, of the same name on both
// clusters because a Backup refers to it.
func LocationName(e *kube.Env) string { return e.PlanObjectName("location") }

// MoverSecretName and MoverCAName are the movers' Secret (keys "cloud" and
// "password") and ConfigMap (key "ca.crt") in our own namespace.
func MoverSecretName(e *kube.Env) string { return e.PlanObjectName("mover") }

// MoverCAName: see MoverSecretName.
func MoverCAName(e *kube.Env) string { return e.PlanObjectName("mover-ca") }

// Prefix is where the plan's Velero objects lie in the bucket.
func Prefix(e *kube.Env) string {
	return path.Join(e.Run.Spec.Closure.Repository.Spec.Prefix, "objects", kube.Short(e.Run.Spec.Plan))
}

// credentials are secret values on their way into Secrets, and nowhere else.
type credentials struct{ cloud, password []byte }

// Credentials are what the plan's replication repository is opened with: a file of AWS
// credentials, and the password of the volume data. The caller writes them to no disk.
func Credentials(ctx context.Context, e *kube.Env) (cloud, password []byte, err error) {
	k, err := readCredentials(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	return k.cloud, k.password, nil
}

func readCredentials(ctx context.Context, e *kube.Env) (*credentials, error) {
	r := &e.Run.Spec.Closure.Repository.Spec
	if r.Provider != spec.ProviderAWS {
		return nil, fmt.Errorf("ReplicationRepository %s: provider %q is not supported by this version", e.Run.Spec.Closure.Repository.Metadata.Name, r.Provider)
	}
	if r.Credentials == nil || r.Encryption == nil {
		return nil, fmt.Errorf("ReplicationRepository %s: spec.credentials and spec.encryption are required", e.Run.Spec.Closure.Repository.Metadata.Name)
	}
	access, err := e.Secrets.Read(ctx, spec.SecretRef{From: r.Credentials.From}, "accessKey")
	if err != nil {
		return nil, err
	}
	secret, err := e.Secrets.Read(ctx, spec.SecretRef{From: r.Credentials.From}, "secretKey")
	if err != nil {
		return nil, err
	}
	password, err := e.Secrets.Read(ctx, *r.Encryption, passwordKey)
	if err != nil {
		return nil, err
	}
	ini := fmt.Sprintf("[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", kube.TrimSpace(access), kube.TrimSpace(secret))
	return &credentials{cloud: []byte(ini), password: kube.TrimSpace(password)}, nil
}

// planMeta is the head of an object that outlives the run.
func planMeta(e *kube.Env, namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{kube.LabelManagedBy: kube.ManagedBy, kube.LabelPlan: kube.Short(e.Run.Spec.Plan)},
		Annotations: map[string]string{kube.AnnotationPlan: e.Run.Spec.Plan},
	}
}

// wantedSecrets: credentials lie in Velero's namespace and in ours, and never
// in an application's (safety property 11).
func wantedSecrets(e *kube.Env, c *kube.Cluster, k *credentials) []*corev1.Secret {
	return []*corev1.Secret{
		{ObjectMeta: planMeta(e, c.VeleroNamespace, LocationName(e)), Data: map[string][]byte{cloudKey: k.cloud}},
		{ObjectMeta: planMeta(e, e.Settings.Namespace, MoverSecretName(e)), Data: map[string][]byte{cloudKey: k.cloud, passwordKey: k.password}},
	}
}

func wantedLocation(e *kube.Env, c *kube.Cluster) *velerov1.BackupStorageLocation {
	r := &e.Run.Spec.Closure.Repository.Spec
	config := map[string]string{"region": r.Region}
	if r.Region == "" {
		config["region"] = "us-east-1"
	}
	if r.Endpoint != "" {
		config["s3Url"], config["s3ForcePathStyle"] = r.Endpoint, "true"
		// Many S3 servers do not know the checksums that the AWS SDK adds by default.
		config["checksumAlgorithm"] = ""
	}
	if r.InsecureSkipTLSVerify {
		config["insecureSkipTLSVerify"] = "true"
	}
	l := &velerov1.BackupStorageLocation{ObjectMeta: planMeta(e, c.VeleroNamespace, LocationName(e))}
	l.Spec.Provider = string(r.Provider)
	l.Spec.Config = config
	l.Spec.Credential = &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: LocationName(e)}, Key: cloudKey}
	l.Spec.ObjectStorage = &velerov1.ObjectStorageLocation{Bucket: r.Bucket, Prefix: Prefix(e), CACert: []byte(r.CABundle)}
	l.Spec.AccessMode = velerov1.BackupStorageLocationAccessModeReadWrite
	if c.Side == spec.Target {
		// The target's Velero must neither collect garbage nor write here.
		l.Spec.AccessMode = velerov1.BackupStorageLocationAccessModeReadOnly
	}
	return l
}

// privileged lets the movers of our namespace run as root: they read and
// write files of every owner.
var privileged = map[string]string{
	"pod-security.kubernetes.io/enforce": "privileged",
	"pod-security.kubernetes.io/audit":   "privileged",
	"pod-security.kubernetes.io/warn":    "privileged",
}

func lookLocations(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	k, err := readCredentials(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	for _, c := range []*kube.Cluster{e.Source, e.Target} {
		missing, err := missingParts(ctx, e, c, k)
		if err != nil || missing != "" {
			return reconciler.Observation{Message: fmt.Sprintf("to be written on cluster %s: %s", c.Name, missing)}, err
		}
	}
	for _, c := range []*kube.Cluster{e.Source, e.Target} {
		o, err := available(ctx, e, c)
		if err != nil || o.Seen != reconciler.Succeeded {
			return o, err
		}
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Message: fmt.Sprintf("location %s is available on both clusters", LocationName(e))}, nil
}

// missingParts names the first thing that is not as it should be.
func missingParts(ctx context.Context, e *kube.Env, c *kube.Cluster, k *credentials) (string, error) {
	ns, err := c.Kube.CoreV1().Namespaces().Get(ctx, e.Settings.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "namespace " + e.Settings.Namespace, nil
	}
	if err != nil {
		return "", c.Errorf(err, "read namespace %s", e.Settings.Namespace)
	}
	if ns.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
		return "the labels of namespace " + e.Settings.Namespace, nil
	}
	for _, want := range wantedSecrets(e, c, k) {
		have, err := c.Kube.CoreV1().Secrets(want.Namespace).Get(ctx, want.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return "", c.Errorf(err, "read Secret %s/%s", want.Namespace, want.Name)
		}
		if err != nil || !reflect.DeepEqual(have.Data, want.Data) {
			return fmt.Sprintf("Secret %s/%s", want.Namespace, want.Name), nil
		}
	}
	ca, err := c.Kube.CoreV1().ConfigMaps(e.Settings.Namespace).Get(ctx, MoverCAName(e), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return "", c.Errorf(err, "read ConfigMap %s/%s", e.Settings.Namespace, MoverCAName(e))
	}
	if err != nil || ca.Data[caKey] != e.Run.Spec.Closure.Repository.Spec.CABundle {
		return fmt.Sprintf("ConfigMap %s/%s", e.Settings.Namespace, MoverCAName(e)), nil
	}
	have, err := read[velerov1.BackupStorageLocation](ctx, c, locationResource, LocationName(e))
	if err != nil {
		return "", err
	}
	if have == nil || !sameLocation(have, wantedLocation(e, c)) {
		return "BackupStorageLocation " + LocationName(e), nil
	}
	return "", nil
}

func sameLocation(have, want *velerov1.BackupStorageLocation) bool {
	return equality.Semantic.DeepEqual(have.Spec.Config, want.Spec.Config) &&
		equality.Semantic.DeepEqual(have.Spec.ObjectStorage, want.Spec.ObjectStorage) &&
		equality.Semantic.DeepEqual(have.Spec.Credential, want.Spec.Credential) &&
		have.Spec.AccessMode == want.Spec.AccessMode && have.Spec.Provider == want.Spec.Provider
}

// available waits for Velero's own verdict. A location that it has found
// unavailable is looked at again once a minute; for so long the step waits
// with Velero's words as the reason, in case they are old.
func available(ctx context.Context, e *kube.Env, c *kube.Cluster) (reconciler.Observation, error) {
	l, err := read[velerov1.BackupStorageLocation](ctx, c, locationResource, LocationName(e))
	if err != nil || l == nil {
		return reconciler.Observation{}, err
	}
	o := reconciler.Observation{Seen: reconciler.Working, Reason: "WaitingForVelero", Object: fmt.Sprintf("%s BackupStorageLocation %s/%s", c.Side, l.Namespace, l.Name)}
	switch {
	case l.Status.Phase == velerov1.BackupStorageLocationPhaseAvailable:
		return reconciler.Observation{Seen: reconciler.Succeeded}, nil
	case l.Status.Phase == velerov1.BackupStorageLocationPhaseUnavailable:
		o.Reason = "BackupStorageProviderTestFailed"
		o.Message = fmt.Sprintf("Velero on cluster %s cannot use bucket %s: %s", c.Name, l.Spec.ObjectStorage.Bucket, l.Status.Message)
		if e.Step.Started != nil && time.Since(e.Step.Started.Time) > revalidation {
			o.Seen = reconciler.Broken
			return o, nil
		}
	default:
		o.Message = fmt.Sprintf("Velero on cluster %s has not looked at location %s yet; is its Deployment running in namespace %s?", c.Name, l.Name, c.VeleroNamespace)
	}
	o.Wake, err = wakeOn(ctx, c, locationResource, l)
	return o, err
}

func ensureLocations(ctx context.Context, e *kube.Env) error {
	k, err := readCredentials(ctx, e)
	if err != nil {
		return err
	}
	for _, c := range []*kube.Cluster{e.Source, e.Target} {
		if err := ensureOurNamespace(ctx, e, c); err != nil {
			return err
		}
		for _, s := range wantedSecrets(e, c, k) {
			if err := putSecret(ctx, c, s); err != nil {
				return err
			}
		}
		ca := &corev1.ConfigMap{ObjectMeta: planMeta(e, e.Settings.Namespace, MoverCAName(e)), Data: map[string]string{caKey: e.Run.Spec.Closure.Repository.Spec.CABundle}}
		if err := putConfigMap(ctx, c, ca); err != nil {
			return err
		}
		if err := putLocation(ctx, c, wantedLocation(e, c)); err != nil {
			return err
		}
	}
	return nil
}

func ensureOurNamespace(ctx context.Context, e *kube.Env, c *kube.Cluster) error {
	namespaces := c.Kube.CoreV1().Namespaces()
	have, err := namespaces.Get(ctx, e.Settings.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) { // asked first: the account may have no right to make any
		labels := map[string]string{kube.LabelManagedBy: kube.ManagedBy}
		maps.Copy(labels, privileged)
		want := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.Settings.Namespace, Labels: labels}}
		if _, err = namespaces.Create(ctx, want, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
			return c.Errorf(err, "create namespace %s", e.Settings.Namespace)
		}
		have, err = namespaces.Get(ctx, e.Settings.Namespace, metav1.GetOptions{})
	}
	if err != nil {
		return c.Errorf(err, "read namespace %s", e.Settings.Namespace)
	}
	if have.Labels["pod-security.kubernetes.io/enforce"] == "privileged" {
		return nil
	}
	if have.Labels == nil {
		have.Labels = map[string]string{}
	}
	maps.Copy(have.Labels, privileged)
	_, err = namespaces.Update(ctx, have, metav1.UpdateOptions{})
	return c.Errorf(err, "label namespace %s", e.Settings.Namespace)
}

func putSecret(ctx context.Context, c *kube.Cluster, want *corev1.Secret) error {
	secrets := c.Kube.CoreV1().Secrets(want.Namespace)
	_, err := secrets.Create(ctx, want, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return c.Errorf(err, "create Secret %s/%s", want.Namespace, want.Name)
	}
	have, err := secrets.Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return c.Errorf(err, "read Secret %s/%s", want.Namespace, want.Name)
	}
	have.Data, have.Labels, have.Annotations = want.Data, want.Labels, want.Annotations
	_, err = secrets.Update(ctx, have, metav1.UpdateOptions{})
	return c.Errorf(err, "update Secret %s/%s", want.Namespace, want.Name)
}

func putConfigMap(ctx context.Context, c *kube.Cluster, want *corev1.ConfigMap) error {
	configs := c.Kube.CoreV1().ConfigMaps(want.Namespace)
	_, err := configs.Create(ctx, want, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return c.Errorf(err, "create ConfigMap %s/%s", want.Namespace, want.Name)
	}
	have, err := configs.Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return c.Errorf(err, "read ConfigMap %s/%s", want.Namespace, want.Name)
	}
	have.Data, have.Labels, have.Annotations = want.Data, want.Labels, want.Annotations
	_, err = configs.Update(ctx, have, metav1.UpdateOptions{})
	return c.Errorf(err, "update ConfigMap %s/%s", want.Namespace, want.Name)
}

func putLocation(ctx context.Context, c *kube.Cluster, want *velerov1.BackupStorageLocation) error {
	err := create(ctx, c, locationResource, "BackupStorageLocation", want)
	if !apierrors.IsAlreadyExists(err) {
		return c.Errorf(err, "create BackupStorageLocation %s", want.Name)
	}
	have, err := c.Dynamic.Resource(locationResource).Namespace(c.VeleroNamespace).Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return c.Errorf(err, "read BackupStorageLocation %s", want.Name)
	}
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return c.Errorf(err, "encode BackupStorageLocation %s", want.Name)
	}
	now, _, _ := unstructured.NestedMap(have.Object, "spec")
	then, _, _ := unstructured.NestedMap(m, "spec")
	if reflect.DeepEqual(now, then) {
		return nil
	}
	have.Object["spec"] = then
	_, err = c.Dynamic.Resource(locationResource).Namespace(c.VeleroNamespace).Update(ctx, have, metav1.UpdateOptions{})
	return c.Errorf(err, "update BackupStorageLocation %s", want.Name)
}
