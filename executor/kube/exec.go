package kube

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// Exec runs a command in a container of a pod of ours, gives it input and
// returns what it prints. The command's own failure is an error with what it
// wrote to its standard error.
type Exec func(ctx context.Context, pod *corev1.Pod, container string, command []string, input []byte) ([]byte, error)

// execOver runs commands through the API server: over WebSocket where the
// server can (Kubernetes 1.30 and later), else over SPDY.
func execOver(config *rest.Config, client rest.Interface) Exec {
	return func(ctx context.Context, pod *corev1.Pod, container string, command []string, input []byte) ([]byte, error) {
		ctx, stop := context.WithTimeout(ctx, requestTimeout)
		defer stop()
		req := client.Get().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
		run, err := executorOf(config, req.URL())
		if err != nil {
			return nil, fmt.Errorf("cannot prepare a command in pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		var out, complaint bytes.Buffer
		err = run.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: bytes.NewReader(input), Stdout: &out, Stderr: &complaint})
		if err != nil {
			return nil, fmt.Errorf("cannot run %v in pod %s/%s: %w %s", command, pod.Namespace, pod.Name, err, bytes.TrimSpace(complaint.Bytes()))
		}
		return out.Bytes(), nil
	}
}

func executorOf(config *rest.Config, u *url.URL) (remotecommand.Executor, error) {
	spdy, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	if err != nil {
		return nil, err
	}
	socket, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(socket, spdy, httpstream.IsUpgradeFailure)
}
