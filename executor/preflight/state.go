package preflight

import (
	"context"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover"
	"github.com/tranship/tranship/spec"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// state is what the detailed checks ask about, read once.
type state struct {
	*kube.Env
	listed  []kube.Item // of the source: everything that the selector matches
	covered []kube.Item // of those: what is moved as objects
	all     []kube.Item // listed, and what the selector leaves out where an operator may have made it
	target  []kube.Item // everything in the target namespaces
	custom  kube.Definitions
	byUID   map[types.UID]*kube.Item // of all; made when it is asked for
	matches map[types.UID]bool       // listed; made when it is asked for
	// targetNS holds the target namespaces that exist.
	targetNS map[string]*corev1.Namespace
	volumes  mover.Discovery
}

func (s *state) read(ctx context.Context) error {
	// Definitions may have come since the last run.
	s.Source.Discovery.Invalidate()
	s.Target.Mapper.Reset()
	outer := ctx
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		s.listed, err = kube.Listed(ctx, s.Env)
		s.covered = kube.Select(s.listed)
		return err
	})
	g.Go(func() (err error) {
		s.custom, err = kube.ReadDefinitions(ctx, s.Source)
		return err
	})
	g.Go(func() (err error) {
		s.volumes, err = mover.Discover(ctx, s.Env)
		return err
	})
	g.Go(func() error { return s.readTarget(ctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	return s.readAll(outer)
}

// readAll lists what the selector leaves out, which an operator may have made of a
// custom resource that it matches.
func (s *state) readAll(ctx context.Context) (err error) {
	if s.all = s.listed; s.Plan().LabelSelector != nil && slices.ContainsFunc(s.covered, s.custom.Custom) {
		s.all, err = s.Source.ListAll(ctx, s.Namespaces(spec.Source), "")
	}
	return err
}

func (s *state) readTarget(ctx context.Context) error {
	s.targetNS = map[string]*corev1.Namespace{}
	var exist []string
	for _, name := range s.Namespaces(spec.Target) {
		ns, err := s.Target.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return s.Target.Errorf(err, "read namespace %s", name)
		}
		s.targetNS[name] = ns
		exist = append(exist, name)
	}
	if len(exist) == 0 {
		return nil
	}
	var err error
	s.target, err = s.Target.ListAll(ctx, exist, "")
	return err
}

// describe names a source object.
func describe(i kube.Item) string { return kube.Describe(i.Record(spec.Source)) }

// names lists objects for people, all of them up to a limit.
func names(items []string) string {
	const limit = 50
	if len(items) <= limit {
		return strings.Join(items, ", ")
	}
	return strings.Join(items[:limit], ", ") + ", …"
}
