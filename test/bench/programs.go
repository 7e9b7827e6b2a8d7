package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const listenLimit = 10 * time.Second

// ensurePrograms installs the peers' programs where they are missing, as the
// bed does with what it needs.
func ensurePrograms(ctx context.Context, l *lab) error {
	var missing []string
	for program, pkg := range map[string]string{"rsync": "rsync", "stunnel4": "stunnel4", "zstd": "zstd", "tar": "tar"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := l.run(ctx, "", "apt-get", "update", "-qq"); err != nil {
		return fmt.Errorf("cannot read the package lists to install %s: %w", strings.Join(missing, ", "), err)
	}
	if _, err := l.run(ctx, "", "env", append([]string{"DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qq", "-y", "--no-install-recommends"}, missing...)...); err != nil {
		return fmt.Errorf("cannot install %s: %w", strings.Join(missing, ", "), err)
	}
	return nil
}

// tarCopy keeps holes, owners and times, as the others do.
func tarCopy(ctx context.Context, l *lab, from, to string) error {
	_, err := l.run(ctx, "", "sh", "-ec", `tar -C "$1" --sparse -cf - . | zstd -1 -q | zstd -dq | tar -C "$2" --numeric-owner -xpf -`, "sh", from, to)
	return err
}

// rsyncServer is an rsync daemon that offers one folder behind TLS, and the
// other end of the TLS.
type rsyncServer struct {
	lab   *lab
	dir   string
	port  int // where the plain protocol is spoken on this end
	procs []*exec.Cmd
}

func startRsync(ctx context.Context, l *lab, folder string) (r *rsyncServer, err error) {
	r = &rsyncServer{lab: l}
	if r.dir, err = os.MkdirTemp(l.dir, "rsync-"); err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	defer func() {
		if err != nil {
			r.stop()
		}
	}()
	var ports [3]int
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	if err := r.writeKey(); err != nil {
		return nil, err
	}
	r.port = ports[2]
	common := "foreground = yes\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\nsslVersionMin = TLSv1.3\n"
	files := map[string]string{
		"rsyncd.conf": fmt.Sprintf("use chroot = no\nreverse lookup = no\n[volume]\npath = %s\nread only = yes\nuid = 0\ngid = 0\n", folder),
		"server.conf": fmt.Sprintf("%s[rsync]\naccept = 127.0.0.1:%d\nconnect = 127.0.0.1:%d\ncert = %s\nkey = %s\n", common, ports[1], ports[0], r.path("cert.pem"), r.path("key.pem")),
		"client.conf": fmt.Sprintf("%s[rsync]\nclient = yes\naccept = 127.0.0.1:%d\nconnect = 127.0.0.1:%d\nCAfile = %s\nverifyChain = yes\n", common, ports[2], ports[1], r.path("cert.pem")),
	}
	for name, text := range files {
		if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	for _, args := range [][]string{
		{"rsync", "--daemon", "--no-detach", "--address=127.0.0.1", fmt.Sprintf("--port=%d", ports[0]), "--config=" + r.path("rsyncd.conf")},
		{"stunnel4", r.path("server.conf")},
		{"stunnel4", r.path("client.conf")},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("cannot start %s: %w", args[0], err)
		}
		r.procs = append(r.procs, cmd)
	}
	for _, port := range ports {
		if err := awaitPort(ctx, port); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *rsyncServer) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rsyncServer) writeKey() error {
	server, _, err := tlsPair()
	if err != nil {
		return err
	}
	pair := server.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return fmt.Errorf("cannot encode the key: %w", err)
	}
	return errors.Join(
		os.WriteFile(r.path("cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o600),
		os.WriteFile(r.path("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
}

func (r *rsyncServer) copy(ctx context.Context, to string) error {
	_, err := r.lab.run(ctx, "", "rsync", "-aHAX", "--numeric-ids", "--whole-file", "--inplace", fmt.Sprintf("rsync://127.0.0.1:%d/volume/", r.port), to+"/")
	return err
}

// stop ends what was started, and nothing else.
func (r *rsyncServer) stop() {
	for _, p := range r.procs {
		_ = p.Process.Kill() // may have ended
		_ = p.Wait()
	}
	os.RemoveAll(r.dir)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("cannot find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func awaitPort(ctx context.Context, port int) error {
	ctx, stop := context.WithTimeout(ctx, listenLimit)
	defer stop()
	for {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			return conn.Close()
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("nothing listens on port %d: %w", port, err)
		}
	}
}
