package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// webUser is who the web application runs as.
const webUser = 1000

// seed fills a fresh volume with media files and with what copying programs get
// wrong. It runs as root before the application, and does nothing a second time,
// so on the target only a copied volume has anything in it.
func seed(dir string) error {
	marker := filepath.Join(dir, ".seeded")
	if _, err := os.Lstat(marker); err == nil {
		fmt.Println("the volume is filled already")
		return nil
	}
	s := &seeder{root: dir}
	s.media()
	s.names()
	s.modes()
	s.links()
	s.attributes()
	s.traps()
	s.try(os.Chown(dir, webUser, webUser))
	s.try(os.Chmod(dir, 0o750|fs.ModeSetgid))
	s.try(os.WriteFile(marker, []byte("filled by the demonstration\n"), 0o444))
	if s.err != nil {
		return fmt.Errorf("cannot fill the volume: %w", s.err)
	}
	return nil
}

// seeder keeps all errors, so that its methods read as lists.
type seeder struct {
	root string
	err  error
}

func (s *seeder) try(err error) { s.err = errors.Join(s.err, err) }

func (s *seeder) dir(name string, mode fs.FileMode) string {
	path := filepath.Join(s.root, name)
	s.try(os.MkdirAll(path, 0o755))
	s.try(os.Chmod(path, mode))
	return path
}

func (s *seeder) file(name, content string, mode fs.FileMode) string {
	path := filepath.Join(s.root, name)
	s.try(os.MkdirAll(filepath.Dir(path), 0o755))
	s.try(os.WriteFile(path, []byte(content), 0o600))
	s.try(os.Chmod(path, mode))
	return path
}

// media is most of the volume: 60 MB in 200 files that do not compress.
func (s *seeder) media() {
	random := rand.NewChaCha8([32]byte{1})
	for i := range 200 {
		path := s.file(fmt.Sprintf("media/%02d/photo-%03d.jpg", i%10, i), "", 0o640)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			s.try(err)
			return
		}
		_, err = io.CopyN(f, random, int64(200_000+1000*i))
		s.try(errors.Join(err, f.Close(), os.Chown(path, webUser, webUser)))
	}
}

func (s *seeder) names() {
	for _, name := range []string{
		"with spaces ", "new\nline", "not-utf8-\xe9\xff", "-rf", "*?[glob]", `back\slash`, "quote'\"", "ünïcödé-\U0001F69A", strings.Repeat("n", 255),
	} {
		s.file("odd/names/"+name, "named "+name, 0o644)
	}
	s.file("odd/"+strings.Repeat("deep/", 40)+"file", "far down", 0o644)
	s.dir("odd/empty", 0o700)
	s.file("odd/empty-file", "", 0o600)
}

func (s *seeder) modes() {
	s.file("odd/setuid", "#!", 0o755|fs.ModeSetuid)
	s.file("odd/setgid", "#!", 0o755|fs.ModeSetgid)
	s.file("odd/no-access", "nobody", 0)
	s.file("odd/read-only", "look", 0o444)
	s.dir("odd/sticky", 0o777|fs.ModeSticky)
	s.dir("odd/setgid-dir", 0o770|fs.ModeSetgid)
	s.try(os.Chown(s.file("odd/foreign", "of a user without a name", 0o640), 12345, 54321))
	old, future := time.Date(1971, 2, 3, 4, 5, 6, 123456789, time.UTC), time.Date(2040, 1, 1, 0, 0, 0, 1, time.UTC)
	s.try(os.Chtimes(s.file("odd/old", "old", 0o644), old, old))
	s.try(os.Chtimes(s.file("odd/future", "soon", 0o644), future, future))
	s.try(syscall.Mkfifo(filepath.Join(s.root, "odd/pipe"), 0o620))
}

func (s *seeder) links() {
	inside := s.file("odd/links/file", "linked to", 0o644)
	for name, target := range map[string]string{
		"relative": "file", "absolute": "/etc/passwd", "dangling": "nowhere", "folder": "../empty", "loop": "loop", "long": strings.Repeat("x/", 500),
	} {
		s.try(os.Symlink(target, filepath.Join(s.root, "odd/links", name)))
	}
	s.try(os.Link(inside, filepath.Join(s.root, "odd/links/hard")))
	s.try(os.Lchown(filepath.Join(s.root, "odd/links/dangling"), 12345, 12345))

	sparse := s.file("odd/sparse", "", 0o600)
	s.try(os.Truncate(sparse, 16<<20))
	f, err := os.OpenFile(sparse, os.O_WRONLY, 0)
	if err != nil {
		s.try(err)
		return
	}
	_, err = f.WriteAt([]byte("an island"), 10<<20)
	s.try(errors.Join(err, f.Close()))
}

func (s *seeder) attributes() {
	path := s.file("odd/attributes", "noted", 0o640)
	s.try(syscall.Setxattr(path, "user.comment", []byte("kept?"), 0))
	s.try(syscall.Setxattr(path, "user.binary", []byte{0, 1, 255}, 0))
	s.try(syscall.Setxattr(s.dir("odd/attributes-dir", 0o750), "user.comment", []byte("on a folder"), 0))
	// user::rw- user:12345:r-- group::r-- mask::r-- other::---, as the kernel writes it.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x39\x30\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	s.try(syscall.Setxattr(s.file("odd/acl", "listed", 0o640), "system.posix_acl_access", []byte(acl), 0))
	// CAP_NET_BIND_SERVICE, permitted and effective.
	capability := "\x01\x00\x00\x02" + "\x00\x04\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	s.try(syscall.Setxattr(s.file("odd/capability", "#!", 0o755), "security.capability", []byte(capability), 0))
}

// traps are files which backup programs take as orders to leave others out.
func (s *seeder) traps() {
	s.file("odd/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n", 0o644)
	s.file("odd/cache/file", "not to be left out", 0o644)
	s.file("odd/ignored/.kopiaignore", "*\n", 0o644)
	s.file("odd/ignored/.nomedia", "", 0o644)
	s.file("odd/ignored/file", "not to be left out", 0o644)
	s.dir("odd/lost+found", 0o700)
}
