package workload

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bounds of what a message repeats of a container's log.
const (
	lastLines     = int64(3)
	lastBytes     = int64(2000)
	shortestPart  = 6
	shortestValue = 4 // bytes; shorter values of Secrets would tear ordinary words out
)

// suspicious lines may hold a credential that no Secret tells us about.
var suspicious = regexp.MustCompile(`(?i)passw|pwd|credential|logon|login|secret|token|api[_-]?key|private key|authorization|bearer|://[^\s/]*@`)

const hidden = "<hidden>"

// LastWords are the last lines of the container of p that has crashed, "" when
// none has. They go into a record that others read: values of the namespace's
// Secrets are taken out, and without knowing these nothing is said.
func LastWords(ctx context.Context, c *kube.Cluster, p *corev1.Pod) string {
	name, previous := crashed(p)
	if name == "" {
		return ""
	}
	secrets, err := c.Kube.CoreV1().Secrets(p.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return ""
	}
	tail, limit := lastLines, lastBytes
	stream, err := c.Kube.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: name, Previous: previous, TailLines: &tail, LimitBytes: &limit}).Stream(ctx)
	if err != nil {
		return ""
	}
	defer stream.Close()
	raw, err := io.ReadAll(io.LimitReader(stream, lastBytes))
	if err != nil {
		return ""
	}
	if int64(len(raw)) == lastBytes { // a value that is cut would not be found
		raw = raw[:bytes.LastIndexByte(raw, '\n')+1]
	}
	return harmless(string(bytes.ToValidUTF8(raw, nil)), secrets.Items)
}

// crashed names the container that has ended with an error, and whether it is
// its previous instance that has.
func crashed(p *corev1.Pod) (container string, previous bool) {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return s.Name, false
		}
		if t := s.LastTerminationState.Terminated; t != nil && t.ExitCode != 0 && !s.Ready {
			return s.Name, true
		}
	}
	return "", false
}

// between separates the parts of a value that holds several, such as a
// connection string or a file of settings.
var between = regexp.MustCompile("[\\s\"'`=:;,@/&?(){}\\[\\]<>|\\\\]+")

// valuesOf are the values of Secrets, whole, by line and in parts, in the forms
// in which programs print them.
func valuesOf(secrets []corev1.Secret) (values []string) {
	add := func(s string, shortest int) {
		if s = strings.TrimSpace(s); len(s) < shortest {
			return
		}
		quoted, err := json.Marshal(s)
		if err == nil {
			values = append(values, strings.Trim(string(quoted), `"`))
		}
		values = append(values, s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)))
	}
	for _, s := range secrets {
		for _, v := range s.Data {
			add(string(v), shortestValue)
			for _, line := range strings.Split(string(v), "\n") {
				add(line, shortestValue)
			}
			for _, part := range between.Split(string(v), -1) {
				add(part, shortestPart)
			}
		}
	}
	return values
}

// harmless puts lines into one, without what must not be seen.
func harmless(text string, secrets []corev1.Secret) string {
	values := valuesOf(secrets)
	// The longest first: one value may be part of another.
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	for _, v := range values {
		text = strings.ReplaceAll(text, v, hidden)
	}
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		if suspicious.MatchString(l) {
			l = hidden
		}
		lines = append(lines, strings.TrimSpace(l))
	}
	return strings.Join(lines, " | ")
}
