package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/snapshot/snapshotfs"
	"golang.org/x/sys/unix"
)

func TestSplitEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"store.example":           "store.example false",
		"store.example:9000":      "store.example:9000 false",
		"https://store.example/":  "store.example false",
		"http://store.example:80": "store.example:80 true",
		"[::1]:9000":              "[::1]:9000 false",
		"https://a:b@store":       "refused",
		"https://store/path":      "refused",
		"ftp://store":             "refused",
		"":                        "refused",
	} {
		host, plain, err := splitEndpoint(in)
		have := fmt.Sprint(host, " ", plain)
		if err != nil {
			have = "refused"
			if strings.Contains(err.Error(), "a:b") {
				t.Errorf("%v holds what may be a password", err)
			}
		}
		if have != want {
			t.Errorf("%q gives %s, want %s", in, have, want)
		}
	}
}

func TestReadSecrets(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		p := filepath.Join(dir, name)
		must(t, os.WriteFile(p, []byte(content), 0o600))
		return p
	}
	pw := file("pw", "p4ss+word/%\n")
	s, err := readSecrets(file("c", "[other]\naws_access_key_id=no\n[default]\naws_access_key_id = AKIA1\naws_secret_access_key=s=e/c\n"), pw)
	must(t, err)
	if s.accessKey != "AKIA1" || s.secretKey != "s=e/c" || s.password != "p4ss+word/%" {
		t.Errorf("read %+v", s)
	}
	text := s.clean("GET /?k=AKIA1&p=p4ss%2Bword%2F%25 p4ss+word/% s=e/c s%3De%2Fc")
	for _, secret := range []string{"AKIA1", "p4ss", "s=e/c", "%3De"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q still holds %q", text, secret)
		}
	}
	for _, c := range []string{"", "[default]\naws_access_key_id=x\n", "aws_access_key_id=x\naws_secret_access_key=y\n"} {
		_, err := readSecrets(file("bad", c), pw)
		reasonIs(t, err, ReasonCredentialsUnreadable)
	}
}

// TestNodesSurviveTheWire encodes what is hard to encode.
func TestNodesSurviveTheWire(t *testing.T) {
	for _, n := range []*node{
		{name: "plain", kind: kindFile, perm: 0o7777, size: 5},
		{name: "\xff\xfe", kind: kindFile, perm: 0},
		{name: "p", kind: kindFIFO, perm: 0o1600, uid: math.MaxUint32 - 1, gid: 7},
		{name: "sock", kind: kindSocket, perm: 0o755, uid: 1, gid: 2},
		{name: "new\nline", kind: kindSymlink, perm: 0o777, size: 3},
		{name: "old", kind: kindFile, mtime: unix.Timespec{Sec: -5, Nsec: 999999999}},
		{name: "epoch", kind: kindFile},
		{name: "far", kind: kindFile, mtime: unix.Timespec{Sec: 1 << 34, Nsec: 1}},
		{name: "back", kind: kindFile, mtime: unix.Timespec{Sec: -1 << 34, Nsec: 1}},
		{name: "attrs", kind: kindDir, attrs: xattrs{"user.\xff": {0, 255}, "user.empty": {}}, links: ""},
		{name: "linked", kind: kindFile, links: "12", inode: math.MaxUint64, ctime: unix.Timespec{Sec: 9, Nsec: 9}},
	} {
		sum := &fs.DirectorySummary{}
		raw, err := json.Marshal(n.encode(sum))
		must(t, err)
		var e wireEntry
		if strings.Contains(string(raw), `"obj":""`) { // no object in this test
			raw = []byte(strings.Replace(string(raw), `"obj":""`, `"obj":"00"`, 1))
		}
		must(t, json.Unmarshal(raw, &e))
		back, err := e.decode()
		must(t, err)
		back.object = n.object
		if fmt.Sprintf("%+v", back) != fmt.Sprintf("%+v", n) && !(n.name == "attrs" && back.attrs.equal(n.attrs)) {
			t.Errorf("%+v came back as %+v", n, back)
		}
	}
}

