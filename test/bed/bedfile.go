package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tranship/tranship/test/bed/cluster"
)

// bedFile tells tests and people where everything is. Credentials are in files of
// their own, readable by root only.
type bedFile struct {
	Source  clusterFile `json:"source"`
	Target  clusterFile `json:"target"`
	S3      s3File      `json:"s3"`
	Git     gitFile     `json:"git"`
	Images  imagesFile  `json:"images"`
	Kubectl string      `json:"kubectl"`
}

type clusterFile struct {
	Server     string   `json:"server"`
	CAFile     string   `json:"caFile"`
	TokenFile  string   `json:"tokenFile"` // of tranship-system/tranship, a cluster-admin
	Kubeconfig string   `json:"kubeconfig"`
	Nodes      []string `json:"nodes"`
	NodeIPs    []string `json:"nodeIPs"`
}

type s3File struct {
	Endpoint      string `json:"endpoint"`
	Bucket        string `json:"bucket"`
	Region        string `json:"region"`
	CAFile        string `json:"caFile"`
	AccessKeyFile string `json:"accessKeyFile"`
	SecretKeyFile string `json:"secretKeyFile"`
}

type gitFile struct {
	URL    string   `json:"url"`
	CAFile string   `json:"caFile"`
	Dev    userFile `json:"dev"`    // may push anywhere
	Daemon userFile `json:"daemon"` // may push to refs/heads/tranship/* only
}

type userFile struct {
	User         string `json:"user"`
	PasswordFile string `json:"passwordFile"`
}

type imagesFile struct {
	Busybox string `json:"busybox"`
	Velero  string `json:"velero"`
}

func bedFilePath(dir string) string { return filepath.Join(dir, "bed.json") }

func writeBedFile(l cluster.Layout, clusters []*cluster.Cluster) error {
	ca := servicesDir(l, "ca.crt")
	f := bedFile{
		S3: s3File{
			Endpoint: "https://" + s3Address, Bucket: bucket, Region: "us-east-1", CAFile: ca,
			AccessKeyFile: servicesDir(l, "s3-access-key"), SecretKeyFile: servicesDir(l, "s3-secret-key"),
		},
		Git: gitFile{
			URL: "https://" + gitAddress + "/" + repository, CAFile: ca,
			Dev:    userFile{developer, servicesDir(l, "git-"+developer)},
			Daemon: userFile{daemonUser, servicesDir(l, "git-"+daemonUser)},
		},
		Images: imagesFile{bedImages.Busybox, bedImages.Velero}, Kubectl: l.Bin("kubectl"),
	}
	for _, c := range clusters {
		out := clusterFile{Server: c.Server(), CAFile: c.CAFile(), TokenFile: c.TokenFile(), Kubeconfig: c.Kubeconfig()}
		for _, n := range c.Nodes {
			out.Nodes = append(out.Nodes, n.Name)
			out.NodeIPs = append(out.NodeIPs, n.IP)
		}
		if c.Name == "source" {
			f.Source = out
		} else {
			f.Target = out
		}
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	path := bedFilePath(l.Dir)
	if err := os.WriteFile(path+".new", append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot write bed.json: %w", err)
	}
	return os.Rename(path+".new", path)
}
