package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
)

// bedStore is what bed.json says of the test bed's object store.
type bedStore struct {
	S3 struct {
		Endpoint, Bucket, Region, CAFile, AccessKeyFile, SecretKeyFile string
	}
}

// newBedLab is a lab whose repository lies in the object store of the bed that TRANSHIP_BED names.
func newBedLab(t testing.TB) *lab {
	t.Helper()
	file := os.Getenv("TRANSHIP_BED")
	if file == "" {
		t.Skip("TRANSHIP_BED names no bed.json")
	}
	var bed bedStore
	must(t, json.Unmarshal(must1(os.ReadFile(file)), &bed))
	l := newLab(t)
	text := func(p string) string { return strings.TrimSpace(string(must1(os.ReadFile(p)))) }
	must(t, os.WriteFile(l.req.CredentialsFile, []byte(fmt.Sprintf("[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n",
		text(bed.S3.AccessKeyFile), text(bed.S3.SecretKeyFile))), 0o600))
	l.opts.openStore = newS3Store
	l.req.Repository = Repository{
		Endpoint: bed.S3.Endpoint, Region: bed.S3.Region, Bucket: bed.S3.Bucket, CABundle: text(bed.S3.CAFile),
		Prefix: fmt.Sprintf("engine-test/%d/", time.Now().UnixNano()),
	}
	direct := l.req.Repository
	t.Cleanup(func() {
		l.req.Repository = direct // whatever stood in between is gone by now
		l.purge()
	})
	return l
}

// s3 is the lab's store.
func (l *lab) s3() *s3Store {
	l.t.Helper()
	st, err := newS3Store(l.req.Repository, must1(readSecrets(l.req.CredentialsFile, l.req.PasswordFile)))
	must(l.t, err)
	return st.(*s3Store)
}

func (l *lab) purge() {
	st := l.s3()
	ctx := context.Background()
	_ = st.ListBlobs(ctx, "", func(m blob.Metadata) error { return st.DeleteBlob(ctx, m.BlobID) })
}

func TestBedRoundTrip(t *testing.T) {
	long(t)
	l := newBedLab(t)
	for i := range 200 {
		l.write(fmt.Sprintf("d%d/f%d", i%7, i), strings.Repeat(fmt.Sprint(i), i*50))
	}
	must(t, os.WriteFile(filepath.Join(l.src, "big"), []byte(strings.Repeat("0123456789", 9<<20)), 0o600))
	first := l.upload("")
	l.restore(first.Snapshot, "")
	l.equal()
	l.write("d1/f1", "changed")
	must(t, os.RemoveAll(filepath.Join(l.src, "d2")))
	second := l.upload(first.Snapshot)
	l.restore(second.Snapshot, first.Snapshot)
	l.equal()
	_, err := l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Content: true})
	must(t, err)
	l.equal()
}

// TestBedConditionalPut shows what creating a repository relies on: the store refuses the second.
func TestBedConditionalPut(t *testing.T) {
	l := newBedLab(t)
	st, ctx := l.s3(), context.Background()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := st.create(ctx, []byte(fmt.Sprint("creator ", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	winner := string(must1(st.read(ctx)))
	must(t, st.create(ctx, []byte("late")))
	if now := string(must1(st.read(ctx))); now != winner {
		t.Errorf("%q replaced %q", now, winner)
	}
}

func TestBedReasons(t *testing.T) {
	cases := map[Reason]func(l *lab){
		ReasonUntrustedCertificate: func(l *lab) { l.req.Repository.CABundle = "" },
		ReasonBucketMissing:        func(l *lab) { l.req.Repository.Bucket = "no-such-bucket-here" },
		ReasonAccessDenied: func(l *lab) {
			must(l.t, os.WriteFile(l.req.CredentialsFile, []byte("[default]\naws_access_key_id=NOBODYNOBODY\naws_secret_access_key=wrongwrongwrong\n"), 0o600))
		},
		ReasonWrongPassword: func(l *lab) {
			l.write("f", "x")
			l.upload("")
			must(l.t, os.WriteFile(l.req.PasswordFile, []byte("battery staple"), 0o600))
			l.req.CacheDir += "2"
		},
		ReasonRepositoryUnreachable: func(l *lab) { l.req.Repository.Endpoint = "https://127.0.0.1:9" },
	}
	for want, spoil := range cases {
		t.Run(string(want), func(t *testing.T) {
			l := newBedLab(t)
			good := l.req
			defer func() { l.req = good }()
			spoil(l)
			begin := time.Now()
			_, err := l.run(OpUpload, VolumeRequest{})
			reasonIs(t, err, want)
			t.Logf("%v: %v", time.Since(begin).Round(time.Millisecond), err)
		})
	}
}
