package selftest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/kubeapi"
)

func (t *tester) claim(ctx context.Context, name, class, mode, size string, source object) error {
	spec := object{"accessModes": []any{mode}, "storageClassName": class, "resources": object{"requests": object{"storage": size}}}
	if source != nil {
		spec["dataSource"] = source
	}
	return t.claimOf(ctx, name, spec)
}

func (t *tester) claimOf(ctx context.Context, name string, spec object) error {
	return t.api.Apply(ctx, kubeapi.Object{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": object{"name": name, "namespace": namespace}, "spec": spec,
	})
}

// volumeOf is the volume of a bound claim.
func (t *tester) volumeOf(ctx context.Context, claim string) (kubeapi.Object, error) {
	c, err := t.api.Get(ctx, "/api/v1/namespaces/"+namespace+"/persistentvolumeclaims/"+claim)
	if err != nil {
		return nil, err
	}
	return t.api.Get(ctx, "/api/v1/persistentvolumes/"+c.Text("spec", "volumeName"))
}

// provision writes on the second node, and reads: on that node, or, if the volume
// is not pinned, on the other one.
func (t *tester) provision(ctx context.Context, class string, pinned bool) error {
	name := "claim-" + class
	if err := t.claim(ctx, name, class, "ReadWriteOnce", "10Mi", nil); err != nil {
		return err
	}
	if _, err := t.runPod(ctx, pod{name: "write-" + class, node: t.Nodes[1].Name, claim: name, script: "echo kept > /data/file"}); err != nil {
		return err
	}
	volume, err := t.volumeOf(ctx, name)
	if err != nil {
		return err
	}
	if has := volume.Field("spec", "nodeAffinity") != nil; has != pinned {
		return fmt.Errorf("volume %s has a node affinity: %t, want %t", volume.Text("metadata", "name"), has, pinned)
	}
	reader := pod{name: "read-" + class, claim: name, script: "cat /data/file; stat -c %a /data"}
	if !pinned {
		reader.node = t.Nodes[0].Name
	}
	out, err := t.runPod(ctx, reader)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(out, "kept\n") {
		return fmt.Errorf("read %q", out)
	}
	return nil
}

func (t *tester) fixedSize(ctx context.Context) error {
	if err := t.claim(ctx, "fixed", cluster.ClassFixed, "ReadWriteOnce", "16Mi", nil); err != nil {
		return err
	}
	out, err := t.runPod(ctx, pod{name: "fill", claim: "fixed", script: `
dd if=/dev/zero of=/data/half bs=1M count=8 2>/dev/null || { echo "8 MiB do not fit into 16"; exit 1; }
if dd if=/dev/zero of=/data/more bs=1M count=20 2>/tmp/err; then echo "28 MiB fit into 16"; exit 1; fi
cat /tmp/err`})
	if err != nil {
		return err
	}
	if !strings.Contains(out, "No space left") {
		return fmt.Errorf("writing too much said %q, want: No space left on device", out)
	}
	return nil
}

// block writes to the end of a device and reads it back in another pod, from a
// device that has exactly the size asked for.
func (t *tester) block(ctx context.Context) error {
	if err := t.claimOf(ctx, "device", object{
		"accessModes": []any{"ReadWriteOnce"}, "storageClassName": cluster.ClassFixed, "volumeMode": "Block",
		"resources": object{"requests": object{"storage": "16Mi"}},
	}); err != nil {
		return err
	}
	for _, p := range []pod{
		{name: "block-write", script: "echo kept | dd of=/dev/claim bs=1M seek=15 conv=notrunc && sync"},
		{name: "block-read", script: "wc -c < /dev/claim; dd if=/dev/claim bs=1M skip=15 2>/dev/null | head -n 1"},
	} {
		p.claim, p.block = "device", true
		out, err := t.runPod(ctx, p)
		if err != nil {
			return err
		}
		if p.name == "block-read" && out != "16777216\nkept\n" {
			return fmt.Errorf("read %q, want the size of 16 MiB and what was written", out)
		}
	}
	return nil
}

