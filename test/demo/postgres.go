package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

//go:embed files/entry.sh
var entryScript []byte

// postgresVersion is raised when the image is made in another way.
const postgresVersion = "1"

const postgresHome = "/usr/lib/postgresql/15/bin"

// unneeded are packages which PostgreSQL's server runs without: compilers of
// queries, Perl, and what only Debian's own wrappers call.
var unneeded = regexp.MustCompile(`^lib(llvm|z3|perl|pam-modules|semanage|sepol|db5|gdbm)|-perl$|^perl`)

// wanted are packages of programs and data; of the others only libraries.
var wanted = regexp.MustCompile(`^(lib.*|zlib1g|postgresql-15|postgresql-client-15|dash|tzdata)$`)

// postgresImage makes PostgreSQL's image from Debian's packages, from wherever
// this machine's apt gets them. If that fails the package lists may be missing or
// older than the mirror: it reads them anew and tries once more.
func (d *demo) postgresImage(ctx context.Context, cache string) (builtImage, error) {
	b, first := d.postgresFromPackages(ctx, cache)
	if first == nil {
		return b, nil
	}
	d.say("images", "reading the package lists")
	if _, err := output(apt(ctx, "update", "-qq")); err != nil {
		return b, fmt.Errorf("%w; and the package lists cannot be read: %w", first, err)
	}
	return d.postgresFromPackages(ctx, cache)
}

func (d *demo) postgresFromPackages(ctx context.Context, cache string) (builtImage, error) {
	packages, err := postgresPackages(ctx)
	if err != nil {
		return builtImage{}, err
	}
	sum := sha256.Sum256([]byte(postgresVersion + strings.Join(packages, " ") + string(entryScript)))
	key := hex.EncodeToString(sum[:])[:12]
	b := builtImage{"localhost/demo-postgres:15", filepath.Join(cache, "postgres-"+key+".tar")}
	return b, d.cached(b, "postgres", func(temp string) error {
		work, err := os.MkdirTemp("", "demo-postgres-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(work)
		d.say("images", "making PostgreSQL's from %d Debian packages", len(packages))
		root := filepath.Join(work, "root")
		if err := postgresRoot(ctx, work, root, packages); err != nil {
			return err
		}
		return d.bed.command(ctx, "image", "--out", temp, "--ref", b.ref, "--root", root, "--entrypoint", "/bin/sh /entry.sh",
			"--user", "999", "--env", "PATH="+postgresHome+":/usr/bin:/bin", "--env", "LC_ALL=C")
	})
}

// postgresPackages are the packages, as name=version, that PostgreSQL needs on
// a machine with nothing on it.
func postgresPackages(ctx context.Context) ([]string, error) {
	text, err := output(apt(ctx, "--print-uris", "-qq", "-y", "--no-install-recommends", "-o", "Dir::State::status=/dev/null", "install", "postgresql-15", "dash"))
	if err != nil {
		return nil, fmt.Errorf("cannot find PostgreSQL 15 among this machine's packages (is it Debian 12?): %w", err)
	}
	var packages []string
	for line := range strings.SplitSeq(text, "\n") {
		fields := strings.Fields(line) // 'URI' file size checksum
		if len(fields) < 2 {
			continue
		}
		parts := strings.Split(fields[1], "_")
		if len(parts) == 3 && wanted.MatchString(parts[0]) && !unneeded.MatchString(parts[0]) {
			packages = append(packages, parts[0]+"="+strings.ReplaceAll(parts[1], "%3a", ":"))
		}
	}
	return packages, nil
}

func apt(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	return cmd
}

// postgresRoot unpacks the packages and proves that the programs start.
func postgresRoot(ctx context.Context, work, root string, packages []string) error {
	debs := filepath.Join(work, "debs")
	for _, dir := range []string{debs, root, filepath.Join(root, "usr"), filepath.Join(root, "etc"), filepath.Join(root, "tmp")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} { // Debian's /usr holds them
		err := errors.Join(os.Mkdir(filepath.Join(root, "usr", name), 0o755), os.Symlink("usr/"+name, filepath.Join(root, name)))
		if err != nil {
			return err
		}
	}
	download := apt(ctx, append([]string{"download", "-qq"}, packages...)...)
	download.Dir = debs
	if _, err := output(download); err != nil {
		return fmt.Errorf("cannot download PostgreSQL's packages: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := unpack(ctx, file, root); err != nil {
			return err
		}
	}
	return finishRoot(ctx, root)
}

// unpack extracts a package without running any of its scripts.
func unpack(ctx context.Context, deb, root string) error {
	from := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	to := exec.CommandContext(ctx, "tar", "-x", "--keep-directory-symlink", "-C", root,
		"--exclude=./usr/share/doc", "--exclude=./usr/share/man", "--exclude=./usr/share/locale", "--exclude=./usr/share/zoneinfo/right",
		"--exclude=./usr/lib/postgresql/15/lib/bitcode", "--exclude=*/llvmjit*")
	pipe, writer := io.Pipe()
	var errs bytes.Buffer
	from.Stdout, from.Stderr, to.Stdin = writer, &errs, pipe
	done := make(chan error, 1)
	go func() {
		err := from.Run()
		writer.CloseWithError(err)
		done <- err
	}()
	_, err := output(to)
	if err := errors.Join(err, <-done); err != nil {
		return fmt.Errorf("cannot unpack %s: %w: %s", filepath.Base(deb), err, errs.String())
	}
	return nil
}

func finishRoot(ctx context.Context, root string) error {
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n",
		"etc/group":  "root:x:0:\npostgres:x:999:\n",
		"entry.sh":   string(entryScript),
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	for _, program := range []string{"postgres", "initdb", "pg_isready"} {
		if _, err := output(exec.CommandContext(ctx, "chroot", root, postgresHome+"/"+program, "--version")); err != nil {
			return fmt.Errorf("the unpacked PostgreSQL does not start: %w", err)
		}
	}
	return nil
}
