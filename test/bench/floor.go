package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/tranship/tranship/test/bench/shape"
	"golang.org/x/sys/unix"
)

const floorName = "one walk of the source, the changed files read once, the changed pieces moved once, two empty pods that open the repository"

// floor is what a stop cannot do without: looking at every file once, reading
// the changed ones once, moving the changed pieces once, and an empty pod that
// opens the repository on each cluster.
type floor struct{ walk, read, move, pods time.Duration }

func (f floor) total() time.Duration { return f.walk + f.read + f.move + f.pods }

func (f floor) String() string {
	return fmt.Sprintf("walk %.2f s, read %.2f s, move %.2f s, two pods %.2f s", f.walk.Seconds(), f.read.Seconds(), f.move.Seconds(), f.pods.Seconds())
}

// floor measures it on the volume itself, in the state in which the last copy
// found it.
func (v *volume) floor(ctx context.Context, number, seed int) (f floor, err error) {
	dir, err := v.dir(ctx, &v.lab.bed.Source, v.plan)
	if err != nil {
		return f, err
	}
	pieces, files := v.shape.Pieces(seed)
	for _, part := range []struct {
		took *time.Duration
		do   func() error
	}{
		{&f.walk, func() error { _, err := shape.Walk(dir); return err }},
		{&f.read, func() error { return readFiles(dir, files) }},
		{&f.move, func() error { return movePieces(ctx, dir, filepath.Join(v.lab.dir, "moved"), pieces) }},
	} {
		start := time.Now()
		if err := part.do(); err != nil {
			return f, fmt.Errorf("the peer of the stop time failed: %w", err)
		}
		*part.took = time.Since(start)
	}
	var unused parts
	e, err := v.lab.probes(ctx, v.plan, number, &unused)
	f.pods = e.container
	return f, err
}

// readFiles reads files on all processors.
func readFiles(dir string, files []int) error {
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for i := w; i < len(files); i += workers {
				f, err := os.Open(filepath.Join(dir, shape.File(files[i])))
				if err == nil {
					_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
					err = errors.Join(err, f.Close())
				}
				errs[w] = errors.Join(errs[w], err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// movePieces sends pieces through one TLS connection and writes them into
// files of the same names below another folder, to the disk.
func movePieces(ctx context.Context, from, to string, pieces []shape.Span) error {
	defer os.RemoveAll(to)
	server, client, err := tlsPair()
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		return err
	}
	defer listener.Close()
	received := make(chan error, 1)
	go func() { received <- receive(listener, to) }()
	d := tls.Dialer{Config: client}
	conn, err := d.DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return err
	}
	err = errors.Join(send(conn, from, pieces), conn.Close())
	return errors.Join(err, <-received)
}

func send(conn io.Writer, dir string, pieces []shape.Span) (err error) {
	out := bufio.NewWriterSize(conn, 256<<10)
	buf := make([]byte, shape.Piece)
	var f *os.File
	for i, p := range pieces {
		if i == 0 || pieces[i-1].File != p.File {
			if f != nil {
				f.Close() // only read
			}
			if f, err = os.Open(filepath.Join(dir, shape.File(p.File))); err != nil {
				return err
			}
		}
		if _, err := f.ReadAt(buf[:p.Len], p.Start); err != nil {
			return err
		}
		head := [3]int64{int64(p.File), p.Start, p.Len}
		if err := binary.Write(out, binary.LittleEndian, head); err != nil {
			return err
		}
		if _, err := out.Write(buf[:p.Len]); err != nil {
			return err
		}
	}
	if f != nil {
		f.Close() // only read
	}
	return out.Flush()
}

func receive(listener net.Listener, dir string) (err error) {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 256<<10)
	buf := make([]byte, shape.Piece)
	var f *os.File
	finish := func() error {
		if f == nil {
			return nil
		}
		return f.Close()
	}
	last := int64(-1)
	for {
		var head [3]int64
		if err := binary.Read(in, binary.LittleEndian, &head); errors.Is(err, io.EOF) {
			return errors.Join(finish(), syncAll(dir))
		} else if err != nil {
			return err
		}
		if head[0] != last {
			path := filepath.Join(dir, shape.File(int(head[0])))
			if err := errors.Join(finish(), os.MkdirAll(filepath.Dir(path), 0o755)); err != nil {
				return err
			}
			if f, err = os.Create(path); err != nil {
				return err
			}
			last = head[0]
		}
		if _, err := io.ReadFull(in, buf[:head[2]]); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf[:head[2]], head[1]); err != nil {
			return err
		}
	}
}

// syncAll brings what was written to the disk, at once for all files, as the
// product does.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// tlsPair is a key for one connection.
func tlsPair() (server, client *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a key: %w", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}, nil
}
