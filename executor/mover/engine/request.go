package engine

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Op names what a request wants done.
type Op string

// The operations of the mover.
const (
	// OpProbe opens the repository if there is one and changes nothing.
	OpProbe Op = "probe"
	// OpUpload takes a snapshot of each volume and creates the repository if there is none.
	OpUpload Op = "upload"
	// OpRestore makes each volume equal to a snapshot.
	OpRestore Op = "restore"
	// OpPurge deletes everything under the prefix, which must end in data/<plan>/.
	OpPurge Op = "purge"
	// OpSend takes a snapshot of each volume, and sends the contents of its files to the mover that
	// receives it instead of storing them.
	OpSend Op = "send"
	// OpReceive makes each volume equal to the snapshot that a sender takes while it sends.
	OpReceive Op = "receive"
)

// Request is what one run of the mover does; it is read from a JSON file.
type Request struct {
	Op         Op         `json:"op"`
	Repository Repository `json:"repository"`
	// CredentialsFile is an AWS credentials file with a [default] profile.
	CredentialsFile string `json:"credentialsFile"`
	// PasswordFile holds the password that encrypts the repository.
	PasswordFile string `json:"passwordFile"`
	// CacheDir takes the repository's caches: an empty directory of the pod.
	CacheDir string          `json:"cacheDir"`
	Volumes  []VolumeRequest `json:"volumes,omitempty"`
	// Live says that the source is in use: a file that changes or vanishes while it is read is a
	// warning then, and the error SourceChanged otherwise.
	Live bool `json:"live,omitempty"`
	// Direct is set to send and to receive.
	Direct *Direct `json:"direct,omitempty"`
	// Parallel limits how many files are read or written at once; 0 means 8.
	Parallel int `json:"parallel,omitempty"`
	// Maintain lets an upload maintain the repository afterwards, if that is due.
	Maintain bool `json:"maintain,omitempty"`
}

// Repository says where the repository lies.
type Repository struct {
	// Endpoint is host[:port] or a URL; https unless the URL says http.
	Endpoint string `json:"endpoint"`
	Region   string `json:"region,omitempty"`
	Bucket   string `json:"bucket"`
	// Prefix ends in "/"; the repository's objects have nothing else above them.
	Prefix string `json:"prefix"`
	// CABundle is PEM; it replaces the system's roots when set.
	CABundle              string `json:"caBundle,omitempty"`
	InsecureSkipTLSVerify bool   `json:"insecureSkipTLSVerify,omitempty"`
	// BytesPerSecond limits what a run sends to the store, and what it receives from it; 0 is no limit.
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"`
}

// Direct is how two movers of a direct transfer find and prove each other.
type Direct struct {
	// Dir holds the files of an Identity.
	Dir string `json:"dir"`
	// Listen is where to listen, "host:port" (receive).
	Listen string `json:"listen,omitempty"`
}

// VolumeRequest is one volume of a request.
type VolumeRequest struct {
	// Name is the stable identity "<source namespace>/<claim>" under which snapshots are kept.
	Name string `json:"name"`
	// Path is the directory where the volume is visible, or the device that it is.
	Path string `json:"path"`
	// Mode tells a block device from a file system. A snapshot of the one is never restored into
	// the other.
	Mode Mode `json:"mode,omitempty"`
	// Parent is the previous snapshot of the same volume (upload); "" reads every file.
	Parent string `json:"parent,omitempty"`
	// Keep are the snapshots that stay beside the new one (upload); all others of the volume are
	// forgotten. An empty list keeps them all.
	Keep []string `json:"keep,omitempty"`
	// Snapshot is the snapshot wanted on the target (restore).
	Snapshot string `json:"snapshot,omitempty"`
	// Held is the snapshot that the target holds (restore); "" means unknown.
	Held string `json:"held,omitempty"`
	// Peer is where the volume's receiver listens, "host:port" (send).
	Peer string `json:"peer,omitempty"`
	// Content compares the content of every file and trusts no earlier snapshot. A sender and its
	// receiver must have the same, and the sender's Parent must be what the receiver's target holds.
	Content bool `json:"content,omitempty"`
	// Verify reads back what lies on the target's disk after the restore.
	Verify Verify `json:"verify,omitempty"`
}

// Result is what a run did; it is written as JSON.
type Result struct {
	Volumes []VolumeResult `json:"volumes,omitempty"`
	// RepositoryOpenMS is how long reaching and opening the repository took, in milliseconds.
	RepositoryOpenMS int64 `json:"repositoryOpenMs"`
	// RepositoryExists is false after a probe of a place where no repository was created yet.
	RepositoryExists bool `json:"repositoryExists"`
	// RepositoryCreated says that this run created the repository.
	RepositoryCreated bool `json:"repositoryCreated,omitempty"`
	// Maintained is "quick" or "full" if the repository was maintained; an error there is no failure.
	Maintained       string `json:"maintained,omitempty"`
	MaintenanceError string `json:"maintenanceError,omitempty"`
	// Purged says that nothing is left under the prefix.
	Purged bool `json:"purged,omitempty"`

	Error  string `json:"error,omitempty"`
	Reason Reason `json:"reason,omitempty"`
}

