// Command csi-bed is the storage of the bed: a CSI driver over a folder that all
// machines see, with node topology, snapshots, clones, volumes of a fixed size,
// and a refusal to use a ReadWriteOnce volume on a second node. With --provision
// it also does the work of external-provisioner, for the whole cluster. It
// registers itself with the kubelet.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	driverName  = "csi.bed.tranship.dev"
	topologyKey = "topology.bed.tranship.dev/node"
)

func main() {
	kubelet := flag.String("kubelet-dir", "/var/lib/kubelet", "root folder of the kubelet")
	node := flag.String("node", "", "name of this node")
	root := flag.String("root", "", "folder of the volumes, the same on all nodes")
	kubeconfig := flag.String("provision", "", "kubeconfig: also provision the claims of this cluster")
	flag.Parse()
	if err := run(*kubelet, *node, *root, *kubeconfig); err != nil {
		log.Fatal("csi-bed: ", err)
	}
}

func run(kubelet, node, root, kubeconfig string) error {
	if node == "" || root == "" {
		return errors.New("cannot start without --node and --root")
	}
	s, err := openStore(root)
	if err != nil {
		return err
	}
	d := &driver{store: s, node: node}
	socket := filepath.Join(kubelet, "plugins", driverName, "csi.sock")
	failed := make(chan error, 3)
	server := grpc.NewServer(grpc.UnaryInterceptor(logCall))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	go func() { failed <- serve(server, socket) }()

	registry := grpc.NewServer()
	registration.RegisterRegistrationServer(registry, registrar{socket: socket})
	go func() { failed <- serve(registry, filepath.Join(kubelet, "plugins_registry", driverName+"-reg.sock")) }()
	if kubeconfig != "" {
		go func() { failed <- provision(context.Background(), d, kubeconfig) }()
	}
	return <-failed
}

func serve(s *grpc.Server, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of the socket: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the old socket: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	return s.Serve(l)
}

func logCall(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	resp, err := handle(ctx, req)
	if err != nil || !strings.HasSuffix(info.FullMethod, "Probe") {
		log.Printf("%s: %v", info.FullMethod, err)
	}
	return resp, err
}

// registrar tells the kubelet where the driver listens.
type registrar struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: driverName, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	log.Printf("registered with the kubelet: %t %s", s.PluginRegistered, s.Error)
	return &registration.RegistrationStatusResponse{}, nil
}
