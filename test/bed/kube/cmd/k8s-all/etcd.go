package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd runs a single member until it is told to stop.
func etcd() error {
	dir := flag.String("data-dir", "etcd-data", "folder of the data")
	client := flag.String("client", "http://127.0.0.1:2379", "URL to listen on for clients")
	flag.Parse()
	clientURL, err := url.Parse(*client)
	if err != nil {
		return fmt.Errorf("cannot read --client: %w", err)
	}
	member, err := embed.StartEtcd(etcdConfig(*dir, *clientURL))
	if err != nil {
		return fmt.Errorf("cannot start on %s: %w", *client, err)
	}
	defer member.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		return nil
	case err := <-member.Err():
		return err
	}
}

func etcdConfig(dir string, client url.URL) *embed.Config {
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c := embed.NewConfig()
	c.Dir = dir
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// The bed is thrown away by `down`: a lost write after a power cut harms nobody.
	c.UnsafeNoFsync = true
	c.LogLevel = "warn"
	c.QuotaBackendBytes = 1 << 30
	// Zero means that every request is logged as a slow one.
	c.WarningUnaryRequestDuration = time.Second
	c.AutoCompactionMode, c.AutoCompactionRetention = "periodic", "5m"
	return c
}