// VolumeResult is what a run did with one volume.
type VolumeResult struct {
	Name string `json:"name"`
	// Snapshot is the snapshot made (upload) or now held by the target (restore).
	Snapshot string `json:"snapshot"`
	// Files and Bytes count the regular files of the snapshot and their sizes.
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
	// DiskBytes are what they take up on the source, with holes left out and hard links counted
	// once (upload).
	DiskBytes int64 `json:"diskBytes,omitempty"`
	// ReadBytes were read from the volume: hashed for upload, compared for restore.
	ReadBytes int64 `json:"readBytes"`
	// UploadedBytes reached the store after deduplication, encryption included.
	UploadedBytes int64 `json:"uploadedBytes"`
	// FetchedBytes of file content were read from the store (restore), packs that were fetched as a
	// whole included.
	FetchedBytes int64 `json:"fetchedBytes,omitempty"`
	// SentBytes went straight to the target's mover (send).
	SentBytes int64 `json:"sentBytes,omitempty"`
	// WrittenBytes were written into files of the target; holes are not.
	WrittenBytes int64 `json:"writtenBytes"`
	// ChangedFiles were read (upload) or rewritten (restore); UnchangedFiles were not.
	ChangedFiles   int64 `json:"changedFiles"`
	UnchangedFiles int64 `json:"unchangedFiles"`
	// ChangedMetadata counts entries that kept their content, and directories, that got another
	// owner, mode, time or attribute (restore).
	ChangedMetadata int64 `json:"changedMetadata"`
	// DeletedEntries were on the target and not in the snapshot.
	DeletedEntries int64 `json:"deletedEntries"`
	// Verified is what a verification found, if one was asked for.
	Verified *Verified `json:"verified,omitempty"`
	// Warnings are the first 20 of WarningCount.
	Warnings     []string `json:"warnings,omitempty"`
	WarningCount int64    `json:"warningCount"`
	DurationMS   int64    `json:"durationMs"`
}

const defaultParallel = 8

// validatePlace refuses a request that says nothing about where the repository is.
func (r Request) validatePlace() error {
	if r.CacheDir == "" || !filepath.IsAbs(r.CacheDir) {
		return fail(ReasonBadRequest, nil, "the request's cacheDir %q is not an absolute path", r.CacheDir)
	}
	if r.Repository.Prefix != "" && !strings.HasSuffix(r.Repository.Prefix, "/") {
		return fail(ReasonBadRequest, nil, "the repository's prefix %q does not end in a slash", r.Repository.Prefix)
	}
	return nil
}

// validate refuses a request that cannot mean anything, before anything is touched.
func (r Request) validate() error {
	if err := r.validatePlace(); err != nil {
		return err
	}
	if r.Op != OpProbe && r.Op != OpPurge && len(r.Volumes) == 0 {
		return fail(ReasonBadRequest, nil, "a request to %s names no volume", r.Op)
	}
	if direct := r.Op == OpSend || r.Op == OpReceive; direct && (r.Direct == nil || r.Direct.Dir == "" || (r.Op == OpReceive && r.Direct.Listen == "")) {
		return fail(ReasonBadRequest, nil, "a request to %s does not say how the movers find and prove each other", r.Op)
	}
	seen := map[string]bool{}
	for i, v := range r.Volumes {
		if err := v.validate(r.Op); err != nil {
			return fail(ReasonBadRequest, err, "volumes[%d] of the request", i)
		}
		if seen[v.Name] {
			return fail(ReasonBadRequest, nil, "volumes[%d] of the request names %q a second time", i, v.Name)
		}
		seen[v.Name] = true
	}
	return nil
}

func (v VolumeRequest) validate(op Op) error {
	switch {
	case v.Name == "":
		return fmt.Errorf("has no name")
	case !filepath.IsAbs(v.Path):
		return fmt.Errorf("%s: path %q is not absolute", v.Name, v.Path)
	case v.Mode != ModeFilesystem && v.Mode != ModeBlock:
		return fmt.Errorf("%s: the mode %q is not one that this version knows", v.Name, v.Mode)
	case (op == OpSend || op == OpReceive) && v.Mode != ModeFilesystem:
		return fmt.Errorf("%s: a block device cannot go from mover to mover", v.Name)
	case op == OpSend && v.Peer == "":
		return fmt.Errorf("%s: names no peer to send to", v.Name)
	case op == OpRestore && v.Snapshot == "":
		return fmt.Errorf("%s: names no snapshot to restore", v.Name)
	case v.Verify != VerifyNothing && (op != OpRestore || (v.Verify != VerifyChanged && v.Verify != VerifyAll)):
		return fmt.Errorf("%s: %q is not what a request to %s can verify", v.Name, v.Verify, op)
	}
	return nil
}
