package build

import (
	"fmt"
	"strings"
)

// KubernetesVersion is what both clusters say they are.
const KubernetesVersion = "1.34.4"

// The modules of the bed.
var (
	Kube = Module{
		Dir: "kube",
		Programs: []string{
			"./cmd/k8s-all", "./cmd/csi-bed", "./cmd/pause",
			"github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
			"github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller",
		},
		LDFlags: kubernetesStamp(),
		Files: []Files{{
			Module: "github.com/kubernetes-csi/external-snapshotter/client/v8",
			Globs:  []string{"config/crd/snapshot.storage.k8s.io_*.yaml"}, To: "crd",
		}},
	}
	DNS    = Module{Dir: "dns", Programs: []string{"."}}
	S3     = Module{Dir: "s3", Programs: []string{"github.com/versity/versitygw/cmd/versitygw"}}
	Velero = Module{
		Dir: "velero",
		Programs: []string{
			"github.com/vmware-tanzu/velero/cmd/velero",
			"github.com/vmware-tanzu/velero/cmd/velero-restore-helper",
			"github.com/vmware-tanzu/velero-plugin-for-aws/velero-plugin-for-aws",
			"./velero-plugin-for-bed",
		},
		Files: []Files{{
			Module: "github.com/vmware-tanzu/velero",
			Globs:  []string{"config/crd/v1/bases/*.yaml", "config/crd/v2alpha1/bases/*.yaml"}, To: "crd",
		}},
	}
)

// kubernetesStamp sets the version: without it the components call themselves
// v0.0.0-master, and clients that look at the version misbehave.
func kubernetesStamp() string {
	var b strings.Builder
	minor := strings.Split(KubernetesVersion, ".")[1]
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, v := range [][2]string{
			{"gitVersion", "v" + KubernetesVersion}, {"gitMajor", "1"}, {"gitMinor", minor}, {"gitTreeState", "archive"},
			{"gitCommit", strings.Repeat("0", 40)}, {"buildDate", "1970-01-01T00:00:00Z"},
		} {
			fmt.Fprintf(&b, " -X %s.%s=%s", pkg, v[0], v[1])
		}
	}
	return b.String()
}
