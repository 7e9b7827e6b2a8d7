package preflight

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
)

// existingObjects refuses to meet others' objects on the target, or says what
// becomes of them.
func existingObjects(_ context.Context, s *state) ([]Finding, error) {
	found := leftBehind(s)
	covered, there := kube.Foreign(s.Env, s.covered, s.target)
	if len(there) == 0 {
		return found, nil
	}
	var taken []string
	for _, t := range there {
		taken = append(taken, kube.Describe(t.Record(spec.Target)))
	}
	say := fmt.Sprintf("on cluster %s there are already, and not of plan %s: %s; ", s.Target.Name, s.Run.Spec.Plan, names(taken))
	switch s.Plan().ExistingOrDefault() {
	case spec.ExistingSkip:
		return append(found, Finding{Reason: "ExistingObject", Object: taken[0], Warning: true, Message: say + "they are left as they are, and the source's are not moved (existing: Skip)"}), nil
	case spec.ExistingUpdate:
		return append(found, updatedObjects(s, covered, there)...), nil
	}
	return append(found, Finding{Reason: "ExistingObject", Object: taken[0], Message: say + "remove them, map the namespace to another name, leave them as they are with existing: Skip, or have them updated with existing: Update"}), nil
}

// leftBehind refuses custom resources and pods of earlier runs: the cutover would take
// none of them for its own, and find that only when the source is stopped.
func leftBehind(s *state) []Finding {
	var left []string
	covered, there := kube.LeftBehind(s.Env, s.covered, s.target)
	for n, t := range there {
		if s.custom.Custom(covered[n]) || kube.Bare(covered[n]) {
			left = append(left, kube.Describe(t.Record(spec.Target)))
		}
	}
	if len(left) == 0 {
		return nil
	}
	return []Finding{{Reason: "ExistingObject", Object: left[0],
		Message: fmt.Sprintf("on cluster %s an earlier run of plan %s has left custom resources or pods, which run: %s; remove them", s.Target.Name, s.Run.Spec.Plan, names(left))}}
}

// updatedObjects names those that cannot be updated, those that will be, and of
// these the ones whose pods the cutover stops on the target.
func updatedObjects(s *state, covered, there []kube.Item) []Finding {
	var found []Finding
	var updated, stopped, kept []string
	for n, t := range there {
		name := kube.Describe(t.Record(spec.Target))
		why := kube.NotUpdated(covered[n], t)
		if s.custom.Custom(covered[n]) {
			why = "its operator would act on it while the cutover holds everything at zero"
		}
		if why != "" {
			found = append(found, Finding{Reason: "ExistingObject", Object: name,
				Message: fmt.Sprintf("%s on cluster %s is not of plan %s and is not updated: %s; remove it, or leave what is there as it is with existing: Skip", name, s.Target.Name, s.Run.Spec.Plan, why)})
			continue
		}
		updated = append(updated, name)
		if pods := kube.Pods(t); kube.Runs(t) && pods > 0 {
			stopped = append(stopped, fmt.Sprintf("%s (%d pods)", name, pods))
		}
		if k := kube.Keeper(t); k != "" {
			kept = append(kept, fmt.Sprintf("%s (%s)", name, k))
		}
	}
	warn := func(list []string, message string) {
		if len(list) > 0 {
			found = append(found, Finding{Reason: "ExistingObject", Object: list[0], Warning: true, Message: fmt.Sprintf(message, s.Target.Name, names(list))})
		}
	}
	warn(updated, "on cluster %s these were there before and are made what the source has (existing: Update); a rollback puts them back: %s")
	warn(stopped, "on cluster %s the cutover stops these before it stops the source, and they stay down until it starts them as the source's: %s")
	warn(kept, "on cluster %s these are kept as they are by tools that would change them back; pause these first: %s")
	return found
}
