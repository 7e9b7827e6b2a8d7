package kube

import "github.com/tranship/tranship/spec"

// Verbs is this package's part of the registry.
func Verbs() map[string]Verb {
	return map[string]Verb{
		"kube.namespaces":       {Look: lookNamespaces, Ensure: ensureNamespaces},
		"kube.namespaces-undo":  {Look: lookNamespacesUndo, Ensure: ensureNamespacesUndo},
		"kube.dry-run":          {Look: lookDryRun},
		"kube.list-again":       {Look: lookListAgain, Ensure: ensureListAgain},
		"kube.update":           {Look: lookUpdate, Ensure: ensureUpdate},
		"kube.update-undo":      {Look: lookUpdateUndo, Ensure: ensureUpdateUndo, Needs: []spec.Side{spec.Target}},
		"kube.keep":             {Look: lookKeep, Ensure: ensureKeep},
		"kube.keep-undo":        {Look: lookKeepUndo, Ensure: ensureKeepUndo, Needs: []spec.Side{spec.Source}},
		"kube.custom":           {Look: lookCustom, Ensure: ensureCustom, Needs: []spec.Side{spec.Target}}, // of a cutover it asks for the source itself
		"kube.custom-undo":      {Look: lookCustomUndo, Ensure: ensureCustomUndo, Needs: []spec.Side{spec.Target}},
		"kube.autoscalers":      {Look: lookAutoscalers, Ensure: ensureAutoscalers},
		"kube.autoscalers-undo": {Look: lookAutoscalersUndo, Ensure: ensureAutoscalersUndo, Needs: []spec.Side{spec.Target}},
		"kube.traffic":          {Look: lookTraffic, Ensure: ensureTraffic},
		"kube.traffic-undo":     {Look: lookTrafficUndo, Ensure: ensureTrafficUndo},
		"kube.release":          {Look: lookRelease, Ensure: ensureRelease},
	}
}
