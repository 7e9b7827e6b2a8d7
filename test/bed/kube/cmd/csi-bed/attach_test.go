package main

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

const (
	rwo  = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	rwop = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	rwx  = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	rox  = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
)

func TestStageRefusesASecondNode(t *testing.T) {
	tests := []struct {
		name   string
		used   attachments
		node   string
		mode   accessMode
		refuse bool
	}{
		{"free", attachments{}, "a", rwo, false},
		{"again on the same node", attachments{"a": {Mode: rwo}}, "a", rwo, false},
		{"RWO on a second node", attachments{"a": {Mode: rwo}}, "b", rwo, true},
		{"RWX where RWO holds it", attachments{"a": {Mode: rwo}}, "b", rwx, true},
		{"RWO where RWX holds it", attachments{"a": {Mode: rwx}}, "b", rwo, true},
		{"RWX on two nodes", attachments{"a": {Mode: rwx}}, "b", rwx, false},
		{"ROX on two nodes", attachments{"a": {Mode: rox}}, "b", rox, false},
		{"RWOP on a second node", attachments{"a": {Mode: rwop}}, "b", rwop, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.used.stage(tt.node, tt.mode)
			var inUse inUseError
			if errors.As(err, &inUse) != tt.refuse {
				t.Fatalf("stage: %v, refusal wanted: %t", err, tt.refuse)
			}
			if _, staged := tt.used[tt.node]; staged == tt.refuse {
				t.Errorf("recorded as staged: %t", staged)
			}
		})
	}
}

func TestPublish(t *testing.T) {
	a := attachments{}
	if err := a.publish("a", "/pods/1", rwo); err == nil {
		t.Fatal("published a volume that is not staged")
	}
	if err := a.stage("a", rwo); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/pods/1", "/pods/2", "/pods/2"} {
		if err := a.publish("a", target, rwo); err != nil {
			t.Fatalf("second pod of the same node: %v", err)
		}
	}
	if n := len(a["a"].Targets); n != 2 {
		t.Fatalf("%d targets, want 2", n)
	}
	if err := a.publish("a", "/pods/3", rwop); err == nil {
		t.Error("a ReadWriteOncePod claim was given to a second pod")
	}
	a.unpublish("a", "/pods/1")
	a.unpublish("a", "/pods/2")
	if err := a.publish("a", "/pods/3", rwop); err != nil {
		t.Errorf("after the other pods went: %v", err)
	}
}

func TestChangeIsKept(t *testing.T) {
	s, err := openStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.change("vol-0123456789abcdef", func(a attachments) error { return a.stage("a", rwo) }); err != nil {
		t.Fatal(err)
	}
	err = s.change("vol-0123456789abcdef", func(a attachments) error { return a.stage("b", rwo) })
	var inUse inUseError
	if !errors.As(err, &inUse) || inUse.node != "a" {
		t.Errorf("second node: %v, want a refusal that names node a", err)
	}
}
