package mover

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	directPort  = "7443"
	identityDir = "/identity"
	// annotationAuthority of an identity tells which other one it belongs to.
	annotationAuthority = "tranship.dev/authority"
)

// senders is what a sender's Job needs beyond a reader's.
type senders struct {
	identity string           // name of the Secret
	peers    map[string]basis // by key of volume
}

// basis is what a receiver begins with: its sender must begin with the same.
type basis struct {
	address string // of the receiver
	content bool   // everything is compared by content
	held    string // the snapshot that the claim holds; "" with a claim that is new
}

const comparedByContent = "compared by content"

// String is the basis as a receiver's Job is annotated with it.
func (b basis) String() string {
	if b.content {
		return comparedByContent
	}
	return b.held
}

func parseBasis(s string) basis {
	if s == comparedByContent {
		return basis{content: true}
	}
	return basis{held: s}
}

// complete makes a sender of a reader.
func (n *senders) complete(s *jobSpec, req *engine.Request) {
	req.Op, req.Direct = engine.OpSend, &engine.Direct{Dir: identityDir}
	for i := range req.Volumes {
		v := &req.Volumes[i]
		b := n.peers[v.Name]
		v.Peer, v.Content, v.Parent = b.address, b.content, b.held
	}
	s.prove(n.identity)
}

// prove mounts an identity.
func (s *jobSpec) prove(secret string) {
	s.sources = append(s.sources, corev1.Volume{Name: "identity", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret, DefaultMode: ptr.To[int32](0o400)}}})
	s.mounts = append(s.mounts, corev1.VolumeMount{Name: "identity", MountPath: identityDir, ReadOnly: true})
}

// receiver is the Job of one group: a writer that waits for what is sent.
func (d *directView) receiver(g *writeGroup) jobSpec {
	s := d.down.writer(g)
	req := &s.assignment.Request
	req.Op, req.Direct = engine.OpReceive, &engine.Direct{Dir: identityDir, Listen: ":" + directPort}
	for i := range req.Volumes {
		v := &req.Volumes[i]
		for _, w := range g.writes {
			if key(w.v) == v.Name {
				b := d.basis(w)
				v.Snapshot, v.Held, v.Content = "", b.held, b.content
				s.volumes[v.Name] = b.String()
			}
		}
	}
	s.prove(identityName(d.e))
	return s
}

// basis is what the mark of a claim vouches for, unless the claim was found to differ.
func (d *directView) basis(w *writing) basis {
	found := w.v.Verified != nil && w.v.Verified.Errors > 0
	if found || !w.mark.trusted() {
		return basis{content: true}
	}
	return basis{held: w.mark.held}
}

// receivers starts the receivers, and says for which of them it waits.
func (d *directView) receivers(t *thought) (waits []reconciler.Observation) {
	if o := d.identify(t); o {
		return nil
	}
	d.up.senders.peers = map[string]basis{}
	for _, g := range d.groups {
		h := d.job(g)
		switch {
		case h == nil:
			d.begin(t, g)
		case h.leaving():
			waits = append(waits, working("WriterLeaving", object(spec.Target, "Job", d.e.Settings.Namespace, h.name), "waits until Job %s/%s has ended on cluster %s", d.e.Settings.Namespace, h.name, d.e.Target.Name))
		case h.active():
			address := d.ways[h.name].address
			if address == "" {
				waits = append(waits, d.unreached(t, g, h))
			}
			for k, begins := range h.volumes {
				b := parseBasis(begins)
				b.address = address
				d.up.senders.peers[k] = b
			}
		}
	}
	return waits
}

