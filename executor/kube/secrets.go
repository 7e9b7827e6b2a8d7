package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// maxSecret is the size of the largest Secret that Kubernetes would keep.
const maxSecret = 1 << 20

// FileSecrets reads secrets below --secrets-dir: a directory a reference, a
// file a key. It reads anew each time, so that a rotation needs no restart.
type FileSecrets struct{ Dir string }

// Read implements Secrets.
func (f FileSecrets) Read(_ context.Context, ref spec.SecretRef, defaultKey string) ([]byte, error) {
	key := keyOf(ref, defaultKey)
	if bad := badPart(ref.From); bad || badPart(key) {
		return nil, fmt.Errorf("%s is not a name below --secrets-dir", refString(ref, defaultKey))
	}
	// os.Root keeps symbolic links inside the directory; Kubernetes' own
	// volume mounts use relative ones, which stay inside.
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, fmt.Errorf("--secrets-dir cannot be read: %w", err)
	}
	defer root.Close()
	name := ref.From + "/" + key
	info, err := root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist below --secrets-dir", refString(ref, defaultKey))
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", refString(ref, defaultKey), err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSecret {
		return nil, fmt.Errorf("%s is no file of up to 1 MiB", refString(ref, defaultKey))
	}
	value, err := root.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", refString(ref, defaultKey), err)
	}
	return notEmpty(value, ref, defaultKey)
}

// Entries returns every entry of a secret, by its name.
func (f FileSecrets) Entries(ctx context.Context, from string) (map[string][]byte, error) {
	if badPart(from) {
		return nil, fmt.Errorf("secret %s is not a name below --secrets-dir", from)
	}
	files, err := os.ReadDir(filepath.Join(f.Dir, from))
	if err != nil {
		return nil, fmt.Errorf("secret %s cannot be read below --secrets-dir: %w", from, err)
	}
	entries := map[string][]byte{}
	for _, file := range files {
		if strings.HasPrefix(file.Name(), "..") { // Kubernetes' own, of a mounted Secret
			continue
		}
		if entries[file.Name()], err = f.Read(ctx, spec.SecretRef{From: from, Key: file.Name()}, ""); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// NamespaceSecrets reads Kubernetes Secrets of the daemon's own namespace.
type NamespaceSecrets struct {
	Client    kubernetes.Interface
	Namespace string
}

// Read implements Secrets.
func (n NamespaceSecrets) Read(ctx context.Context, ref spec.SecretRef, defaultKey string) ([]byte, error) {
	s, err := n.Client.CoreV1().Secrets(n.Namespace).Get(ctx, ref.From, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%s: there is no Secret %s in namespace %s", refString(ref, defaultKey), ref.From, n.Namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", refString(ref, defaultKey), err)
	}
	value, ok := s.Data[keyOf(ref, defaultKey)]
	if !ok {
		return nil, fmt.Errorf("%s: Secret %s in namespace %s has no such key", refString(ref, defaultKey), ref.From, n.Namespace)
	}
	return notEmpty(value, ref, defaultKey)
}

// Entries returns every entry of a secret, by its name.
func (n NamespaceSecrets) Entries(ctx context.Context, from string) (map[string][]byte, error) {
	s, err := n.Client.CoreV1().Secrets(n.Namespace).Get(ctx, from, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("secret %s in namespace %s cannot be read: %w", from, n.Namespace, err)
	}
	return s.Data, nil
}

func keyOf(ref spec.SecretRef, defaultKey string) string {
	if ref.Key != "" {
		return ref.Key
	}
	return defaultKey
}

// refString names a reference for people, never its value.
func refString(ref spec.SecretRef, defaultKey string) string {
	return fmt.Sprintf("secret %s (key %s)", ref.From, keyOf(ref, defaultKey))
}

func notEmpty(value []byte, ref spec.SecretRef, defaultKey string) ([]byte, error) {
	if len(TrimSpace(value)) == 0 {
		return nil, fmt.Errorf("%s is empty", refString(ref, defaultKey))
	}
	return value, nil
}

func badPart(s string) bool {
	return s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\\\x00")
}

// TrimSpace drops the line end that editors and echo leave in secret files.
func TrimSpace(b []byte) []byte { return bytes.TrimSpace(b) }
