package velero

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
)

// results is Velero's file of warnings and errors.
type results map[string]resultList

type resultList struct {
	Velero     []string            `json:"velero,omitempty"`
	Cluster    []string            `json:"cluster,omitempty"`
	Namespaces map[string][]string `json:"namespaces,omitempty"`
}

func parseResults(raw []byte) (results, error) {
	r := results{}
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("Velero's results cannot be read: %w", err)
	}
	return r, nil
}

// lines are the messages of one severity ("errors" or "warnings"), each with
// the namespace it belongs to.
func (r results) lines(severity string) []string {
	l := r[severity]
	var out []string
	for _, m := range l.Velero {
		out = append(out, "velero: "+m)
	}
	for _, m := range l.Cluster {
		out = append(out, "cluster: "+m)
	}
	for ns, list := range l.Namespaces {
		for _, m := range list {
			out = append(out, ns+": "+m)
		}
	}
	slices.Sort(out)
	return out
}

// conflicts are the warnings that say that an object of the backup is not on
// the target as it should be, because another of its name was there. They are
// failures to us: success is proven, not assumed.
func conflicts(warnings []string) []string {
	var out []string
	for _, w := range warnings {
		if !strings.Contains(w, "already exists") || builtInRole(w) {
			continue
		}
		out = append(out, w)
	}
	return out
}

// blocking are the conflicts that the plan does not allow. Under existing: Skip
// the restore takes only what is not there; what Velero takes along outside of
// namespaces is not chosen by us, and may be there.
func blocking(e *kube.Env, conflicts []string) []string {
	if e.Plan().ExistingOrDefault() != spec.ExistingSkip {
		return conflicts
	}
	return slices.DeleteFunc(conflicts, func(c string) bool { return strings.HasPrefix(c, "cluster: ") })
}

// builtInRole: Velero takes along the ClusterRoles that a ServiceAccount is
// bound to; those that Kubernetes itself maintains differ between versions.
func builtInRole(warning string) bool {
	for _, name := range []string{"admin", "edit", "view", "cluster-admin"} {
		for _, form := range []string{`ClusterRole:%s already exists`, `ClusterRole %q already exists`} {
			if strings.Contains(warning, fmt.Sprintf(form, name)) {
				return true
			}
		}
	}
	return strings.Contains(warning, "ClusterRole:system:") || strings.Contains(warning, `ClusterRole "system:`)
}

// created are the objects that a restore made, from its resource list: a map
// of "apps/v1/Deployment" to entries such as "shop/web(created)".
type restored struct {
	apiVersion, kind, namespace, name string
}

func createdOf(raw []byte) ([]restored, error) {
	list := map[string][]string{}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("Velero's list of restored objects cannot be read: %w", err)
	}
	var out []restored
	for key, entries := range list {
		at := strings.LastIndex(key, "/")
		if at < 0 {
			return nil, fmt.Errorf("Velero's list of restored objects holds the unknown key %q", key)
		}
		for _, entry := range entries {
			path, ok := strings.CutSuffix(entry, "(created)")
			if !ok {
				continue
			}
			r := restored{apiVersion: key[:at], kind: key[at+1:], name: path}
			if ns, name, found := strings.Cut(path, "/"); found {
				r.namespace, r.name = ns, name
			}
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b restored) int {
		return strings.Compare(a.kind+"/"+a.namespace+"/"+a.name, b.kind+"/"+b.namespace+"/"+b.name)
	})
	return out, nil
}

// short joins messages for people.
func short(messages []string) string {
	const limit = 5
	if len(messages) <= limit {
		return strings.Join(messages, "; ")
	}
	return strings.Join(messages[:limit], "; ") + fmt.Sprintf("; and %d more", len(messages)-limit)
}
