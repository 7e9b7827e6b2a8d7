package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// driver is one instance of the driver. The controller calls work the same on
// every node, since all see the store.
type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	store store
	node  string
	mu    sync.Mutex // one change of the store at a time
}

// defaultSize is the size of a volume of fixed size whose claim names none.
const defaultSize = 64 << 20

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	var caps []*csi.PluginCapability
	for _, t := range []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_CONTROLLER_SERVICE, csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS,
	} {
		caps = append(caps, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}})
	}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: caps}, nil
}

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	var caps []*csi.ControllerServiceCapability
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS, csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		caps = append(caps, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: caps}, nil
}

// CreateVolume makes a volume. The class says with "kind" (dir or ext4) what it
// is, and with "scope" (node or shared) who may use it; a claim that asks for a
// device gets the bare image of a class of ext4 images.
func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := volume{ID: idFor("vol", r.GetName()), Kind: kindDir, Size: r.GetCapacityRange().GetRequiredBytes()}
	if r.GetParameters()["kind"] == kindExt4 {
		v.Kind = kindExt4
	}
	if wantsBlock(r.GetVolumeCapabilities()) {
		if v.Kind != kindExt4 {
			return nil, status.Error(codes.InvalidArgument, "the volumes of this class are folders and no devices: volumeMode Block needs a class of kind ext4")
		}
		v.Kind = kindRaw
	}
	if v.Kind != kindDir && v.Size == 0 {
		v.Size = defaultSize
	}
	if r.GetParameters()["scope"] != "shared" {
		if v.Node = wantedNode(r.GetAccessibilityRequirements()); v.Node == "" {
			return nil, status.Error(codes.ResourceExhausted, "cannot place a volume of one node: the request names no node")
		}
	}
	if made, err := d.store.volume(v.ID); err == nil {
		v = made
	} else {
		from, err := d.source(r.GetVolumeContentSource(), v)
		if err != nil {
			return nil, err
		}
		if err := d.store.createVolume(v, from); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	out := &csi.Volume{VolumeId: v.ID, CapacityBytes: v.Size, ContentSource: r.GetVolumeContentSource()}
	if v.Node != "" {
		out.AccessibleTopology = []*csi.Topology{{Segments: map[string]string{topologyKey: v.Node}}}
	}
	return &csi.CreateVolumeResponse{Volume: out}, nil
}

func wantedNode(r *csi.TopologyRequirement) string {
	for _, t := range append(r.GetPreferred(), r.GetRequisite()...) {
		if node := t.GetSegments()[topologyKey]; node != "" {
			return node
		}
	}
	return ""
}

// source is the folder to fill a new volume from, empty if there is none.
func (d *driver) source(s *csi.VolumeContentSource, v volume) (string, error) {
	var kind, dir string
	switch {
	case s.GetSnapshot() != nil:
		n, err := d.store.snapshot(s.GetSnapshot().GetSnapshotId())
		if err != nil {
			return "", status.Errorf(codes.NotFound, "cannot find the snapshot: %v", err)
		}
		if v.Kind != kindDir && v.Size < n.Size {
			return "", status.Errorf(codes.OutOfRange, "the claim asks for %d bytes, its snapshot needs %d", v.Size, n.Size)
		}
		kind, dir = n.Kind, d.store.snapshotDir(n.ID)
	case s.GetVolume() != nil:
		from, err := d.store.volume(s.GetVolume().GetVolumeId())
		if err != nil {
			return "", status.Errorf(codes.NotFound, "cannot find the volume to clone: %v", err)
		}
		kind, dir = from.Kind, d.store.volumeDir(from.ID)
	default:
		return "", nil
	}
	if kind != v.Kind {
		return "", status.Errorf(codes.InvalidArgument, "cannot fill a volume of kind %s from one of kind %s", v.Kind, kind)
	}
	return dir, nil
}

func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if !safeID.MatchString(r.GetVolumeId()) {
		return &csi.DeleteVolumeResponse{}, nil
	}
	err := d.store.change(r.GetVolumeId(), func(a attachments) error {
		for node := range a {
			return status.Errorf(codes.FailedPrecondition, "volume is in use on node %s", node)
		}
		return os.RemoveAll(d.store.volumeDir(r.GetVolumeId()))
	})
	if err != nil {
		return nil, grpcError(err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.GetVolumeCapabilities()},
	}, nil
}

func (d *driver) CreateSnapshot(_ context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := idFor("snap", r.GetName())
	if n, err := d.store.snapshot(id); err == nil {
		if n.Source != r.GetSourceVolumeId() {
			return nil, status.Errorf(codes.AlreadyExists, "snapshot %s is of volume %s", r.GetName(), n.Source)
		}
		return &csi.CreateSnapshotResponse{Snapshot: describe(n)}, nil
	}
	v, err := d.store.volume(r.GetSourceVolumeId())
	if err != nil {
		return nil, status.Errorf(codes.NotFound, "cannot find the volume: %v", err)
	}
	n := snapshot{ID: id, Source: v.ID, Kind: v.Kind, Size: v.Size, Created: time.Now()}
	if err := d.store.createSnapshot(n); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.CreateSnapshotResponse{Snapshot: describe(n)}, nil
}

func describe(n snapshot) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: n.ID, SourceVolumeId: n.Source, CreationTime: timestamppb.New(n.Created), ReadyToUse: true, SizeBytes: n.Size}
}

func (d *driver) DeleteSnapshot(_ context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if safeID.MatchString(r.GetSnapshotId()) {
		if err := os.RemoveAll(d.store.snapshotDir(r.GetSnapshotId())); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

func (d *driver) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	found, err := os.ReadDir(filepath.Join(d.store.root, "snapshots"))
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	out := &csi.ListSnapshotsResponse{}
	for _, e := range found {
		n, err := d.store.snapshot(e.Name())
		if err != nil {
			continue // not finished yet, or just deleted
		}
		if (r.GetSnapshotId() == "" || r.GetSnapshotId() == n.ID) && (r.GetSourceVolumeId() == "" || r.GetSourceVolumeId() == n.Source) {
			out.Entries = append(out.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: describe(n)})
		}
	}
	return out, nil
}

// grpcError gives an error the code that the kubelet and its users look at.
func grpcError(err error) error {
	var inUse inUseError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &inUse):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, fs.ErrNotExist):
		return status.Error(codes.NotFound, err.Error())
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codes.Internal, err.Error())
}
