// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// Directories that all hosts share, on a tmpfs of the lab's namespaces and with the same path on every host.
const (
	workDir         = "/run/lab"
	logDir          = workDir + "/log"
	pkiDir          = workDir + "/pki"
	caFile          = pkiDir + "/ca.crt"
	AdminKubeconfig = pkiDir + "/admin.kubeconfig"
)

// Lab is the running world. A process has at most one at a time.
type Lab struct {
	options    options
	repo       string
	kubeDir    string
	binDir     string
	links      *links
	run        *runner
	authority  *authority
	kube       kubernetes.Interface
	restConfig *rest.Config
	applier    *applier
	nodes      map[string]*nodeState

	mu    sync.Mutex
	hosts map[string]*Host
	pods  map[string]*podState
}

type options struct {
	variant      string
	controlPlane controlPlane
	// proxyModes are the modes of kube-proxy on nodes, "iptables" by default.
	proxyModes map[string]string
}

// controlPlane says which parts of the control plane to start.
type controlPlane int

const (
	wholeControlPlane controlPlane = iota
	apiServerAlone
	noControlPlane
)

// Option configures the lab that Start creates.
type Option func(*options)

// WithVariant selects the variant of the gateway's `iptables`, "nf_tables" or "legacy", regardless of the machine's default.
func WithVariant(name string) Option { return func(o *options) { o.variant = name } }

// WithoutControlPlane starts only hosts, which is fast.
func WithoutControlPlane() Option { return func(o *options) { o.controlPlane = noControlPlane } }

// WithAPIServerAlone starts etcd and kube-apiserver, but no controllers, nodes or kube-proxies, which would slow down tests
// with many objects. Tests create the Nodes and EndpointSlices that they need.
func WithAPIServerAlone() Option { return func(o *options) { o.controlPlane = apiServerAlone } }

// WithProxyMode selects the mode of kube-proxy on a node: "iptables", the default, or "nftables".
func WithProxyMode(node, mode string) Option {
	return func(o *options) {
		if o.proxyModes == nil {
			o.proxyModes = map[string]string{}
		}
		o.proxyModes[node] = mode
	}
}

func newOptions(opts []Option) options {
	o := options{}
	for _, option := range opts {
		option(&o)
	}
	return o
}

// New starts a lab that ends with the test. The test must run under Main.
func New(t testing.TB, opts ...Option) *Lab {
	t.Helper()
	Require(t, opts...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	l, err := Start(ctx, opts...)
	if err != nil {
		t.Fatalf("starting the lab: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs())
		}
		if err := l.Stop(); err != nil {
			t.Errorf("stopping the lab: %v", err)
		}
	})
	return l
}

// Require skips the test with a message unless Start supports the options. It fails the test if all requirements are
// mandatory.
func Require(t testing.TB, opts ...Option) {
	t.Helper()
	testenv.RequireKernel(t)
	if newOptions(opts).controlPlane != noControlPlane {
		testenv.RequireTool(t, filepath.Join(os.Getenv(kubeKey), "kube-apiserver"))
	}
}

// Start starts a lab, for callers that share it among tests. The caller must run inside Run or Main.
func Start(ctx context.Context, opts ...Option) (*Lab, error) {
	l := &Lab{
		options: newOptions(opts),
		repo:    os.Getenv(repoKey), kubeDir: os.Getenv(kubeKey), binDir: os.Getenv(binKey),
		run: &runner{}, hosts: map[string]*Host{}, pods: map[string]*podState{},
		nodes: map[string]*nodeState{
			Node1: newNode(Node1, Node1Address, Node1Address6, podNetworkNode1, podNetworkNode16),
			Node2: newNode(Node2, Node2Address, Node2Address6, podNetworkNode2, podNetworkNode26),
		},
	}
	if !testenv.Inside() || l.repo == "" {
		return nil, errors.New("a lab must run inside lab.Main or lab.Run")
	}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context) (err error) {
	if err := os.Mkdir(workDir, 0o755); err != nil {
		return fmt.Errorf("only one lab at a time: %w", err)
	}
	for _, dir := range []string{logDir, pkiDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if l.links, err = newLinks(clients, outside1, outside2, cluster); err != nil {
		return err
	}
	for _, spec := range topology() {
		host, err := l.addHost(spec.name)
		if err != nil {
			return err
		}
		if err := l.links.join(host, spec); err != nil {
			return err
		}
	}
	if err := errors.Join(l.filterSources(ctx), l.choosePrograms()); err != nil {
		return err
	}
	if l.options.controlPlane == noControlPlane {
		return nil
	}
	return l.startControlPlane(ctx)
}

// filterSources makes the router drop packets from an external segment with a foreign source address.
func (l *Lab) filterSources(ctx context.Context) error {
	var errs []error
	for link, network := range map[string]string{"eth1": "2001:db8:1::/64", "eth2": "2001:db8:2::/64"} {
		_, err := l.Host(Router).Exec(ctx, "ip6tables", "-A", "FORWARD", "-i", link, "!", "-s", network, "-j", "DROP")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Stop ends all processes and hosts.
func (l *Lab) Stop() error {
	l.mu.Lock()
	pods := slices.Collect(maps.Values(l.pods))
	l.mu.Unlock()
	errs := []error{l.run.killAll()}
	for _, pod := range pods {
		errs = append(errs, l.stopPod(pod))
	}
	if l.links != nil {
		errs = append(errs, l.links.close())
	}
	for _, name := range l.Hosts() {
		errs = append(errs, l.removeHost(name))
	}
	return errors.Join(append(errs, os.RemoveAll(workDir))...)
}

// Host returns the host with this name, or nil.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts[name]
}

// Hosts returns the names of all hosts.
func (l *Lab) Hosts() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.hosts))
}

func (l *Lab) addHost(name string) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts[name] != nil {
		return nil, fmt.Errorf("host %s exists", name)
	}
	host, err := newHost(name, l.run)
	if err != nil {
		return nil, err
	}
	l.hosts[name] = host
	return host, nil
}

func (l *Lab) removeHost(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	host := l.hosts[name]
	delete(l.hosts, name)
	if host == nil {
		return nil
	}
	return host.close()
}
