package preflight

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// limits are CAM's (F-127..F-132): more namespaces are refused, more pods or
// volumes only said.
func limits(_ context.Context, s *state) ([]Finding, error) {
	l := s.Settings.Limits
	pods := 0
	for _, i := range s.listed {
		if i.GetKind() == "Pod" && i.GVR.Group == "" && !kube.Finished(i) {
			pods++
		}
	}
	var found []Finding
	for _, c := range []struct {
		what, reason string
		have, limit  int
		warning      bool
	}{
		{"namespaces", "NamespaceLimitExceeded", len(s.Plan().Namespaces), cmp.Or(l.Namespaces, 10), false},
		{"pods", "PodLimitExceeded", pods, cmp.Or(l.Pods, 100), true},
		{"volumes", "PvLimitExceeded", len(s.volumes.Volumes), cmp.Or(l.Volumes, 100), true},
	} {
		if c.have > c.limit {
			found = append(found, Finding{Reason: c.reason, Warning: c.warning,
				Message: fmt.Sprintf("the plan has %d %s and the daemon's limit is %d; split the plan or raise spec.limits.%s of the daemon's configuration", c.have, c.what, c.limit, c.what)})
		}
	}
	return found, nil
}

// targetNamespaces: one that exists must let the same pods run as the
// source's does.
func targetNamespaces(ctx context.Context, s *state) ([]Finding, error) {
	var found []Finding
	for _, m := range s.Plan().Namespaces {
		have := s.targetNS[m.Target()]
		if have == nil {
			continue
		}
		object := "target Namespace " + m.Target()
		if have.DeletionTimestamp != nil {
			found = append(found, Finding{Reason: "NamespaceTerminating", Object: object, Passing: true,
				Message: fmt.Sprintf("namespace %s on cluster %s is being deleted; wait for its end", m.Target(), s.Target.Name)})
			continue
		}
		source, err := s.Source.Kube.CoreV1().Namespaces().Get(ctx, m.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, s.Source.Errorf(err, "read namespace %s", m.Name)
		}
		if d := differing(kube.PlacingOf(source), kube.PlacingOf(have)); len(d) > 0 {
			found = append(found, Finding{Reason: "NamespaceDiffers", Object: object,
				Message: fmt.Sprintf("namespace %s on cluster %s differs from the source's %s in what decides which pods may run: %s; make them equal or delete the namespace", m.Target(), s.Target.Name, m.Name, strings.Join(d, ", "))})
		}
	}
	return found, nil
}

