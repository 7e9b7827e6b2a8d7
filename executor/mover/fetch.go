package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"golang.org/x/sys/unix"
)

// Fetch writes a snapshot of a volume ("<namespace>/<claim>") from the repository of
// the env's run into "volume" below a folder of this machine, which must be empty or
// new, with owners, modes and times: it needs root. Only root may enter the folder,
// because whoever wrote the volume may have put programs there that run as root. Fetch
// reads everything back, touches no cluster, and changes nothing in the repository. The
// error holds no secret.
func Fetch(ctx context.Context, e *kube.Env, volume, snapshot, folder string, cloud, password []byte) (*engine.VolumeResult, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the files of a volume have owners of their own: run this as root")
	}
	there, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot look into %s: %w", folder, err)
	}
	if len(there) > 0 {
		return nil, fmt.Errorf("%s is not empty, and what is in it would be deleted: name an empty folder or a new one", folder)
	}
	content := filepath.Join(folder, "volume")
	if err := errors.Join(os.MkdirAll(content, 0o700), os.Chmod(folder, 0o700)); err != nil {
		return nil, fmt.Errorf("cannot make the folder: %w", err)
	}
	cache, err := os.MkdirTemp("", "tranship-cache-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder for the cache: %w", err)
	}
	defer os.RemoveAll(cache)
	req := request(e, engine.OpRestore)
	req.CacheDir = cache
	for value, file := range map[*[]byte]*string{&cloud: &req.CredentialsFile, &password: &req.PasswordFile} {
		f, err := inMemory(*value)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		*file = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	}
	req.Volumes = []engine.VolumeRequest{{Name: volume, Path: content, Snapshot: snapshot, Content: true, Verify: engine.VerifyAll}}
	res, err := engine.Run(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch snapshot %s of volume %s: %w", snapshot, volume, err)
	}
	if !res.RepositoryExists || len(res.Volumes) != 1 {
		return nil, fmt.Errorf("there is no repository under %s in bucket %s: a plan that is closed keeps nothing", req.Repository.Prefix, req.Repository.Bucket)
	}
	if v := res.Volumes[0].Verified; v != nil && v.Errors > 0 {
		return nil, fmt.Errorf("%d files in %s are not what snapshot %s of volume %s holds: fetch it again", v.Errors, content, snapshot, volume)
	}
	return &res.Volumes[0], nil
}

// inMemory is a file that lies on no disk.
func inMemory(value []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("tranship", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot keep a secret in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	if _, err := f.Write(value); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot keep a secret in memory: %w", err), f.Close())
	}
	return f, nil
}
