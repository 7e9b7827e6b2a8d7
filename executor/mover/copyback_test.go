package mover

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// backWorld is a rollback of a finished cutover: the source is stopped, the
// target's claim is live and has another name.
type backWorld struct {
	source, target *world
	e              *kube.Env
	asked          []string // what the Jobs were asked for
	snapshots      int
}

func newBackWorld(t testing.TB) *backWorld {
	c, pv := sourceClaim("data", nil)
	there, its := sourceClaim("documents", nil)
	there.Namespace, its.Spec.ClaimRef.Namespace = "shop-new", "shop-new"
	there.Annotations[kube.AnnotationMark] = "live since 2026-01-01T00:00:00Z"
	b := &backWorld{}
	b.source = newWorld(t, c, pv, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	b.target = newWorld(t, there, its, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop-new"}})
	b.source.schedule, b.target.schedule = "node-1", "node-2"
	b.source.job, b.target.job = b.work, b.work
	b.e = testEnv(b.source, b.target, "", "")
	b.e.Run.Spec.Kind, b.e.Run.Spec.Undoes = spec.RunRollback, "shop-migrate-1"
	b.e.Run.Steps = []spec.Step{{Name: "undo-stop", Verb: "workload.start-source"}}
	v := stagedVolume(b.e, "data", "s1")
	v.ClaimUID, v.TargetClaim, v.TargetPV, v.TargetHandle = string(c.UID), "documents", "pv-documents", handle(its)
	b.e.Run.Facts.Volumes = []spec.Volume{v}
	return b
}

// work is what movers do: new snapshots are k1, k2 of the source and t1, t2 of the target.
func (b *backWorld) work(w *world, j *batchv1.Job, r engine.Request) engine.Result {
	res := engine.Result{}
	for _, v := range r.Volumes {
		mark := b.source.claim("shop", "data").Annotations[kube.AnnotationMark]
		b.asked = append(b.asked, fmt.Sprintf("%s %s parent=%s held=%s wants=%s content=%t keep=%v live=%t mark=%q", r.Op, v.Name, v.Parent, v.Held, v.Snapshot, v.Content, v.Keep, r.Live, mark))
		done := engine.VolumeResult{Name: v.Name, Snapshot: v.Snapshot, Files: 3, Bytes: 30, DiskBytes: 30, UploadedBytes: 7}
		if r.Op == engine.OpUpload {
			b.snapshots++
			done.Snapshot = fmt.Sprintf("%s%d", map[bool]string{true: "k", false: "t"}[w == b.source], b.snapshots)
		} else {
			done.ChangedFiles, done.WrittenBytes, done.DeletedEntries = 2, 20, 1
			done.Verified = &engine.Verified{Files: 2, Bytes: 20}
		}
		res.Volumes = append(res.Volumes, done)
	}
	return res
}

// step drives one step and keeps what it found, as the loop does.
func (b *backWorld) step(t testing.TB, name, verb string) reconciler.Observation {
	t.Helper()
	o := drive(t, at(b.e, name, verb))
	if o.Facts != nil && o.Facts.Volumes != nil {
		b.e.Run.Facts.Volumes = o.Facts.Volumes
	}
	return o
}

func (b *backWorld) volume() spec.Volume { return b.e.Run.Facts.Volumes[0] }
func (b *backWorld) mark() string {
	return b.source.claim("shop", "data").Annotations[kube.AnnotationMark]
}

// before does everything up to the write.
func (b *backWorld) before(t testing.TB) {
	t.Helper()
	want(t, b.step(t, "keep-source", "mover.keep-source"), reconciler.Succeeded)
	want(t, b.step(t, "upload-target", "mover.upload-target"), reconciler.Succeeded)
	want(t, b.step(t, reconciler.StepLastUploadTarget, "mover.upload-target"), reconciler.Succeeded)
}

func TestCopyBack(t *testing.T) {
	b := newBackWorld(t)
	b.before(t)
	if e := b.e.Run.Facts.Estimate; e != nil {
		t.Errorf("the last upload estimates: %+v", e)
	}
	want(t, b.step(t, reconciler.StepWriteSource, "mover.write-source"), reconciler.Succeeded)
	wanted := []string{
		`upload shop/data parent=s1 held= wants= content=false keep=[s1] live=false mark=""`,
		`upload shop/data parent= held= wants= content=false keep=[s1 k1] live=true mark=""`,
		`upload shop/data parent=t2 held= wants= content=false keep=[s1 k1 t2] live=false mark=""`,
		`restore shop/data parent= held=k1 wants=t3 content=false keep=[] live=false mark="writing k1→t3"`,
	}
	if got := strings.Join(b.asked, "\n"); got != strings.Join(wanted, "\n") {
		t.Errorf("the movers were asked for\n%s\nwant\n%s", got, strings.Join(wanted, "\n"))
	}
	if b.mark() != "clean t3" || b.target.claim("shop-new", "documents").Annotations[kube.AnnotationMark] != "live since 2026-01-01T00:00:00Z" {
		t.Errorf("marks %q", b.mark())
	}
	if got := *b.volume().Back; fmt.Sprint(got) != fmt.Sprint(spec.CopiedBack{Cutover: "shop-migrate-1", Kept: []string{"k1"}, Snapshot: "t3", Mark: spec.MarkClean, Files: 3, Bytes: 30, NewBytes: 14, ChangedFiles: 2, WrittenBytes: 20, DeletedEntries: 1}) {
		t.Errorf("the record says %+v", got)
	}
	if v := b.volume(); v.Snapshot != "s1" || v.Held != "" || v.TargetPV != "pv-documents" {
		t.Errorf("what the cutover has recorded was changed: %+v", v)
	}
}

// The Job that writes the source has the credentials and lives in our namespace;
// what the application's namespace sees is a holder without either, which cannot
// itself write.
func TestTheSourceIsWrittenThroughAHolder(t *testing.T) {
	b := newBackWorld(t)
	b.before(t)
	b.source.job = nil
	if o := b.step(t, reconciler.StepWriteSource, "mover.write-source"); o.Seen != reconciler.Working || o.Facts.Volumes[0].Back.Mark != spec.MarkWriting {
		t.Fatalf("%+v", o)
	}
	v := b.volume()
	h := b.source.pod(holderName(b.e, &v))
	if c := h.Spec.Volumes[0].PersistentVolumeClaim; c.ClaimName != "data" || c.ReadOnly || !h.Spec.Containers[0].VolumeMounts[0].ReadOnly || len(h.Spec.Volumes) != 1 {
		t.Errorf("the holder: %+v", h.Spec)
	}
	l, _ := b.source.BatchV1().Jobs(ourNamespace).List(t.Context(), helpers(b.e, ComponentWriter))
	if len(l.Items) != 1 {
		t.Fatalf("%d writers", len(l.Items))
	}
	c := l.Items[0].Spec.Template.Spec.Containers[0]
	if m := c.VolumeMounts[len(c.VolumeMounts)-1]; m.ReadOnly || len(c.SecurityContext.Capabilities.Add) != len(writerCaps) {
		t.Errorf("the writer: %+v", c)
	}
	want(t, b.step(t, "undo-last-upload", "mover.stop-upload"), reconciler.Succeeded)
	l, _ = b.source.BatchV1().Jobs(ourNamespace).List(t.Context(), helpers(b.e, ComponentWriter))
	if len(l.Items) > 0 || b.source.pod(holderName(b.e, &v)) != nil {
		t.Error("the undo leaves a writer or a holder")
	}
}

// A copy back that has turned round, and whose records were lost since, writes
// nothing more: the target runs. That holds also for what is written already, for
// the source's start would be next. A target that does not answer keeps nobody.
func TestTheSourceIsNotWrittenWhileTheTargetRuns(t *testing.T) {
	for _, written := range []bool{false, true} {
		b := newBackWorld(t)
		b.before(t)
		if written {
			want(t, b.step(t, reconciler.StepWriteSource, "mover.write-source"), reconciler.Succeeded)
		}
		p := appPod("web", "node-2", corev1.PodRunning)
		p.Namespace, p.Spec = "shop-new", podSpec("documents")
		b.target.add(p)
		mark, asked := b.mark(), len(b.asked)
		o := b.step(t, reconciler.StepWriteSource, "mover.write-source")
		if o.Seen != reconciler.Broken || o.Final || o.Reason != "ClaimInUse" || b.mark() != mark || len(b.asked) != asked || !strings.Contains(o.Message, "shop-new/web") {
			t.Errorf("written before %t: %+v, mark %q", written, o, b.mark())
		}
		there := b.e.Target
		b.e.Target = nil
		want(t, b.step(t, reconciler.StepWriteSource, "mover.write-source"), reconciler.Succeeded)
		b.e.Target = there
	}
}

// A daemon that is killed at any call of the write goes on: the claim says at
// every instant that it is whole, or what it held before.
func TestWriteSourceKilledAtEveryCall(t *testing.T) {
	n := 1
	for _, late := range []bool{false, true} {
		for i := 0; i <= n; i++ {
			b := newBackWorld(t)
			b.before(t)
			before := b.source.writes
			b.source.killAt, b.source.late = before+i, late
			if i == 0 {
				b.source.killAt = 0
			}
			want(t, b.step(t, reconciler.StepWriteSource, "mover.write-source"), reconciler.Succeeded)
			n = max(n, b.source.writes-before)
			v := b.volume()
			if b.mark() != "clean t3" || v.Back.Kept[0] != "k1" || b.source.pod(holderName(b.e, &v)) != nil {
				t.Fatalf("killed at %d (late %t): %q %+v", i, late, b.mark(), v.Back)
			}
			if last := b.asked[len(b.asked)-1]; len(b.asked) != 4 || !strings.Contains(last, `mark="writing k1→t3"`) || !strings.Contains(last, "held=k1") && !strings.Contains(last, "content=true") {
				t.Fatalf("killed at %d (late %t): %v", i, late, b.asked)
			}
		}
	}
	t.Logf("%d writes", n)
}

// A copy back that fails half way: the claim knows what it held. The next try
// takes no snapshot of the half, and whoever discards gets the old content.
func TestAHalfWrittenSource(t *testing.T) {
	half := func() *backWorld {
		b := newBackWorld(t)
		b.before(t)
		b.source.job = func(*world, *batchv1.Job, engine.Request) engine.Result {
			return engine.Result{Reason: engine.ReasonNoSpace, Error: "full"}
		}
		if o := b.step(t, reconciler.StepWriteSource, "mover.write-source"); o.Seen != reconciler.Broken || b.mark() != "writing k1→t3" {
			t.Fatalf("%+v, mark %q", o, b.mark())
		}
		b.source.job, b.asked = b.work, nil
		b.e.Run.Spec.Number, b.e.Run.Facts.Volumes[0].Back = 2, nil // even if the record were lost
		return b
	}
	b := half()
	b.before(t)
	want(t, b.step(t, reconciler.StepWriteSource, "mover.write-source"), reconciler.Succeeded)
	if got := strings.Join(b.asked, "\n"); strings.Count(got, "upload") != 2 || !strings.Contains(got, `held= wants=t5 content=true keep=[] live=false mark="writing k1→t5"`) || b.mark() != "clean t5" || !b.volume().Back.Continued {
		t.Errorf("the next try asks for\n%s\nand leaves the mark %q", got, b.mark())
	}
	b = half()
	b.e.Run.Spec.Kind, b.e.Run.Spec.Undoes, b.e.Run.Steps = spec.RunClose, "", nil // a close does it, too
	b.e.Run.Facts.Volumes[0].Back = &spec.CopiedBack{Cutover: "shop-migrate-1"}
	want(t, b.step(t, "put-source-back", "mover.put-source-back"), reconciler.Succeeded)
	if got := strings.Join(b.asked, "\n"); got != `restore shop/data parent= held= wants=k1 content=true keep=[] live=false mark="writing k1→k1"` || b.mark() != "" || b.volume().Back.Mark != spec.MarkNone {
		t.Errorf("putting back asks for\n%s\nand leaves the mark %q, %+v", got, b.mark(), b.volume().Back)
	}
	// A claim that was written whole is taken back as one that was not, and the
	// next try does not keep what a copy back has written.
	b = newBackWorld(t)
	b.before(t)
	want(t, b.step(t, reconciler.StepWriteSource, "mover.write-source"), reconciler.Succeeded)
	b.asked, b.e.Run.Spec.Number = nil, 2
	b.before(t)
	if got := strings.Join(b.asked, "\n"); strings.Contains(got, "k1 live=false") || strings.Contains(got, "parent=k1") || lastKept(ptr.To(b.volume())) != "k1" {
		t.Errorf("the next try asks for\n%s\nand keeps %v", got, b.volume().Back.Kept)
	}
	want(t, b.step(t, "put-source-back", "mover.put-source-back"), reconciler.Succeeded)
	if !strings.Contains(b.asked[len(b.asked)-1], "wants=k1 content=true") || b.mark() != "" {
		t.Errorf("%v, mark %q", b.asked, b.mark())
	}
	// What no copy back has touched is not even looked into, nor is what one of an
	// earlier cutover has.
	b = newBackWorld(t)
	b.annotate("clean t9")
	c := b.source.claim("shop", "data")
	c.Annotations[kube.AnnotationKept] = "shop-migrate-0 k0"
	b.source.put(c)
	writes := b.source.writes
	want(t, b.step(t, "put-source-back", "mover.put-source-back"), reconciler.Succeeded)
	if len(b.asked) > 0 || b.source.writes != writes {
		t.Errorf("%v", b.asked)
	}
}

func TestPutSourceBackKilledAtEveryCall(t *testing.T) {
	n := 1
	for i := 1; i <= n; i++ {
		b := newBackWorld(t)
		c := b.source.claim("shop", "data")
		c.Annotations[kube.AnnotationMark], c.Annotations[kube.AnnotationKept] = "writing k1→t3", "shop-migrate-1 k1"
		b.source.put(c)
		b.source.killAt, b.source.late = b.source.writes+i, i%2 == 0
		from := b.source.writes
		want(t, b.step(t, "put-source-back", "mover.put-source-back"), reconciler.Succeeded)
		n = max(n, b.source.writes-from)
		if b.mark() != "" || len(b.asked) != 1 || !strings.Contains(b.asked[0], "wants=k1") {
			t.Fatalf("killed at %d: %q %v", i, b.mark(), b.asked)
		}
	}
}

// A copy that was read back and differs is not whole.
func TestAWriteThatDiffersIsRefused(t *testing.T) {
	b := newBackWorld(t)
	b.before(t)
	b.source.job = func(w *world, j *batchv1.Job, r engine.Request) engine.Result {
		res := b.work(w, j, r)
		res.Volumes[0].Verified.Errors, res.Volumes[0].Verified.First = 1, []string{"a"}
		return res
	}
	if o := b.step(t, reconciler.StepWriteSource, "mover.write-source"); o.Seen != reconciler.Broken || o.Final || o.Reason != reasonVerifyErrors || b.mark() != "writing k1→t3" {
		t.Fatalf("%+v, mark %q", o, b.mark())
	}
}

func TestCopyBackRefuses(t *testing.T) {
	for _, c := range []struct {
		name, step, verb, reason string
		play                     func(b *backWorld)
	}{
		{"a source that was never stopped", "keep-source", "mover.keep-source", "SourceRunsOn", func(b *backWorld) { b.e.Run.Steps = nil }},
		{"objects that were updated", "keep-source", "mover.keep-source", "CopyBackNotPossible", func(b *backWorld) { b.e.Plan().Existing = spec.ExistingUpdate }},
		{"a pod on the source's claim", "keep-source", "mover.keep-source", "ClaimInUse", func(b *backWorld) { b.source.add(appPod("debug", "node-1", corev1.PodRunning)) }},
		{"a claim that was made anew", "keep-source", "mover.keep-source", "ForeignVolume", func(b *backWorld) { b.e.Run.Facts.Volumes[0].ClaimUID = "another" }},
		{"a claim that is gone", "keep-source", "mover.keep-source", "ClaimMissing", func(b *backWorld) { _ = b.source.Tracker().Delete(claimResource, "shop", "data") }},
		{"a mark that says nothing", "keep-source", "mover.keep-source", "UnknownMark", func(b *backWorld) { b.annotate("hovering") }},
		{"a mark without the old content", "write-source", "mover.write-source", "UnknownMark", func(b *backWorld) { b.annotate("writing -→t3") }},
		{"nothing that was kept", "write-source", "mover.write-source", "NoSnapshot", func(b *backWorld) { b.e.Run.Facts.Volumes[0].Back = nil }},
		{"another volume on the target", "upload-target", "mover.upload-target", "ForeignVolume", func(b *backWorld) { b.e.Run.Facts.Volumes[0].TargetHandle = "csi/another" }},
		{"a target that has outgrown the source", "upload-target", "mover.upload-target", "TooLarge", func(b *backWorld) {
			s := b.source.claim("shop", "data")
			s.Status.Capacity[corev1.ResourceStorage] = resource.MustParse("29")
			b.source.put(s)
		}},
		{"one that has, beside one without a counterpart", "upload-target", "mover.upload-target", "TooLarge", func(b *backWorld) {
			s := b.source.claim("shop", "data")
			s.Status.Capacity[corev1.ResourceStorage] = resource.MustParse("29")
			b.source.put(s)
			there, its := sourceClaim("alone", nil)
			there.Namespace, its.Spec.ClaimRef.Namespace = "shop-new", "shop-new"
			b.target.add(there)
			b.target.add(its)
			v := stagedVolume(b.e, "alone", "s2")
			v.TargetClaim, v.TargetPV, v.TargetHandle = "alone", its.Name, handle(its)
			b.e.Run.Facts.Volumes = append([]spec.Volume{v}, b.e.Run.Facts.Volumes...)
		}},
		{"a claim that a StatefulSet has made since", "upload-target", "mover.upload-target", "NewClaim", func(b *backWorld) {
			b.e.Run.Facts.Volumes[0].Template = &spec.ClaimTemplate{StatefulSet: "db", Name: "data"}
			more, _ := sourceClaim("data-db-2", nil)
			more.Namespace = "shop-new"
			b.target.add(more)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackWorld(t)
			c.play(b)
			o := b.step(t, c.step, c.verb)
			if o.Seen != reconciler.Broken || o.Reason != c.reason {
				t.Fatalf("%+v", o)
			}
			for _, asked := range b.asked {
				if strings.HasPrefix(asked, "restore") || c.verb == "mover.keep-source" {
					t.Errorf("asked for %s", asked)
				}
			}
		})
	}
}

func (b *backWorld) annotate(mark string) {
	c := b.source.claim("shop", "data")
	c.Annotations[kube.AnnotationMark] = mark
	b.source.put(c)
}

// The first upload from the target says what the stop will cost.
func TestCopyBackEstimates(t *testing.T) {
	b := newBackWorld(t)
	o := b.step(t, "upload-target", "mover.upload-target")
	want(t, o, reconciler.Succeeded)
	if e := o.Facts.Estimate; e == nil || e.ChangedBytes != 7 || e.StopSeconds < fixedSeconds {
		t.Errorf("%+v", e)
	}
	if !strings.Contains(o.Message, "7 bytes are new on the target") {
		t.Error(o.Message)
	}
}
