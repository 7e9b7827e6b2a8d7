package main

import (
	"context"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NodeGetInfo tells the node's name and its place: each node is a place of its own.
func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node, AccessibleTopology: &csi.Topology{Segments: map[string]string{topologyKey: d.node}}}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	var caps []*csi.NodeServiceCapability
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	} {
		caps = append(caps, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: caps}, nil
}

// NodeStageVolume mounts the volume on this node, unless another one has it.
func (d *driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	v, err := d.store.volume(r.GetVolumeId())
	if err != nil {
		return nil, grpcError(err)
	}
	if block := r.GetVolumeCapability().GetBlock() != nil; block != (v.Kind == kindRaw) {
		return nil, status.Errorf(codes.InvalidArgument, "volume %s is of kind %s, asked for as a device: %t", v.ID, v.Kind, block)
	}
	if v.Node != "" && v.Node != d.node {
		return nil, status.Errorf(codes.FailedPrecondition, "volume is on node %s, this is %s", v.Node, d.node)
	}
	mode := r.GetVolumeCapability().GetAccessMode().GetMode()
	err = d.store.change(v.ID, func(a attachments) error {
		if v.Kind != kindDir && !singleNode(mode) {
			return status.Error(codes.InvalidArgument, "a volume of fixed size can be used on one node only: ask for ReadWriteOnce")
		}
		if err := a.stage(d.node, mode); err != nil {
			return err
		}
		from := data(d.store.volumeDir(v.ID), v.Kind)
		if v.Kind == kindRaw {
			_, err := attachLoop(from)
			return err
		}
		return mountVolume(from, r.GetStagingTargetPath(), v.Kind)
	})
	if err != nil {
		return nil, grpcError(err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func mountVolume(from, to, kind string) error {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return fmt.Errorf("cannot make the mount point: %w", err)
	}
	if mounted, err := isMount(to); err != nil || mounted {
		return err
	}
	if kind == kindExt4 {
		return command("mount", "-t", "ext4", "-o", "loop", from, to)
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount %s: %w", from, err)
	}
	return nil
}

// isMount asks the kernel: a bind mount of the same file system cannot be told by
// its device number.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

func unmount(path string) error {
	if err := unix.Unmount(path, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("cannot unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot remove the mount point: %w", err)
	}
	return nil
}

// NodeUnstageVolume gives the volume up on this node: now another one may have it.
func (d *driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	err := d.store.change(r.GetVolumeId(), func(a attachments) error {
		if err := unmount(r.GetStagingTargetPath()); err != nil {
			return err
		}
		delete(a, d.node)
		if v, err := d.store.volume(r.GetVolumeId()); err == nil && v.Kind == kindRaw {
			return detachLoop(data(d.store.volumeDir(v.ID), v.Kind))
		}
		return nil
	})
	if err != nil {
		return nil, grpcError(err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// NodePublishVolume gives the staged volume to a pod.
func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	mode := r.GetVolumeCapability().GetAccessMode().GetMode()
	err := d.store.change(r.GetVolumeId(), func(a attachments) error {
		if err := a.publish(d.node, r.GetTargetPath(), mode); err != nil {
			return err
		}
		if r.GetVolumeCapability().GetBlock() != nil {
			return publishDevice(data(d.store.volumeDir(r.GetVolumeId()), kindRaw), r.GetTargetPath())
		}
		if err := mountVolume(r.GetStagingTargetPath(), r.GetTargetPath(), kindDir); err != nil {
			return err
		}
		if !r.GetReadonly() {
			return nil
		}
		return unix.Mount("", r.GetTargetPath(), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	})
	if err != nil {
		return nil, grpcError(err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume takes the volume from a pod.
func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	err := d.store.change(r.GetVolumeId(), func(a attachments) error {
		if err := unmount(r.GetTargetPath()); err != nil {
			return err
		}
		a.unpublish(d.node, r.GetTargetPath())
		return nil
	})
	if err != nil {
		return nil, grpcError(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats tells how full the volume is. Of a folder it can only tell
// how full the disk below is.
func (d *driver) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if v, err := d.store.volume(r.GetVolumeId()); err == nil && v.Kind == kindRaw {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: v.Size}}}, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(r.GetVolumePath(), &st); err != nil {
		return nil, status.Errorf(codes.NotFound, "cannot look at the volume: %v", err)
	}
	size := int64(st.Bsize)
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(st.Blocks) * size, Available: int64(st.Bavail) * size, Used: int64(st.Blocks-st.Bfree) * size},
		{Unit: csi.VolumeUsage_INODES, Total: int64(st.Files), Available: int64(st.Ffree), Used: int64(st.Files - st.Ffree)},
	}}, nil
}