// TestStockKopiaReadsOurSnapshots walks a snapshot with the library's own file system.
func TestStockKopiaReadsOurSnapshots(t *testing.T) {
	l := newLab(t)
	l.write("d/f", "content")
	must(t, os.Symlink("d/f", filepath.Join(l.src, "s")))
	must(t, unix.Mkfifo(filepath.Join(l.src, "p"), 0o600))
	up := l.upload("")
	ctx := context.Background()
	sec := must1(readSecrets(l.req.CredentialsFile, l.req.PasswordFile))
	front := newFront(ctx, must1(must1(l.opts.openStore(Repository{}, sec)).open(ctx, nil)))
	rep, err := openRepository(ctx, front, opening{sec.password, l.req.CacheDir, true, func(error) {}})
	must(t, err)
	defer rep.Close(ctx)
	m, err := (&session{repo: rep}).manifest(ctx, "shop/data", up.Snapshot)
	must(t, err)
	root, err := snapshotfs.SnapshotRoot(rep, m)
	must(t, err)
	var walk func(d fs.Directory, rel string) string
	walk = func(d fs.Directory, rel string) (out string) {
		must(t, fs.IterateEntries(ctx, d, func(ctx context.Context, e fs.Entry) error {
			if sub, ok := e.(fs.Directory); ok {
				out += walk(sub, rel+e.Name()+"/")
				return nil
			}
			out += fmt.Sprintf("%s%s %d;", rel, e.Name(), e.Size())
			return nil
		}))
		return out
	}
	if have := walk(root.(fs.Directory), ""); len(have) != len("d/f 7;p 0;s 3;") {
		t.Errorf("the library sees %q", have)
	}
}

// TestStoreFailures gives each way a store can refuse its reason, soon and without a secret.
func TestStoreFailures(t *testing.T) {
	answer := func(status int, code string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>key AKIATESTTESTTEST is not known</Message></Error>`, code)
		})
	}
	cases := map[string]struct {
		handler http.Handler
		trust   bool
		want    Reason
	}{
		"no bucket":        {answer(404, "NoSuchBucket"), true, ReasonBucketMissing},
		"denied":           {answer(403, "AccessDenied"), true, ReasonAccessDenied},
		"unknown key":      {answer(403, "InvalidAccessKeyId"), true, ReasonAccessDenied},
		"broken":           {answer(400, "Strange"), true, ReasonRepositoryUnreachable},
		"untrusted":        {answer(200, ""), false, ReasonUntrustedCertificate},
		"nobody is there":  {nil, true, ReasonRepositoryUnreachable},
		"restore, no blob": {answer(404, "NoSuchKey"), true, ReasonRepositoryMissing},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			srv := httptest.NewTLSServer(c.handler)
			defer srv.Close()
			l.opts.openStore = newS3Store
			l.req.Repository = Repository{Endpoint: srv.URL, Bucket: "bucket", Prefix: "data/p/", InsecureSkipTLSVerify: c.trust}
			if c.handler == nil {
				srv.Close()
			}
			begin := time.Now()
			_, err := l.run(OpRestore, VolumeRequest{Snapshot: "x"})
			reasonIs(t, err, c.want)
			if strings.Contains(err.Error(), "AKIATEST") || strings.Contains(err.Error(), "secretsecret") {
				t.Errorf("the error holds a secret: %v", err)
			}
			if d := time.Since(begin); d > storePatience {
				t.Errorf("it took %v to say so", d)
			}
			t.Log(err)
		})
	}
}

// TestSecretsTouchNoDisk looks for the credentials in everything a run leaves behind.
func TestSecretsTouchNoDisk(t *testing.T) {
	l := newLab(t)
	l.write("f", "x")
	l.upload("")
	must(t, filepath.Walk(filepath.Dir(l.req.CacheDir), func(p string, i os.FileInfo, err error) error {
		if err != nil || !i.Mode().IsRegular() || p == l.req.CredentialsFile || p == l.req.PasswordFile {
			return err
		}
		if b := must1(os.ReadFile(p)); strings.Contains(string(b), "secretsecret") || strings.Contains(string(b), "correct horse") {
			t.Errorf("%s holds a secret", p)
		}
		return nil
	}))
}

// TestDiskBytes: holes take up nothing, a file with two paths counts once, and
// a file that did not change counts like any other.
func TestDiskBytes(t *testing.T) {
	l := newLab(t)
	must(t, os.WriteFile(filepath.Join(l.src, "full"), make([]byte, 1<<20), 0o600))
	must(t, os.Link(filepath.Join(l.src, "full"), filepath.Join(l.src, "again")))
	must(t, os.WriteFile(filepath.Join(l.src, "sparse"), nil, 0o600))
	must(t, os.Truncate(filepath.Join(l.src, "sparse"), 1<<30))
	first := l.upload("")
	for _, v := range []VolumeResult{first, l.upload(first.Snapshot)} {
		if v.Bytes < 1<<30 || v.DiskBytes < 1<<20 || v.DiskBytes >= 2<<20 {
			t.Errorf("%d bytes in %d files take up %d", v.Bytes, v.Files, v.DiskBytes)
		}
	}
}
