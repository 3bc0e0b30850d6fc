// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// clusterNode is a node on which smartnatd runs.
type clusterNode struct {
	name, proxy string
	// address is the node's in the cluster, external the one of its second link, IPv4 first.
	address, external [2]string
	// local and remote are its own pod and that of the other node; they are hosts too.
	local, remote string
}

func clusterNodes() []clusterNode {
	return []clusterNode{
		{lab.Node1, "iptables", [2]string{lab.Node1Address, lab.Node1Address6}, [2]string{"198.51.100.40", "2001:db8:1::40"}, "echo-0", "echo-1"},
		{lab.Node2, "nftables", [2]string{lab.Node2Address, lab.Node2Address6}, [2]string{"198.51.100.41", "2001:db8:1::41"}, "echo-1", "echo-0"},
	}
}

// inCluster is a lab whose nodes are gateways. There is no relay.
type inCluster struct {
	*world
	// clusterIP is that of the Service echo, and pods are addresses by name, IPv4 first.
	clusterIP [2]string
	pods      map[string][2]string
}

// TestInsideTheCluster runs smartnatd on nodes with kube-proxy in both modes, with each data plane, with a link of its own to the outside
// and with the one link that also leads to the other nodes.
func TestInsideTheCluster(t *testing.T) {
	w := newInCluster(t)
	for _, node := range clusterNodes() {
		for _, plane := range []string{"iptables", "nftables"} {
			for _, link := range []string{"eth0", "eth1"} {
				t.Run(fmt.Sprintf("kube-proxy %s, dataplane %s, uplink %s", node.proxy, plane, link), func(t *testing.T) {
					w.serves(t, node, plane, link)
				})
			}
		}
	}
	t.Run("a pod of the DaemonSet", w.daemonSet)
	t.Run("the node reads from a relay", w.readsFromRelay)
}

// start runs smartnatd on a node until the test ends, and then removes all of it.
func (w *inCluster) start(t *testing.T, node clusterNode, config string) {
	t.Helper()
	var err error
	if w.daemon, err = w.StartGatewayOn(timeout(t, patience), node.name, config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.daemon.Stop(timeout(t, patience)); err != nil {
			t.Error(err)
		}
		if _, err := w.SmartnatdOn(timeout(t, patience), node.name, "cleanup"); err != nil {
			t.Error(err)
		}
	})
}

func newInCluster(t *testing.T) *inCluster {
	t.Helper()
	w := &inCluster{world: &world{Lab: lab.New(t, lab.WithProxyMode(lab.Node2, "nftables"))}, pods: map[string][2]string{}}
	ctx := timeout(t, time.Minute)
	if err := w.ApplyCRDs(ctx); err != nil {
		t.Fatal(err)
	}
	for _, node := range clusterNodes() {
		if err := w.AddUplink(node.name, node.external[0]+"/24", node.external[1]+"/64"); err != nil {
			t.Fatal(err)
		}
	}
	w.namespace(t, "inside", 2)
	for _, pod := range []string{"echo-0", "echo-1"} {
		w.pods[pod] = [2]string{w.podAddress(t, "inside", pod), w.podAddress6(t, "inside", pod)}
	}
	w.apply(t, `
apiVersion: v1
kind: Service
metadata: {name: published, namespace: inside}
spec:
  type: NodePort
  selector: {app: echo}
  externalIPs: [198.51.100.40, 198.51.100.41]
  ports: [{name: udp, port: 8099, targetPort: 8080, nodePort: 30080, protocol: UDP}]
---
`+mappingYAML("inside", "service", `addresses: [198.51.100.40, 198.51.100.41, 10.10.0.11, 10.10.0.12, "2001:db8:1::40", "2001:db8:1::41", "fd00:10::11", "fd00:10::12"], serviceName: echo, mode: service,
	ports: [{port: 8082, servicePort: 8080}, {port: 30080, servicePort: 8080, protocol: udp}]`)+"---\n"+
		mappingYAML("inside", "endpoints", `addresses: [198.51.100.40, 198.51.100.41, 10.10.0.11, 10.10.0.12, "2001:db8:1::40", "2001:db8:1::41", "fd00:10::11", "fd00:10::12"], serviceName: echo, mode: endpoints,
	ports: [{port: 8081, servicePort: 8080}]`)+"---\n"+
		mappingYAML("inside", "kept", `addresses: [198.51.100.40, 198.51.100.41, 10.10.0.11, 10.10.0.12, "2001:db8:1::40", "2001:db8:1::41", "fd00:10::11", "fd00:10::12"], serviceName: echo, mode: endpoints, masquerade: false,
	ports: [{port: 8083, servicePort: 8080}, {port: 8083, servicePort: 8080, protocol: udp}]`))
	clusterIPs, err := w.Kubectl(ctx, "get", "service", "echo", "-n", "inside", "-o", "jsonpath={.spec.clusterIPs[*]}")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(clusterIPs, &w.clusterIP[0], &w.clusterIP[1]); err != nil {
		t.Fatalf("the Service echo has the addresses %q: %v", clusterIPs, err)
	}
	return w
}

