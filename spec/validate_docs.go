package spec

import "strings"

// cluster holds the rules of CAM's MigCluster (F-105..F-111).
func (c checker) cluster(s *ClusterSpec) {
	ways := 0
	for _, set := range []bool{s.Server != "", s.Kubeconfig != nil, s.InCluster} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		c.addf("spec", "exactly one of server, kubeconfig and inCluster says how to reach the cluster; this document has %d of them", ways)
	}
	if s.Server != "" {
		c.https("spec.server", s.Server, "https://api.example.com:6443")
		if s.Token == nil {
			c.addf("spec.token", "token is missing: with server, write {from: NAME}, a Secret in the daemon's namespace with the token of a service account (F-108)")
		}
	} else if ways > 0 {
		c.onlyWithServer("spec.token", s.Token != nil)
		c.onlyWithServer("spec.caBundle", s.CABundle != "")
		c.onlyWithServer("spec.insecureSkipTLSVerify", s.InsecureSkipTLSVerify)
	}
	c.tls(s.CABundle, s.InsecureSkipTLSVerify)
}

func (c checker) onlyWithServer(path string, set bool) {
	if set {
		c.addf(path, "%s goes with server only; a kubeconfig, or the cluster that the daemon runs in, brings its own: remove it", leafName(path))
	}
}

// repository holds the rules of CAM's MigStorage (F-114..F-126).
func (c checker) repository(s *RepositorySpec) {
	c.tls(s.CABundle, s.InsecureSkipTLSVerify)
	for _, f := range providerFields {
		set := f.get(s) != ""
		takes, needs := strings.Contains(f.takes, string(s.Provider)), strings.Contains(f.needs, string(s.Provider))
		switch {
		case !known(s.Provider):
		case set && !takes:
			c.addf(f.path, "%s does not belong to provider %s: remove it", leafName(f.path), s.Provider)
		case !set && needs:
			c.addf(f.path, "%s is missing: provider %s needs it (%s)", leafName(f.path), s.Provider, f.source)
		}
	}
	if s.Provider != ProviderAWS {
		return
	}
	if s.Endpoint == "" && s.Region == "" {
		c.addf("spec.region", "region is missing: AWS S3 needs one, such as eu-central-1; any other S3 needs endpoint instead (F-117)")
	}
	if s.Endpoint == "" {
		return
	}
	u := c.https("spec.endpoint", s.Endpoint, "https://s3.example.com")
	if u != nil && strings.Trim(u.Path, "/") != "" {
		c.addf("spec.endpoint", "endpoint is the URL of the S3 service, not of the bucket: remove %s from it (F-118)", quote(u.Path))
	}
}

// providerFields says which provider has which field.
var providerFields = []struct {
	path, takes, needs, source string
	get                        func(*RepositorySpec) string
}{
	{"spec.region", "aws gcp", "", "", func(s *RepositorySpec) string { return s.Region }},
	{"spec.endpoint", "aws", "", "", func(s *RepositorySpec) string { return s.Endpoint }},
	{"spec.azureStorageAccount", "azure", "azure", "F-125", func(s *RepositorySpec) string { return s.AzureStorageAccount }},
	{"spec.azureResourceGroup", "azure", "azure", "F-125", func(s *RepositorySpec) string { return s.AzureResourceGroup }},
}

func known(p Provider) bool { return p == ProviderAWS || p == ProviderGCP || p == ProviderAzure }

// hook holds the rules of CAM's MigHook (F-066, F-067).
func (c checker) hook(s *HookSpec) {
	switch {
	case s.Playbook != "" && len(s.Command) > 0:
		c.addf("spec.command", "playbook and command exclude each other: a hook runs an Ansible playbook, or the command of an image")
	case s.Playbook == "" && len(s.Command) == 0:
		c.addf("spec", "a hook needs something to run: write image and command, or playbook")
	}
	if len(s.Command) > 0 && s.Image == "" {
		c.addf("spec.image", "image is missing: write the image that holds the command")
	}
	if len(s.Args) > 0 && len(s.Command) == 0 {
		c.addf("spec.args", "args go with command only: write command, or remove args")
	}
	if s.BackoffLimit != nil && *s.BackoffLimit < 0 {
		c.addf("spec.backoffLimit", "backoffLimit must be 0 or more, not %d; CAM's default is 6 (F-079)", *s.BackoffLimit)
	}
}