func (t *tester) multiAttach(ctx context.Context) error {
	if err := t.claim(ctx, "once", cluster.ClassShared, "ReadWriteOnce", "10Mi", nil); err != nil {
		return err
	}
	first := pod{name: "first", node: t.Nodes[0].Name, claim: "once", script: "sleep 600"}
	if err := t.start(ctx, first); err != nil {
		return err
	}
	if err := t.waitPod(ctx, "first", "Running"); err != nil {
		return err
	}
	if _, err := t.runPod(ctx, pod{name: "neighbour", node: t.Nodes[0].Name, claim: "once", script: "true"}); err != nil {
		return fmt.Errorf("second pod of the same node: %w", err)
	}
	if err := t.start(ctx, pod{name: "second", node: t.Nodes[1].Name, claim: "once", script: "true"}); err != nil {
		return err
	}
	if err := kubeapi.Wait(ctx, podTimeout, "the refusal of the second node", func(ctx context.Context) (bool, error) {
		said := t.events(ctx, "second")
		if !strings.Contains(said, "FailedPrecondition") || !strings.Contains(said, "Multi-Attach error") {
			return false, errors.New(said)
		}
		return true, nil
	}); err != nil {
		return err
	}
	if err := t.remove(ctx, "first"); err != nil {
		return err
	}
	return t.waitPod(ctx, "second", "Succeeded")
}

func (t *tester) readWriteMany(ctx context.Context) error {
	if err := t.claim(ctx, "many", cluster.ClassShared, "ReadWriteMany", "10Mi", nil); err != nil {
		return err
	}
	script := "touch /data/$(hostname); for i in $(seq 300); do [ $(ls /data | wc -l) = 2 ] && exit 0; sleep 0.2; done; ls /data; exit 1"
	for i, n := range t.Nodes {
		if err := t.start(ctx, pod{name: fmt.Sprintf("many-%d", i), node: n.Name, claim: "many", script: script}); err != nil {
			return err
		}
	}
	return errors.Join(t.waitPod(ctx, "many-0", "Succeeded"), t.waitPod(ctx, "many-1", "Succeeded"))
}

// snapshot takes one of each kind of volume, changes the volume, and restores.
func (t *tester) snapshot(ctx context.Context) error {
	for _, class := range []string{cluster.ClassNode, cluster.ClassFixed} {
		if err := t.snapshotOf(ctx, class); err != nil {
			return fmt.Errorf("class %s: %w", class, err)
		}
	}
	return nil
}

func (t *tester) snapshotOf(ctx context.Context, class string) error {
	name := "snap-" + class
	if err := t.claim(ctx, name, class, "ReadWriteOnce", "16Mi", nil); err != nil {
		return err
	}
	if _, err := t.runPod(ctx, pod{name: name + "-old", claim: name, script: "echo old > /data/file && sync"}); err != nil {
		return err
	}
	if err := t.api.Apply(ctx, kubeapi.Object{
		"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": object{"name": name, "namespace": namespace},
		"spec": object{"source": object{"persistentVolumeClaimName": name}},
	}); err != nil {
		return err
	}
	if err := kubeapi.Wait(ctx, time.Minute, "the snapshot", func(ctx context.Context) (bool, error) {
		s, err := t.api.Get(ctx, "/apis/snapshot.storage.k8s.io/v1/namespaces/"+namespace+"/volumesnapshots/"+name)
		if err != nil {
			return false, err
		}
		ready, _ := s.Field("status", "readyToUse").(bool)
		return ready, nil
	}); err != nil {
		return err
	}
	if _, err := t.runPod(ctx, pod{name: name + "-new", claim: name, script: "echo new > /data/file"}); err != nil {
		return err
	}
	source := object{"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name}
	if err := t.claim(ctx, name+"-back", class, "ReadWriteOnce", "32Mi", source); err != nil {
		return err
	}
	out, err := t.runPod(ctx, pod{name: name + "-read", claim: name + "-back", script: "cat /data/file"})
	if err != nil {
		return err
	}
	if out != "old\n" {
		return fmt.Errorf("the restored volume has %q, want what was there at the snapshot", out)
	}
	return nil
}