// begin marks what a receiver is going to write and starts it. The marks come
// first: whoever finds a claim marked must expect a half-written volume.
func (d *directView) begin(t *thought, g *writeGroup) {
	s := d.receiver(g)
	for _, w := range g.writes {
		if !sentDirectly(w.v) {
			continue
		}
		t.move(fmt.Sprintf("mark claim %s/%s on cluster %s as being written", w.claim.Namespace, w.claim.Name, d.e.Target.Name), func(ctx context.Context) error {
			m, err := w.mark.writing(nextMark(s.name))
			if err != nil {
				return err
			}
			return setMark(ctx, d.e, d.e.Target, w.claim, m)
		})
	}
	t.move(fmt.Sprintf("start receiver Job %s/%s for %s on cluster %s", d.e.Settings.Namespace, s.name, strings.Join(sortedKeys(s.volumes), ", "), d.e.Target.Name), func(ctx context.Context) error {
		place, err := d.down.place(ctx, g)
		if err != nil {
			return err
		}
		s.place = place
		return s.start(ctx, d.e, d.e.Target)
	})
}

func identityName(e *kube.Env) string { return e.ObjectName("identity") }

// readIdentities reads this attempt's identities of both clusters.
func readIdentities(ctx context.Context, e *kube.Env) (map[*kube.Cluster]*corev1.Secret, error) {
	out := map[*kube.Cluster]*corev1.Secret{}
	for _, on := range []*kube.Cluster{e.Source, e.Target} {
		s, err := on.Kube.CoreV1().Secrets(e.Settings.Namespace).Get(ctx, identityName(e), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read Secret %s/%s of cluster %s: %w", e.Settings.Namespace, identityName(e), on.Name, err)
		}
		out[on] = s
	}
	return out, nil
}

// identify makes the identities of both sides, unless they are there. A pair of
// which one half is missing, or is of another authority, is made anew: the key
// that could complete it was never written down.
func (d *directView) identify(t *thought) (missing bool) {
	a, b := d.proofs[d.e.Source], d.proofs[d.e.Target]
	if a != nil && b != nil && a.Annotations[annotationAuthority] == b.Annotations[annotationAuthority] {
		return false
	}
	t.move("give both movers a proof of who they are", func(ctx context.Context) error {
		for on, s := range d.proofs {
			if err := deleteIdentity(ctx, on, s); err != nil {
				return err
			}
		}
		valid := time.Duration(*seconds(d.e))*time.Second + time.Hour
		receiver, sender, err := engine.NewIdentities(time.Now(), valid)
		if err != nil {
			return err
		}
		if err := createIdentity(ctx, d.e, d.e.Target, receiver); err != nil {
			return err
		}
		return createIdentity(ctx, d.e, d.e.Source, sender)
	})
	return true
}

func createIdentity(ctx context.Context, e *kube.Env, on *kube.Cluster, id engine.Identity) error {
	sum := sha256.Sum256(id[engine.IdentityCA])
	s := &corev1.Secret{ObjectMeta: objectMeta(e, e.Settings.Namespace, identityName(e), ComponentIdentity), Data: id, Type: corev1.SecretTypeOpaque}
	s.Annotations[annotationAuthority] = hex.EncodeToString(sum[:8])
	if _, err := on.Kube.CoreV1().Secrets(s.Namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot create Secret %s/%s on cluster %s: %w", s.Namespace, s.Name, on.Name, err)
	}
	return nil
}

func deleteIdentity(ctx context.Context, on *kube.Cluster, s *corev1.Secret) error {
	return gone(on.Kube.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, exactly(s)))
}

// removeIdentities removes what transfers that were ended have left.
func removeIdentities(ctx context.Context, e *kube.Env, t *thought, on *kube.Cluster) error {
	l, err := on.Kube.CoreV1().Secrets(e.Settings.Namespace).List(ctx, helpers(e, ComponentIdentity))
	if err != nil {
		return fmt.Errorf("cannot list our Secrets on cluster %s: %w", on.Name, err)
	}
	for i := range l.Items {
		s := &l.Items[i]
		t.move(fmt.Sprintf("remove Secret %s/%s on cluster %s", s.Namespace, s.Name, on.Name), func(ctx context.Context) error {
			return deleteIdentity(ctx, on, s)
		})
	}
	return removeServices(ctx, e, t, on)
}
