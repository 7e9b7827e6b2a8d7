package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxNamed is how many objects a message names.
const maxNamed = 20

// lookDryRun asks the target's API server to create every covered object
// without keeping it. It collects all refusals: one round of repair is
// enough for people.
func lookDryRun(ctx context.Context, e *Env) (reconciler.Observation, error) {
	items, err := Covered(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	var (
		mu       sync.Mutex
		refusals []string
		unasked  []string
	)
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, i := range items {
		if DefaultAccount(i) {
			continue
		}
		g.Go(func() error {
			refusal, silent, err := tryCreate(group, e, i)
			mu.Lock()
			defer mu.Unlock()
			if refusal != "" {
				refusals = append(refusals, refusal)
			}
			if silent {
				unasked = append(unasked, Describe(i.Record(spec.Source)))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return reconciler.Observation{}, err
	}
	taken, silent, err := trafficConflicts(ctx, e, items)
	if err != nil {
		return reconciler.Observation{}, err
	}
	refusals, unasked = append(refusals, taken...), append(unasked, silent...)
	slices.Sort(refusals)
	slices.Sort(unasked)
	return dryRunVerdict(e, len(items), refusals, unasked), nil
}

func dryRunVerdict(e *Env, all int, refusals, unasked []string) reconciler.Observation {
	if len(refusals) > 0 {
		return reconciler.Observation{
			Seen: reconciler.Broken, Final: true, Reason: "DryRunFailed", Log: strings.Join(refusals, "\n"),
			Message: fmt.Sprintf("cluster %s refuses %d of %d objects: %s", e.Target.Name, len(refusals), all, limited(refusals, "; ")),
		}
	}
	o := reconciler.Observation{Seen: reconciler.Succeeded, Message: fmt.Sprintf("cluster %s accepts all %d objects", e.Target.Name, all-len(unasked))}
	if len(unasked) > 0 {
		o.Message += "; not asked, because a webhook there refuses dry runs, the account may not list what others use, or their ServiceAccounts come with the restore: " + limited(unasked, ", ")
	}
	return o
}

func limited(texts []string, separator string) string {
	if len(texts) <= maxNamed {
		return strings.Join(texts, separator)
	}
	return strings.Join(texts[:maxNamed], separator) + fmt.Sprintf("%sand %d more", separator, len(texts)-maxNamed)
}

// tryCreate returns why the target refuses an object, or silent when a
// webhook there cannot be asked.
func tryCreate(ctx context.Context, e *Env, i Item) (refusal string, silent bool, err error) {
	held := Held(i, e.Translation())
	gvr, err := e.Target.resource(held)
	if meta.IsNoMatchError(err) {
		return fmt.Sprintf("%s: the cluster has no %s %s", Describe(i.Record(spec.Source)), i.GetAPIVersion(), i.GetKind()), false, nil
	}
	if err != nil {
		return "", false, err
	}
	_, err = e.Target.Dynamic.Resource(gvr).Namespace(held.GetNamespace()).Create(ctx, held.Unstructured, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if apierrors.IsAlreadyExists(err) {
		return existing(ctx, e, i, held, gvr)
	}
	if errNoAccount(err) {
		return "", true, nil
	}
	return answered(e.Target, Describe(i.Record(spec.Source)), err)
}

// tryUpdate asks the same of an update in place: what cannot be changed in an
// object is refused while the application still runs.
func tryUpdate(ctx context.Context, e *Env, source, held, have Item) (refusal string, silent bool, err error) {
	if why := NotUpdated(source, have); why != "" {
		return fmt.Sprintf("%s is not updated: %s; remove it, or leave it as it is with existing: Skip", Describe(have.Record(spec.Target)), why), false, nil
	}
	want := e.onto(Item{have.GVR, held.DeepCopy()}, have)
	_, err = e.Target.Dynamic.Resource(have.GVR).Namespace(have.GetNamespace()).Update(ctx, want.Unstructured, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: fieldManager})
	return answered(e.Target, Describe(have.Record(spec.Target))+" is not updated", err)
}

// answered sorts what an API server says to a dry run.
func answered(c *Cluster, object string, err error) (refusal string, silent bool, _ error) {
	switch {
	case err == nil:
		return "", false, nil
	case apierrors.IsBadRequest(err) && strings.Contains(err.Error(), "does not support dry run"):
		return "", true, nil
	case definite(err):
		return fmt.Sprintf("%s: %s", object, apiMessage(err)), false, nil
	}
	return "", false, c.wrap(err, "dry-run %s", object)
}

// definite says that asking again gives the same answer.
func definite(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsRequestEntityTooLargeError(err) ||
		apierrors.ReasonForError(err) == metav1.StatusReasonNotAcceptable || webhookRefusal(err)
}

// webhookRefusal: a webhook may answer with any code; the server says so.
func webhookRefusal(err error) bool {
	return strings.Contains(err.Error(), "admission webhook") && strings.Contains(err.Error(), "denied the request")
}
