package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// The client's pace. Nothing waits between a failure and the next try but retryPause.
const (
	orderPause = 15 * time.Millisecond
	filePause  = 400 * time.Millisecond
	retryPause = 100 * time.Millisecond
	writeLimit = 5 * time.Second
)

// writer writes orders and files, each under the next number, and goes on to the
// next number only when the write was acknowledged. So what must be on the target
// is exactly 1..orders and 1..files; at most one write of each kind is in doubt.
type writer struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	to   addresses
	done counts
	err  error
}

// counts are acknowledged writes.
type counts struct{ orders, files int }

func (c counts) String() string { return fmt.Sprintf("%d orders, %d files", c.orders, c.files) }

// catalog makes the database more than an empty one: 20 MB that never change.
const catalog = `CREATE TABLE orders (seq bigint PRIMARY KEY, body text NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE catalog AS SELECT n, repeat(md5(n::text), 30) AS description FROM generate_series(1, 20000) n`

func newWriter(ctx context.Context, to addresses) (*writer, error) {
	db, err := connect(ctx, to)
	if err != nil {
		return nil, err
	}
	defer db.Close(ctx)
	if _, err := db.Exec(ctx, catalog); err != nil {
		return nil, fmt.Errorf("cannot fill the database: %w", err)
	}
	w := &writer{to: to}
	ctx, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.wg.Go(func() { w.writeOrders(ctx) })
	w.wg.Go(func() { w.writeFiles(ctx) })
	return w, nil
}

// connect tries until the database answers: that its pod is ready is known to
// the cluster before every node knows where to find it.
func connect(ctx context.Context, to addresses) (db *pgx.Conn, err error) {
	return db, wait(ctx, "the database to answer", patience, retryPause, func(ctx context.Context) (bool, string, error) {
		var no error
		db, no = pgx.Connect(ctx, to.database)
		return no == nil, fmt.Sprint(no), nil
	})
}

// stop ends the writes; what is under way ends first.
func (w *writer) stop() {
	if w == nil {
		return
	}
	w.cancel()
	w.wg.Wait()
}

// follow makes the client write to another address from the next try on.
func (w *writer) follow(to addresses) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = to
}

func (w *writer) counts() counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done
}

func (w *writer) lastError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *writer) address() addresses {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to
}

// acknowledge counts a write, or remembers why it failed.
func (w *writer) acknowledge(err error, n *int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.err = err
		return
	}
	*n++
}

func (w *writer) writeOrders(ctx context.Context) {
	var db *pgx.Conn
	at := ""
	for ctx.Err() == nil {
		if now := w.address().database; db != nil && (db.IsClosed() || now != at) {
			_ = db.Close(ctx) // the other end may be gone
			db = nil
		}
		err := func() (err error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
			defer cancel()
			if db == nil {
				at = w.address().database
				if db, err = pgx.Connect(ctx, at); err != nil {
					db = nil
					return err
				}
			}
			return order(ctx, db, w.counts().orders+1)
		}()
		w.acknowledge(err, &w.done.orders)
		pause(ctx, err, orderPause)
	}
	if db != nil {
		_ = db.Close(context.WithoutCancel(ctx)) // nothing is under way
	}
}

// order writes one order; nil means that COMMIT was acknowledged. A second try of
// a write that was in doubt finds its row, or writes it.
func order(ctx context.Context, db *pgx.Conn, seq int) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO orders (seq, body) VALUES ($1, $2) ON CONFLICT DO NOTHING", seq, orderBody(seq))
		return err
	})
	if err != nil {
		_ = db.Close(ctx) // what state it is in is not known
	}
	return err
}

func (w *writer) writeFiles(ctx context.Context) {
	client := &http.Client{Timeout: writeLimit}
	for ctx.Err() == nil {
		seq := w.counts().files + 1
		err := put(client, w.address().web+"/files/"+fileName(seq), fileBody(seq))
		if err != nil {
			client.CloseIdleConnections()
		}
		w.acknowledge(err, &w.done.files)
		pause(ctx, err, filePause)
	}
}

func put(client *http.Client, url string, body []byte) error {
	req, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("the web application answered %s", resp.Status)
	}
	return nil
}

func pause(ctx context.Context, err error, after time.Duration) {
	if err != nil {
		after = retryPause
	}
	select {
	case <-ctx.Done():
	case <-time.After(after):
	}
}

// What is written follows from its number, so that it can be checked without a copy.

func orderBody(seq int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "order %d", seq))
	return strings.Repeat(hex.EncodeToString(sum[:]), 8)
}

func fileName(seq int) string { return fmt.Sprintf("upload-%06d.bin", seq) }

func fileBody(seq int) []byte {
	body := make([]byte, 10_000+seq%5000)
	_, _ = rand.NewChaCha8([32]byte{byte(seq), byte(seq >> 8), byte(seq >> 16), 7}).Read(body) // never fails
	return body
}
