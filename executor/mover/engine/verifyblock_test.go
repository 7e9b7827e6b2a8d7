package engine

import (
	"fmt"
	"strings"
	"testing"
)

// TestBlockVerify damages a device that a restore has every reason to trust.
func TestBlockVerify(t *testing.T) {
	const size = 20*pieceSize + 512
	l := newBlockLab(t, size, 30*pieceSize)
	l.keepOpen()
	l.src.write(t, 0, deviceNoise(l.rand, 9*pieceSize))
	first := l.up("")
	v, err := l.block(OpRestore, VolumeRequest{Snapshot: first.Snapshot, Verify: VerifyAll})
	must(t, err)
	if v.Verified == nil || v.Verified.Errors != 0 || !v.Verified.Complete || v.Verified.Bytes != size {
		t.Fatalf("a good copy: %+v", v.Verified)
	}
	l.src.write(t, 12*pieceSize, []byte("changed"+strings.Repeat(" ", 505)))
	second := l.up(first.Snapshot)
	l.dst.write(t, 3*pieceSize, []byte("damage"+strings.Repeat(" ", 506)))
	v, err = l.block(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot, Verify: VerifyChanged})
	must(t, err)
	if v.Verified.Complete || v.Verified.Errors != 0 || v.Verified.Bytes != pieceSize {
		t.Fatalf("what was written: %+v, want one piece", v.Verified)
	}
	v, err = l.block(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: second.Snapshot, Verify: VerifyAll})
	must(t, err)
	if v.Verified.Errors != 1 || !strings.Contains(v.Verified.First[0], fmt.Sprint("at ", 3*pieceSize)) {
		t.Fatalf("a damaged device: %+v", v.Verified)
	}
	v, err = l.block(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Content: true, Verify: VerifyAll})
	must(t, err)
	if v.Verified.Errors != 0 {
		t.Fatalf("not mended: %+v", v.Verified)
	}
	l.same()
}
