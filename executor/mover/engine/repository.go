package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/compression"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"golang.org/x/sys/unix"
)

const (
	// splitterName cuts files at fixed places, so that a page changed in place changes one piece.
	splitterName = "FIXED-128K"
	pieceSize    = 128 << 10
	// hashName is the fastest of the library's hashes, and one that we can compute ourselves.
	hashName = "BLAKE3-256-128"
	// keyDerivation turns the password, which a program made and nobody has to remember, into a key:
	// the cheaper of the library's two, in time and memory, for every run of the mover pays it.
	keyDerivation = "pbkdf2-sha256-600000"
	// metadataCompressor packs directory objects, which are JSON; files are not compressed.
	metadataCompressor compression.Name = "zstd-fastest"

	identity = "tranship" // the user and host name of every snapshot

	contentCacheBytes  = 512 << 20
	metadataCacheBytes = 256 << 20
)

// ensureRepository finds the repository, or creates it if mayCreate. It is the only place that does.
func ensureRepository(ctx context.Context, st store, password string, mayCreate bool) (exists, created bool, err error) {
	found, err := st.read(ctx)
	if err != nil || found != nil || !mayCreate {
		return found != nil, false, err
	}
	mine, err := newFormatBlob(ctx, password)
	if err != nil {
		return false, false, fail(ReasonWriteFailed, err, "cannot prepare a new repository")
	}
	if err := st.create(ctx, mine); err != nil {
		return false, false, err
	}
	found, err = st.read(ctx)
	if err != nil {
		return false, false, err
	}
	if found == nil {
		return false, false, fail(ReasonRepositoryUnreachable, nil, "the repository just created cannot be read back")
	}
	return true, bytes.Equal(found, mine), nil
}

// newFormatBlob builds the blob that makes a prefix a repository: its keys, encrypted with the
// password. The library's second blob says only that nothing is retained, which is its default.
func newFormatBlob(ctx context.Context, password string) ([]byte, error) {
	mem := &memoryStore{blobs: map[blob.ID][]byte{}}
	err := repo.Initialize(ctx, mem, &repo.NewRepositoryOptions{
		BlockFormat:  format.ContentFormat{Hash: hashName},
		ObjectFormat: format.ObjectFormat{Splitter: splitterName},

		FormatBlockKeyDerivationAlgorithm: keyDerivation,
	}, password)
	return mem.blobs[format.KopiaRepositoryBlobID], err
}

// memoryStore is the part of a blob store that creating a repository needs.
type memoryStore struct {
	blob.Storage
	blobs map[blob.ID][]byte
}

// GetBlob implements blob.Storage.
func (m *memoryStore) GetBlob(_ context.Context, id blob.ID, _, _ int64, out blob.OutputBuffer) error {
	data, ok := m.blobs[id]
	if !ok {
		return blob.ErrBlobNotFound
	}
	out.Reset()
	_, err := out.Write(data)
	return err
}

// PutBlob implements blob.Storage.
func (m *memoryStore) PutBlob(_ context.Context, id blob.ID, data blob.Bytes, _ blob.PutOptions) error {
	var b bytes.Buffer
	_, err := data.WriteTo(&b)
	m.blobs[id] = b.Bytes()
	return err
}

// opening says how to open a repository.
type opening struct {
	password, cacheDir string
	readOnly           bool
	fatal              func(error) // told when the library gives the repository up
}

// openRepository opens the repository. The library wants a configuration file that holds the
// credentials: it gets one that exists in memory only.
func openRepository(ctx context.Context, st store, o opening) (repo.DirectRepository, error) {
	conn := st.connection()
	config, err := json.Marshal(repo.LocalConfig{
		Storage: &conn,
		Caching: &content.CachingOptions{
			CacheDirectory: o.cacheDir,
			// A metadata cache without a content cache makes the library crash on its first read.
			ContentCacheSizeBytes: contentCacheBytes, MetadataCacheSizeBytes: metadataCacheBytes,
		},
		ClientOptions: repo.ClientOptions{Hostname: identity, Username: identity, ReadOnly: o.readOnly},
	})
	if err != nil {
		return nil, fail(ReasonBadRequest, err, "cannot describe the repository")
	}
	file, err := memoryFile(config)
	if err != nil {
		return nil, fail(ReasonWriteFailed, err, "cannot make a file in memory")
	}
	defer file.Close()
	r, err := repo.Open(ctx, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), o.password, &repo.Options{
		DisableRepositoryLog: true, DoNotWaitForUpgrade: true, OnFatalError: o.fatal,
	})
	if err != nil {
		return nil, storeFailed(err, "cannot open the repository")
	}
	direct, ok := r.(repo.DirectRepository)
	if !ok {
		return nil, fail(ReasonRepositoryDamaged, nil, "the repository is a %T and gives no direct access", r)
	}
	return direct, nil
}

func memoryFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("repository", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "repository")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
