package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/compression"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
)

const (
	// splitterName cuts files at fixed places, so that a page changed in place changes one piece.
	splitterName = "FIXED-128K"
	pieceSize    = 128 << 10
	// hashName and cipherName are the cheapest pair that the library has; ADR 7 has the figures.
	hashName   = "BLAKE3-256-128"
	cipherName = "AES256-GCM-HMAC-SHA256"
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
// What it returns is the format blob, nil if there is no repository.
func ensureRepository(ctx context.Context, st store, password string, mayCreate bool) (found []byte, created bool, err error) {
	found, err = st.read(ctx)
	if err != nil || found != nil || !mayCreate {
		return found, false, err
	}
	mine, err := newFormatBlob(ctx, password)
	if err != nil {
		return nil, false, fail(ReasonWriteFailed, err, "cannot prepare a new repository")
	}
	if err := st.create(ctx, mine); err != nil {
		return nil, false, err
	}
	found, err = st.read(ctx)
	if err != nil {
		return nil, false, err
	}
	if found == nil {
		return nil, false, fail(ReasonRepositoryUnreachable, nil, "the repository just created cannot be read back")
	}
	return found, bytes.Equal(found, mine), nil
}

// newFormatBlob builds the blob that makes a prefix a repository: its keys, encrypted with the
// password. The library's second blob says only that nothing is retained, which is its default.
func newFormatBlob(ctx context.Context, password string) ([]byte, error) {
	mem := &memoryStore{blobs: map[blob.ID][]byte{}}
	err := repo.Initialize(ctx, mem, &repo.NewRepositoryOptions{
		BlockFormat:  format.ContentFormat{Hash: hashName, Encryption: cipherName},
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

// openRepository opens the repository behind a front, which it closes on failure. The library wants a
// configuration file: it holds nothing but the front's number.
func openRepository(ctx context.Context, f *front, o opening) (repo.DirectRepository, error) {
	conn := f.ConnectionInfo()
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
	if err := os.MkdirAll(o.cacheDir, 0o700); err != nil {
		return nil, fail(ReasonCacheFailed, err, "cannot make the directory for caches")
	}
	file := filepath.Join(o.cacheDir, fmt.Sprintf("repository-%d.config", f.number))
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, fail(ReasonCacheFailed, err, "cannot write into the directory for caches")
	}
	r, err := repo.Open(ctx, file, o.password, &repo.Options{
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
