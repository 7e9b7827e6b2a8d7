package velero

import (
	"encoding/json"
	"regexp"

	"github.com/tranship/tranship/executor/kube"
	"sigs.k8s.io/yaml"
)

// Velero's own format of resource modifiers; its package is internal.
type modifiers struct {
	Version string     `json:"version"`
	Rules   []modifier `json:"resourceModifierRules"`
}

type modifier struct {
	Conditions   conditions   `json:"conditions"`
	MergePatches []mergePatch `json:"mergePatches"`
}

type conditions struct {
	Namespaces        []string `json:"namespaces,omitempty"` // of the source
	GroupResource     string   `json:"groupResource"`
	ResourceNameRegex string   `json:"resourceNameRegex,omitempty"`
}

type mergePatch struct {
	PatchData string `json:"patchData"`
}

// strayAnnotations may be left on source objects by an earlier attempt; on the
// target they would be taken for its own.
var strayAnnotations = []string{kube.AnnotationPrevious, kube.AnnotationMark, kube.AnnotationHeld, kube.AnnotationApplied}

// modifierRules are what Velero changes in each object before it creates it:
// everything is marked as this run's and loses the finalizers that only the
// source's controllers would ever remove; nothing has any effect yet, and claims
// are called what they will be called.
func modifierRules(e *kube.Env, items []kube.Item) (string, error) {
	annotations := map[string]any{}
	for _, a := range strayAnnotations {
		annotations[a] = nil
	}
	for k, v := range e.Stamps() {
		annotations[k] = v
	}
	m := modifiers{Version: "v1"}
	all := map[string]any{"metadata": map[string]any{"annotations": annotations, "finalizers": nil}}
	if err := m.add(conditions{GroupResource: "**"}, all); err != nil {
		return "", err
	}
	translation := e.Translation()
	for _, i := range items {
		c := conditions{
			Namespaces: []string{i.GetNamespace()}, GroupResource: i.GroupResource(),
			ResourceNameRegex: "^" + regexp.QuoteMeta(i.GetName()) + "$",
		}
		for _, patch := range []map[string]any{kube.HoldPatch(i), translation.ClaimPatch(i)} {
			if patch == nil {
				continue
			}
			if err := m.add(c, patch); err != nil {
				return "", err
			}
		}
	}
	raw, err := yaml.Marshal(m)
	return string(raw), err
}

func (m *modifiers) add(c conditions, patch map[string]any) error {
	raw, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	m.Rules = append(m.Rules, modifier{c, []mergePatch{{string(raw)}}})
	return nil
}