func differing(a, b map[string]string) []string {
	var keys []string
	for _, m := range []map[string]string{a, b} {
		for k := range m {
			if a[k] != b[k] && !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

var deploymentConfig = schema.GroupKind{Group: "apps.openshift.io", Kind: "DeploymentConfig"}

// makers are what makes workloads and is itself stopped and moved.
var makers = map[string][]string{
	"ReplicaSet":            {"Deployment"},
	"ReplicationController": {"DeploymentConfig"},
	"Job":                   {"CronJob", "ScaledJob"},
}

const untriggered = "DeploymentConfigs without a trigger, which the target would never roll out"

// workloads refuses by name what this version would not move faithfully.
func workloads(_ context.Context, s *state) ([]Finding, error) {
	refused := map[string][]string{}
	for _, i := range s.covered {
		if i.GroupVersionKind().GroupKind() == deploymentConfig && !rollsOut(i) {
			refused[untriggered] = append(refused[untriggered], describe(i))
		}
	}
	if of := s.ofBarePods(); len(of) > 0 {
		refused[goesWithPod] = of
	}
	found := append(s.operands(refused), barePods(s)...)
	if len(refused) == 0 {
		return found, nil
	}
	var parts, all []string
	for _, kind := range slices.Sorted(maps.Keys(refused)) {
		parts = append(parts, kind+": "+names(refused[kind]))
		all = append(all, refused[kind]...)
	}
	return append(found, Finding{Reason: "UnsupportedWorkload", Object: all[0],
		Message: "this version does not migrate " + strings.Join(parts, "; ") + "; leave them out with spec.labelSelector or remove them first"}), nil
}

// barePods names the pods that nothing makes again, and what that costs them.
func barePods(s *state) []Finding {
	var bare []string
	for _, i := range s.covered {
		if kube.Bare(i) {
			bare = append(bare, describe(i))
		}
	}
	if len(bare) == 0 {
		return nil
	}
	message := "pods without a controller are made on the target too, beside those of the source: "
	if s.Plan().Cutover.QuiesceOrDefault() {
		message = "the stop deletes pods without a controller; they are made anew on the target, and on the source by a rollback, without the content of their emptyDir and ephemeral volumes, their logs and their addresses"
		if slices.ContainsFunc(s.Plan().Hooks, kube.MayStop) {
			message += " (what a PreBackup hook has removed by then is made anew on neither side)"
		}
		message += ": "
	}
	return []Finding{{Reason: "PodsMadeAnew", Warning: true, Object: bare[0], Message: message + names(bare)}}
}

const goesWithPod = "objects that belong to a pod without a controller, and would go for good when the stop deletes it"

// forPods are groups of what is made anew for each pod.
var forPods = map[string]bool{"resource.k8s.io": true, "coordination.k8s.io": true, "discovery.k8s.io": true, "events.k8s.io": true}

// ofBarePods are objects that the garbage collector would delete with a pod that the
// stop deletes, and that nothing makes again. A claim is looked after by the step
// retain, pods end with their controller, and what an API server or an operator makes
// for a pod it makes for the next.
func (s *state) ofBarePods() (all []string) {
	bare := map[types.UID]bool{}
	for _, i := range s.covered {
		bare[i.GetUID()] = kube.Bare(i)
	}
	if !s.Plan().Cutover.QuiesceOrDefault() || slices.ContainsFunc(s.Plan().Hooks, kube.MayStop) { // the hook may remove them
		return nil
	}
	for _, i := range s.all {
		if of := i.GVR.Group; strings.Contains(of, ".") && (!strings.HasSuffix(of, ".k8s.io") || forPods[of]) || i.GetKind() == "Pod" || i.GetKind() == "PersistentVolumeClaim" {
			continue
		}
		if slices.ContainsFunc(i.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return o.Kind == "Pod" && bare[o.UID] }) {
			all = append(all, describe(i))
		}
	}
	return all
}

// kinds: what the source has in a version that the target does not serve.
func kinds(_ context.Context, s *state) ([]Finding, error) {
	missing := map[string][]string{}
	known := map[schema.GroupVersionKind]bool{}
	for _, i := range s.covered {
		gvk := i.GroupVersionKind()
		has, asked := known[gvk]
		if !asked {
			var err error
			if has, err = s.Target.Has(i); err != nil {
				return nil, err
			}
			known[gvk] = has
		}
		if !has {
			k := i.GetAPIVersion() + " " + i.GetKind()
			missing[k] = append(missing[k], describe(i))
		}
	}
	var found []Finding
	for _, k := range slices.Sorted(maps.Keys(missing)) {
		found = append(found, Finding{Reason: "GVKsIncompatible", Object: missing[k][0],
			Message: fmt.Sprintf("cluster %s does not know %s: %s", s.Target.Name, k, names(missing[k]))})
	}
	return found, nil
}

// volumes are the mover's own findings.
func volumes(_ context.Context, s *state) ([]Finding, error) {
	var found []Finding
	for _, p := range s.volumes.Problems {
		found = append(found, Finding{Reason: p.Reason, Object: p.Object, Message: p.Message})
	}
	if !s.Plan().Cutover.QuiesceOrDefault() {
		found = append(found, unstopped(s)...)
	}
	for _, w := range s.volumes.Warnings {
		found = append(found, Finding{Reason: "NotMigrated", Message: w, Warning: true})
	}
	return slices.Concat(found, jobs(s), paused(s), kept(s)), nil
}

// kept names what would start workloads again while they are stopped. It is
// asked before the stop, because then the cutover would only fail.
func kept(s *state) []Finding {
	if !s.Plan().Cutover.QuiesceOrDefault() {
		return nil
	}
	by := map[string][]string{}
	for _, i := range s.covered {
		if keeper := kube.Keeper(i); keeper != "" && kube.Runs(i) {
			by[keeper] = append(by[keeper], describe(i))
		}
	}
	var found []Finding
	for _, keeper := range slices.Sorted(maps.Keys(by)) {
		found = append(found, Finding{Reason: "ScaledByOthers", Warning: true, Object: by[keeper][0],
			Message: fmt.Sprintf("%s may start again what the cutover stops, which then fails and is undone: pause it, or let a PreBackup hook do so: %s", keeper, names(by[keeper]))})
	}
	return found
}

// unstopped: two clusters must never write to one volume.
func unstopped(s *state) []Finding {
	found := []Finding{{Reason: "NotStopped", Warning: true, Message: "cutover.quiesce is false: the application is not stopped, and what it writes during and after the last copy is not on the target"}}
	for _, v := range s.volumes.Volumes {
		if v.Action == "move" {
			found = append(found, Finding{Reason: "MovedWithoutStop", Object: fmt.Sprintf("source PersistentVolumeClaim %s/%s", v.Namespace, v.Claim),
				Message: fmt.Sprintf("claim %s/%s is to be moved, and cutover.quiesce is false: both clusters would write to its storage; write action: copy, or quiesce: true", v.Namespace, v.Claim)})
		}
	}
	return found
}

// rollsOut says that a new DeploymentConfig of that content is rolled out by
// itself: one without triggers waits for a person.
func rollsOut(i kube.Item) bool {
	triggers, _, _ := unstructured.NestedSlice(i.Object, "spec", "triggers")
	return slices.ContainsFunc(triggers, func(t any) bool {
		m, _ := t.(map[string]any)
		return m["type"] == "ConfigChange" || m["type"] == "ImageChange"
	})
}

// paused Deployments may run an older template than the one that is written in
// them, and only that one is moved.
func paused(s *state) []Finding {
	var halfway []string
	for _, i := range s.covered {
		is, _, _ := unstructured.NestedBool(i.Object, "spec", "paused")
		all, _, _ := unstructured.NestedInt64(i.Object, "status", "replicas")
		updated, _, _ := unstructured.NestedInt64(i.Object, "status", "updatedReplicas")
		if runs := i.GetKind() == "Deployment" || i.GroupVersionKind().GroupKind() == deploymentConfig; runs && is && updated < all {
			halfway = append(halfway, describe(i))
		}
	}
	if len(halfway) == 0 {
		return nil
	}
	return []Finding{{Reason: "PausedRollout", Warning: true, Object: halfway[0],
		Message: "paused Deployments run their newest template on the target, on the source some pods run an older one: " + names(halfway)}}
}

// jobs says what becomes of Jobs, which cannot be moved in the middle.
func jobs(s *state) []Finding {
	var finished, running, made []string
	for _, i := range s.listed {
		switch c := metav1.GetControllerOf(i); {
		case i.GVR.Group != "batch" || i.GetKind() != "Job":
		case c == nil && kube.Finished(i):
			finished = append(finished, describe(i))
		case c == nil:
			running = append(running, describe(i))
		case (c.Kind == "CronJob" || c.Kind == "ScaledJob") && !kube.Finished(i):
			made = append(made, describe(i))
		}
	}
	var found []Finding
	say := func(message string, jobs []string) {
		if len(jobs) > 0 {
			found = append(found, Finding{Reason: "NotMigrated", Warning: true, Message: message + names(jobs)})
		}
	}
	say("finished Jobs are not migrated, they would run again: ", finished)
	say("Jobs that have not finished by the stop begin anew on the target: ", running)
	say("Jobs of CronJobs and ScaledJobs that have not finished by the stop end there, and those of the target make their next ones when these are due: ", made)
	return found
}

// existingClaims: the hand-over creates claims of these names.
func existingClaims(_ context.Context, s *state) ([]Finding, error) {
	var found []Finding
	for _, v := range s.volumes.Volumes {
		for _, i := range s.target {
			if i.GetKind() == "PersistentVolumeClaim" && i.GetNamespace() == v.TargetNamespace && i.GetName() == v.TargetClaim && v.Action != "skip" && !kube.OfPlan(s.Env, i) {
				found = append(found, Finding{Reason: "ExistingObject", Object: kube.Describe(i.Record(spec.Target)),
					Message: fmt.Sprintf("claim %s/%s exists on cluster %s and is not of plan %s; remove it, or name another in volumes.overrides (targetClaim)", v.TargetNamespace, v.TargetClaim, s.Target.Name, s.Run.Spec.Plan)})
			}
		}
	}
	return found, nil
}

// externalDNS is how annotations begin that have external-dns publish names.
const externalDNS = "external-dns.alpha.kubernetes.io/"

// publishedNames says, before anything is stopped, what will be published twice:
// the source's objects stay, and the target's are published by its own controller.
func publishedNames(_ context.Context, s *state) ([]Finding, error) {
	var published []string
	for _, i := range s.covered {
		if host := i.GetAnnotations()[externalDNS+"hostname"]; host != "" {
			published = append(published, fmt.Sprintf("%s (%s)", describe(i), host))
			continue
		}
		for k := range i.GetAnnotations() {
			if strings.HasPrefix(k, externalDNS) {
				published = append(published, describe(i))
				break
			}
		}
	}
	if len(published) == 0 {
		return nil, nil
	}
	return []Finding{{Reason: "PublishedByExternalDNS", Object: published[0], Warning: true,
		Message: fmt.Sprintf("external-dns publishes the addresses of %s: from the cutover on both clusters ask for these names; let only one external-dns own them (its owner id), and take the annotation off the source's objects once users reach the target", names(published))}}, nil
}
