package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
)

// shop is a small web application: orders are in PostgreSQL, files on its volume.
type shop struct {
	dir      string // of the files
	database string
	greeting string // from a ConfigMap
}

func web(ctx context.Context) error {
	database := url.URL{
		Scheme: "postgres", User: url.UserPassword("shop", os.Getenv("DB_PASSWORD")),
		Host: os.Getenv("DB_HOST"), Path: "/shop", RawQuery: "connect_timeout=3&sslmode=disable",
	}
	s := &shop{dir: filepath.Join(os.Getenv("DATA"), "files"), database: database.String(), greeting: os.Getenv("GREETING")}
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return fmt.Errorf("cannot use the volume: %w", err)
	}
	go churn(ctx, os.Getenv("DATA"))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /{$}", s.front)
	mux.HandleFunc("GET /files/{name}", s.get)
	mux.HandleFunc("PUT /files/{name}", s.put)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx) // what is left after 5 s is cut off
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve: %w", err)
	}
	return nil
}

// front says how much there is, asking the database through its Service.
func (s *shop) front(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	answer := struct {
		Greeting string `json:"greeting"`
		Orders   int    `json:"orders"`
		Files    int    `json:"files"`
	}{Greeting: s.greeting}
	db, err := pgx.Connect(ctx, s.database)
	if err == nil {
		defer db.Close(ctx)
		err = db.QueryRow(ctx, "SELECT count(*) FROM orders").Scan(&answer.Orders)
	}
	if err != nil {
		http.Error(w, "cannot count the orders: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer.Files = len(entries)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the other side has gone
}

var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)

func (s *shop) get(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !plainName.MatchString(name) {
		http.NotFound(w, r)
		return
	}
	http.ServeFile(w, r, filepath.Join(s.dir, name))
}

// put answers 201 when the file is on the disk for good.
func (s *shop) put(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !plainName.MatchString(name) {
		http.Error(w, "no such name", http.StatusBadRequest)
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 8<<20))
	if err == nil {
		err = keep(s.dir, name, data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

// keep writes a file so that it survives a power cut.
func keep(dir, name string, data []byte) error {
	temp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
