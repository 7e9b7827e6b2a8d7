package main

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/fs/localfs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/s3"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/policy"
	"github.com/kopia/kopia/snapshot/restore"
	"github.com/kopia/kopia/snapshot/snapshotfs"
	"github.com/kopia/kopia/snapshot/upload"
)

// The peer of copy.first: the engine's own library, its own uploader and its
// own restore, in this process, without pods.

const alonePassword = "of no importance"

// repositoryFormat are the names of the library's algorithms; empty ones are
// the library's own choice.
type repositoryFormat struct{ hash, encryption, splitter string }

// alone is one repository of the peer's.
type alone struct {
	lab    *lab
	prefix string
}

func (e *alone) store(ctx context.Context, create bool) (blob.Storage, error) {
	return e.lab.blobs(ctx, e.prefix, create)
}

// blobs is the bed's object store as the library sees it.
func (l *lab) blobs(ctx context.Context, prefix string, create bool) (blob.Storage, error) {
	u, err := url.Parse(l.bed.S3.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("cannot read the address of the object store: %w", err)
	}
	access, err := secret(l.bed.S3.AccessKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := secret(l.bed.S3.SecretKeyFile)
	if err != nil {
		return nil, err
	}
	ca, err := secret(l.bed.S3.CAFile)
	if err != nil {
		return nil, err
	}
	return s3.New(ctx, &s3.Options{
		BucketName: l.bed.S3.Bucket, Prefix: prefix, Region: l.bed.S3.Region, Endpoint: u.Host,
		AccessKeyID: access, SecretAccessKey: key, RootCA: []byte(ca + "\n"),
	}, create)
}

func (e *alone) create(ctx context.Context, as repositoryFormat) error {
	st, err := e.store(ctx, true)
	if err != nil {
		return err
	}
	defer st.Close(ctx)
	err = repo.Initialize(ctx, st, &repo.NewRepositoryOptions{
		BlockFormat:  format.ContentFormat{Hash: as.hash, Encryption: as.encryption},
		ObjectFormat: format.ObjectFormat{Splitter: as.splitter},
	}, alonePassword)
	if err != nil {
		return fmt.Errorf("cannot create the peer's repository: %w", err)
	}
	return nil
}

// open connects and opens; done closes and forgets.
func (l *lab) open(ctx context.Context, st blob.Storage, password string) (rep repo.DirectRepository, done func(), err error) {
	dir, err := os.MkdirTemp(l.dir, "repository-")
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	config := filepath.Join(dir, "config")
	err = repo.Connect(ctx, config, st, password, &repo.ConnectOptions{CachingOptions: content.CachingOptions{
		CacheDirectory: filepath.Join(dir, "cache"), ContentCacheSizeBytes: 512 << 20, MetadataCacheSizeBytes: 256 << 20,
	}})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot connect the repository: %w", err)
	}
	r, err := repo.Open(ctx, config, password, &repo.Options{DisableRepositoryLog: true})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the repository: %w", err)
	}
	return r.(repo.DirectRepository), func() {
		r.Close(ctx) // nothing is written any more
		os.RemoveAll(dir)
	}, nil
}

// copy takes a snapshot of a folder and restores it elsewhere; each side opens
// the repository for itself, as two machines would.
func (e *alone) copy(ctx context.Context, from, to string) error {
	st, err := e.store(ctx, false)
	if err != nil {
		return err
	}
	defer st.Close(ctx)
	source := snapshot.SourceInfo{Host: "bench", UserName: "bench", Path: from}
	root, err := e.upload(ctx, st, source)
	if err != nil {
		return err
	}
	rep, done, err := e.lab.open(ctx, st, alonePassword)
	if err != nil {
		return err
	}
	defer done()
	entry := snapshotfs.EntryFromDirEntry(rep, root)
	out := &restore.FilesystemOutput{TargetPath: to, OverwriteDirectories: true, OverwriteFiles: true, WriteSparseFiles: true}
	if err := out.Init(ctx); err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	if _, err := restore.Entry(ctx, rep, out, entry, restore.Options{RestoreDirEntryAtDepth: math.MaxInt32}); err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	return nil
}

func (e *alone) upload(ctx context.Context, st blob.Storage, source snapshot.SourceInfo) (*snapshot.DirEntry, error) {
	rep, done, err := e.lab.open(ctx, st, alonePassword)
	if err != nil {
		return nil, err
	}
	defer done()
	dir, err := localfs.Directory(source.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the source: %w", err)
	}
	var m *snapshot.Manifest
	err = repo.WriteSession(ctx, rep, repo.WriteSessionOptions{Purpose: "bench"}, func(ctx context.Context, w repo.RepositoryWriter) error {
		var err error
		m, err = upload.NewUploader(w).Upload(ctx, fs.Entry(dir), policy.BuildTree(nil, policy.DefaultPolicy), source)
		if err != nil {
			return err
		}
		_, err = snapshot.SaveSnapshot(ctx, w, m)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot upload: %w", err)
	}
	if m.IncompleteReason != "" {
		return nil, fmt.Errorf("the upload is not complete: %s", m.IncompleteReason)
	}
	return m.RootEntry, nil
}

// format reads which algorithms the product's repository of the plan uses.
func (v *volume) format(ctx context.Context) (f repositoryFormat, err error) {
	st, err := v.lab.blobs(ctx, v.lab.dataPrefix(v.plan), false)
	if err != nil {
		return f, err
	}
	defer st.Close(ctx)
	rep, done, err := v.lab.open(ctx, st, v.lab.password())
	if err != nil {
		return f, err
	}
	defer done()
	has := rep.ContentReader().ContentFormat()
	return repositoryFormat{has.GetHashFunction(), has.GetEncryptionAlgorithm(), rep.ObjectFormat().Splitter}, nil
}