// serves starts smartnatd on a node while the cluster's own traffic runs, stops it, starts it again, and removes all of it.
func (w *inCluster) serves(t *testing.T, node clusterNode, plane, link string) {
	client, address, external, router := lab.Client, [2]string{lab.ClientAddress, lab.ClientAddress6}, node.external, [2]string{"198.51.100.1", "2001:db8:1::1"}
	if link == "eth0" { // the lab's gateway is a client behind the one link, and the way to the Internet
		client, external = lab.Gateway, node.address
		address = [2]string{lab.GatewayAddress, lab.GatewayAddress6}
		router = address
	}
	for _, hop := range router {
		if _, err := w.Host(node.name).Exec(timeout(t, patience), "ip", "route", "replace", "default", "via", hop, "dev", link); err != nil {
			t.Fatal(err)
		}
	}
	paths := w.own(node, link)
	for _, path := range paths { // kube-proxy has written its rules
		w.awaitPath(t, path)
	}
	traffic := w.startPaths(t, paths)
	traffic.await(t, 1)
	config := fmt.Sprintf("instance: %s\nsource: {kubeconfig: {path: %s}}\ndataplane: %s\nmetrics: {address: \"\"}\nuplinks: [{interface: %s, gateways: [%s, %q]}]\n",
		node.name, lab.AdminKubeconfig, plane, link, router[0], router[1])
	w.start(t, node, config)
	for family := range external {
		for _, port := range []uint16{8081, 8082} {
			for _, pod := range []string{node.local, node.remote} {
				w.await(t, client, "tcp", lab.Join(external[family], port), func(a lab.Answer) bool { return a.Pod == pod })
			}
		}
		// The replies of the other node's pod do not pass this node.
		for pod, source := range map[string]string{node.local: address[family], node.remote: node.address[family]} {
			for _, network := range []string{"tcp", "udp"} {
				w.awaitSource(t, client, network, lab.Join(external[family], 8083), pod, source)
			}
		}
	}
	traffic.await(t, 2)
	w.expectFindings(t, node)
	for family := range external {
		w.expectClosedTo(t, node, link, family)
	}
	if err := w.daemon.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := w.daemon.Restart(timeout(t, patience)); err != nil {
		t.Fatal(err)
	}
	traffic.await(t, 2)
	if err := w.daemon.Stop(timeout(t, patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.SmartnatdOn(timeout(t, patience), node.name, "cleanup"); err != nil {
		t.Error(err)
	}
	traffic.await(t, 1)
	traffic.stop(t)
}

// awaitSource expects that a pod answers, and that it saw this source each time.
func (w *inCluster) awaitSource(t *testing.T, client, network, address, pod, source string) {
	t.Helper()
	answer := w.await(t, client, network, address, func(a lab.Answer) bool { return a.Pod == pod })
	if answer.Client.Addr().String() != source {
		t.Errorf("%s sees %s over %s, want %s", pod, answer.Client.Addr(), network, source)
	}
}

// expectFindings checks that the Mapping says that mode service leads to endpoints here, and that a NodePort stays the cluster's.
func (w *inCluster) expectFindings(t *testing.T, node clusterNode) {
	t.Helper()
	// Addresses of the other node are findings too, so check says so by its exit status.
	output, _ := w.SmartnatdOn(timeout(t, patience), node.name, "check")
	for _, want := range []string{"kube-proxy (" + node.proxy + ")", "ResolvedToEndpoints", "a NodePort of the cluster", "PortReserved", "RemoteMasqueraded", "this one (" + node.name + ")", "check: 0 failures"} {
		if !strings.Contains(output, want) {
			t.Errorf("check does not say %q:\n%s", want, output)
		}
	}
}

// expectClosedTo sends packets of a neighbour on the uplink to the pods, and then one that gets through by a Mapping.
func (w *inCluster) expectClosedTo(t *testing.T, node clusterNode, link string, family int) {
	t.Helper()
	neighbour, router := lab.Rogue, node.external[family]
	if link == "eth0" {
		neighbour, router = lab.Gateway, node.address[family]
	}
	pod := w.pods[node.local][family]
	ctx := timeout(t, patience)
	if _, err := w.Host(neighbour).Exec(ctx, "ip", "route", "add", pod, "via", router); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := w.Host(neighbour).Exec(timeout(t, patience), "ip", "route", "del", pod); err != nil {
			t.Error(err)
		}
	}()
	capture, err := w.PodHost("inside", node.local).Capture("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = capture.Close() }()
	const forbidden, source = 8888, "inside"
	flow, err := w.Host(neighbour).OpenFlow(ctx, "udp", lab.Join(pod, forbidden), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = flow.Close() }()
	if _, err := flow.Conn.Write([]byte(source)); err != nil {
		t.Fatal(err)
	}
	// This packet takes the same path later: what passed before it was captured.
	w.await(t, neighbour, "tcp", lab.Join(router, 8081), func(a lab.Answer) bool { return a.Pod == node.local })
	packets, err := capture.Packets()
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddr(pod)
	allowed := false
	for _, p := range packets {
		switch p.Destination { // a port alone may be the source port of a masqueraded connection
		case netip.AddrPortFrom(to, forbidden):
			t.Errorf("a pod got %s from a neighbour of the node", p)
		case netip.AddrPortFrom(to, 8080):
			allowed = true
		}
	}
	if !allowed {
		t.Errorf("no packet of the Mapping is among the %d captured ones", len(packets))
	}
}

// path is traffic of the cluster that has nothing to do with Mappings.
type path struct{ from, to string }

func (p path) String() string { return p.from + " to " + p.to }

// own returns the cluster's own paths over a node with an uplink.
func (w *inCluster) own(node clusterNode, uplink string) []path {
	pod := func(name string) string { return name + ".inside" }
	other := lab.Node1
	if node.name == lab.Node1 {
		other = lab.Node2
	}
	var paths []path
	for family := range w.clusterIP {
		paths = append(paths,
			path{pod(node.local), lab.Join(w.clusterIP[family], 8080)},
			path{node.name, lab.Join(w.clusterIP[family], 8080)},
			path{pod(node.remote), lab.Join(w.pods[node.local][family], 8080)},
			path{pod(node.local), lab.Join(w.pods[node.remote][family], 8080)},
			path{other, lab.Join(w.pods[node.local][family], 8080)})
	}
	// The API server calls a webhook. The cluster tells its address of one family only, and here its host has no pods.
	paths = append(paths, path{lab.Control, lab.Join(w.pods[node.local][0], 8080)}, path{other, lab.Join(node.address[0], 30080)})
	if uplink == "eth0" {
		return append(paths, path{lab.Gateway, lab.Join(node.address[0], 30080)})
	}
	paths = append(paths, path{lab.Client, lab.Join(node.external[0], 8099)})
	if node.proxy == "nftables" { // it serves NodePorts on the primary address of the node only
		return paths
	}
	return append(paths, path{lab.Client, lab.Join(node.external[0], 30080)})
}

func (w *inCluster) awaitPath(t *testing.T, p path) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := w.Host(p.from).EchoUDP(ctx, p.to)
		return err
	}); err != nil {
		t.Fatalf("%s before smartnatd: %v", p, err)
	}
}

// pathTraffic sends one datagram after the other on new flows by each path. The first one without an answer ends
// its path, since nothing repeats a datagram.
type pathTraffic struct {
	cancel context.CancelFunc
	paths  []path
	rounds []chan struct{}
	failed []chan error
}

func (w *inCluster) startPaths(t *testing.T, paths []path) *pathTraffic {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tr := &pathTraffic{cancel: cancel, paths: paths}
	for _, p := range paths {
		rounds, failed := make(chan struct{}), make(chan error, 1)
		tr.rounds, tr.failed = append(tr.rounds, rounds), append(tr.failed, failed)
		go func() { failed <- w.exchange(ctx, p, rounds) }()
	}
	t.Cleanup(cancel)
	return tr
}

// exchange returns the error of a path, and ends with it. It offers a round after each exchange, and goes on after a moment if the test
// waits for none.
func (w *inCluster) exchange(ctx context.Context, p path, rounds chan<- struct{}) error {
	const pause = 5 * time.Millisecond
	defer close(rounds)
	for n := 1; ; n++ {
		if err := bounded(ctx, func(ctx context.Context) error { _, err := w.Host(p.from).EchoUDP(ctx, p.to); return err }); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: datagram %d got no answer: %w", p, n, err)
		}
		select {
		case rounds <- struct{}{}:
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// await waits for n further exchanges by each path.
func (tr *pathTraffic) await(t *testing.T, n int) {
	t.Helper()
	ctx := timeout(t, time.Minute)
	for i := range tr.rounds {
		for range n {
			select {
			case _, running := <-tr.rounds[i]:
				if !running {
					t.Fatal(<-tr.failed[i])
				}
			case <-ctx.Done():
				t.Fatalf("%s stands still", tr.paths[i])
			}
		}
	}
}

// stop ends the traffic, and reports what was lost.
func (tr *pathTraffic) stop(t *testing.T) {
	t.Helper()
	tr.cancel()
	for _, failed := range tr.failed {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}
