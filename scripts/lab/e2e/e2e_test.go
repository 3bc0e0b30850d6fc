// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/scripts/lab"
)

func TestIPTablesLegacy(t *testing.T) { testPlane(t, legacy, onLegacy) }
func TestIPTablesNFT(t *testing.T)    { testPlane(t, nfTables, onNFT) }
func TestNFTables(t *testing.T)       { testPlane(t, native{}, onNative) }

// planes is a set of data planes.
type planes int

const (
	onLegacy planes = 1 << iota
	onNFT
	onNative
	onAll = onLegacy | onNFT | onNative
)

// testPlane runs all tests for a data plane in one lab, isolated by namespaces, addresses and ports.
func testPlane(t *testing.T, p plane, self planes) {
	w := newWorld(t, p)
	for _, scene := range scenes {
		if scene.on&self != 0 {
			t.Run(scene.name, func(t *testing.T) { scene.run(t, w) })
		}
	}
}

// scenes are the tests of each data plane. A scene in which both variants of iptables have the same rules runs with one of them, and
// one that no rule decides runs with nftables only.
var scenes = []struct {
	name string
	on   planes
	run  func(*testing.T, *world)
}{
	{"service mode forwards by both uplinks and translates ports", onAll, testServiceMode},
	{"endpoints mode spreads over all ready endpoints", onAll, testEndpointsMode},
	{"endpoints that come and go", onAll, testEndpointChanges},
	{"a source that is not allowed gets silence", onAll, testSources},
	{"replies leave by the uplink that the request came in by", onAll, testReplyUplink},
	{"nothing but Mappings crosses the boundary", onAll, testBoundary},
	{"a deleted Mapping stops", onAll, testDeletion},
	{"IPv6 in both modes and by both uplinks", onAll, testIPv6},
	{"an IPv6 source that is not allowed gets silence", onLegacy | onNative, testSources6},
	{"a Service without IPv6 works by IPv4", onNative, testFamilyMissing},
	{"flows leave an endpoint that is not ready", onLegacy | onNative, testFlowsMove},
	{"flows to a Service without endpoints are refused and come back", onNFT | onNative, testScaleToZero},
	{"a terminating endpoint keeps its connections", onLegacy | onNative, testTerminating},
	{"flows end with their Mapping", onNFT | onNative, testFlowsEnd},
	{"flows follow a Service to its new address", onLegacy | onNative, testServiceRecreated},
	{"flows of a source that was revoked end", onNFT | onNative, testSourceRevoked},
	{"a PortGrant opens and closes ports", onNFT | onNative, testGrants},
	{"pods leave with their Mapping's address", onLegacy | onNative, testEgress},
	{"pods see their clients' addresses", onNFT | onNative, testKeepSource},
	{"the inside reaches external addresses", onLegacy | onNative, testHairpin},
	{"the gateway's own connections are left alone with forwardedOnly", onNFT | onNative, testForwardedOnly},
	{"clients stay with their endpoint", onLegacy | onNative, testAffinity},
	{"port ranges, with and without offset", onNFT | onNative, testRanges},
	{"the recipes work as written", onNative, testRecipes},
	{"an invalid Mapping affects no other", onNative, testBadMappings},
	{"endpoints without proof get no connections", onNative, testUnproven},
	{"metrics and probes show the state and repairs", onNFT, testMetrics},
	{"the API server refuses invalid Mappings", onNative, testSchema},
	{"the path's MTU is learned through the translation", onLegacy | onNative, testPathMTU},
	{"segments are clamped with clampMSS", onNFT | onNative, testClamp},
	{"packets of no connection are dropped", onLegacy | onNative, testInvalid},
	{"errors reach the client by its uplink", onNFT | onNative, testICMPErrors},
	{"addresses that come and go", onLegacy | onNative, testAddresses},
	{"an uplink that goes and comes back", onNFT | onNative, testLinkFlap},
	{"gateways that are detected, and change", onLegacy | onNative, testGatewayChange},
	{"a next hop that is down is left out", onNative, testNextHop},
	{"external modifications are repaired", onAll, testHands},
	{"a firewalld that is reloaded", onNFT | onNative, testFirewalld}, // it does not support legacy
	{"a killed smartnatd costs no connection, and its restart writes nothing", onAll, testRestart},
	{"a changed config takes effect without a gap", onAll, testReload},
	{"a gateway that boots without the relay uses saved objects", onNFT | onNative, testBootAlone},
	{"a disk that is full, and one that is damaged", onNative, testBadDisk},
	{"a smartnatd that is killed again and again leaves no trace", onAll, testCrashes},
	{"no program of netfilter is needed", onNative, testNoPrograms},
	{"cleanup leaves the gateway as it was", onAll, testCleanup}, // last, since nothing works after it
}

var protocols = []string{"tcp", "udp"}

func testServiceMode(t *testing.T, w *world) {
	w.namespace(t, "service", 2)
	w.mapping(t, "service", `addresses: [198.51.100.10, 203.0.113.10], serviceName: echo, mode: service,
		ports: [{port: 8080}, {port: 8080, protocol: UDP}, {port: 8081, servicePort: 8080}, {port: 8081, servicePort: 8080, protocol: "udp"}]`)
	for _, external := range []string{lab.External1, lab.External2} {
		for _, port := range []uint16{8080, 8081} {
			for _, protocol := range protocols {
				answer := w.await(t, lab.Client, protocol, lab.Join(external, port), nil)
				if answer.Port != 8080 {
					t.Errorf("%s:%d/%s led to the pod's port %d, want 8080", external, port, protocol, answer.Port)
				}
				if answer.Client.Addr().String() == lab.ClientAddress {
					t.Errorf("%s:%d/%s: not masqueraded: the pod saw the client's own address", external, port, protocol)
				}
			}
		}
	}
	// The node's kube-proxy balances.
	seen := map[string]bool{}
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 8080), func(a lab.Answer) bool {
		seen[a.Pod] = true
		return len(seen) == 2
	})
}

func testEndpointsMode(t *testing.T, w *world) {
	const pods, connections = 3, 300
	w.namespace(t, "endpoints", pods)
	w.mapping(t, "endpoints", `addresses: [198.51.100.11, 203.0.113.11], serviceName: echo, mode: endpoints,
		ports: [{port: 80, servicePort: 8080}, {port: 80, servicePort: 8080, protocol: udp}]`)
	ctx := timeout(t, 2*time.Minute)
	for _, protocol := range protocols {
		address := lab.Join("203.0.113.11", 80)
		seen := map[string]int{}
		w.await(t, lab.Client, protocol, address, func(a lab.Answer) bool { seen[a.Pod]++; return len(seen) == pods })
		clear(seen)
		for range connections {
			answer, err := w.echo(ctx, lab.Client, protocol, address)
			if err != nil {
				t.Fatal(err)
			}
			seen[answer.Pod]++
		}
		// Chi-square with two degrees of freedom: 27.6 is exceeded by chance once in a million runs.
		const expected, bound = float64(connections) / pods, 27.6
		chiSquare := 0.0
		for i := range pods {
			chiSquare += (float64(seen[podName(i)]) - expected) * (float64(seen[podName(i)]) - expected) / expected
		}
		if chiSquare > bound {
			t.Errorf("%s: %v connections to the pods: chi-square %.1f, want at most %.1f", protocol, seen, chiSquare, bound)
		}
	}
}

func testEndpointChanges(t *testing.T, w *world) {
	w.namespace(t, "changes", 1)
	w.mapping(t, "changes", `addresses: [198.51.100.12], serviceName: echo, mode: endpoints, ports: [{port: 80, servicePort: 8080}]`)
	address := lab.Join("198.51.100.12", 80)
	only := func(pod string) func(lab.Answer) bool { return func(a lab.Answer) bool { return a.Pod == pod } }
	w.await(t, lab.Client, "tcp", address, only("echo-0"))

	ctx := timeout(t, time.Minute)
	w.addPod(ctx, t, "changes", "echo-1")
	w.await(t, lab.Client, "tcp", address, only("echo-1"))

	// It still answers, so only the rules keep connections away from it.
	if err := w.SetReady(ctx, "changes", "echo-0", false); err != nil {
		t.Fatal(err)
	}
	w.awaitRules(t, func(rules string) bool {
		return !strings.Contains(rules, w.plane.to(w.podAddress(t, "changes", "echo-0")))
	})
	for range 30 {
		if answer, err := w.Host(lab.Client).EchoTCP(ctx, address); err != nil || answer.Pod != "echo-1" {
			t.Fatalf("answer %+v, %v; want echo-1's: the other one is not ready", answer, err)
		}
	}

	if err := w.RemovePod(ctx, "changes", "echo-1"); err != nil {
		t.Fatal(err)
	}
	w.awaitRefusal(t, lab.Client, "tcp", address)
	if err := w.SetReady(ctx, "changes", "echo-0", true); err != nil {
		t.Fatal(err)
	}
	w.await(t, lab.Client, "tcp", address, only("echo-0"))
}

func testSources(t *testing.T, w *world) {
	w.namespace(t, "sources", 1)
	w.mapping(t, "sources", `addresses: [198.51.100.13, 203.0.113.13], allowedSources: [192.0.2.10/32], serviceName: echo,
		ports: [{port: 80, servicePort: 8080}, {port: 80, servicePort: 8080, protocol: udp}]`)
	for _, external := range []string{"198.51.100.13", "203.0.113.13"} {
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, lab.Join(external, 80), nil)
			w.expectSilence(t, lab.Client2, protocol, lab.Join(external, 80))
		}
	}
	// A neighbour on the external segment is a source like any other.
	w.expectSilence(t, lab.Rogue, "tcp", lab.Join("198.51.100.13", 80))
}

func testReplyUplink(t *testing.T, w *world) {
	w.namespace(t, "uplinks", 1)
	w.mapping(t, "uplinks", `addresses: [198.51.100.14, 203.0.113.14], serviceName: echo, mode: endpoints,
		ports: [{port: 80, servicePort: 8080}, {port: 80, servicePort: 8080, protocol: udp}]`)
	ctx := timeout(t, time.Minute)
	for _, uplink := range []struct{ address, link, other string }{
		{"198.51.100.14", "eth1", "eth2"},
		{"203.0.113.14", "eth2", "eth1"},
	} {
		for _, protocol := range protocols {
			address := lab.Join(uplink.address, 80)
			w.await(t, lab.Client, protocol, address, nil)
			for link, want := range map[string]bool{uplink.link: true, uplink.other: false} {
				w.expectReplies(ctx, t, link, want, protocol, address)
			}
		}
	}
	// The host's own replies, from a port that no Mapping has, follow the same rule.
	server, err := w.Host(lab.Gateway).Serve(2222)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	for _, external := range []string{lab.External1, lab.External2} {
		if answer := w.await(t, lab.Client, "tcp", lab.Join(external, 2222), nil); answer.Pod != lab.Gateway {
			t.Errorf("port 2222 of %s leads to %s, want the gateway itself", external, answer.Pod)
		}
	}
}

// expectReplies makes the client connect to an address and checks whether the replies, by their source, leave by a link.
func (w *world) expectReplies(ctx context.Context, t *testing.T, link string, want bool, protocol, address string) {
	t.Helper()
	capture, err := w.Host(lab.Gateway).Capture(link)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = capture.Close() }()
	const times = 20
	for range times {
		if _, err := w.echo(ctx, lab.Client, protocol, address); err != nil {
			t.Fatal(err)
		}
	}
	packets, err := capture.Packets()
	if err != nil {
		t.Fatal(err)
	}
	replies := 0
	for _, packet := range packets {
		if packet.Out && packet.Source.String() == address {
			replies++
		}
	}
	if want && replies < times || !want && replies > 0 {
		t.Errorf("%s by %s: %d reply packets of %d connections left by %s, want any: %t", address, protocol, replies, times, link, want)
	}
}

func testDeletion(t *testing.T, w *world) {
	w.namespace(t, "deletion", 1)
	w.mapping(t, "deletion", `addresses: [198.51.100.12], serviceName: echo, ports: [{port: 90, servicePort: 8080}]`)
	address := lab.Join("198.51.100.12", 90)
	w.await(t, lab.Client, "tcp", address, nil)
	if _, err := w.Kubectl(timeout(t, patience), "delete", "mapping", "echo", "-n", "deletion"); err != nil {
		t.Fatal(err)
	}
	// Without rules, the address is the host's own, and no program listens on the port.
	w.awaitRefusal(t, lab.Client, "tcp", address)
}

func testCleanup(t *testing.T, w *world) {
	ctx := timeout(t, time.Minute)
	if out, err := w.Smartnatd(ctx, "cleanup"); err == nil || !strings.Contains(out, "already running") {
		t.Errorf("cleanup while smartnatd runs: %v, %q; want an error", err, out)
	}
	if tables := w.gateway(t, "nft list tables inet"); strings.Contains(tables, "table inet smartnat-hold\n") != w.plane.holds() {
		t.Errorf("the tables of nf_tables are %q while smartnatd runs, want one that holds connections: %t", tables, w.plane.holds())
	}
	if err := w.daemon.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if tables := w.gateway(t, "nft list tables inet"); strings.Contains(tables, "smartnat") {
		t.Errorf("smartnatd left its tables: %q", tables)
	}
	out, err := w.Smartnatd(ctx, "cleanup")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
	if diff := cmp.Diff(w.before, w.kernel(ctx, t)); diff != "" {
		t.Errorf("cleanup left changes (-before +after):\n%s", diff)
	}
	if tables := w.gateway(t, "nft list tables"); strings.Contains(tables, "smartnat") {
		t.Errorf("cleanup left tables: %q", tables)
	}
	w.expectClosed(t)
}

// expectClosed checks that no address of a Mapping is reachable any more.
func (w *world) expectClosed(t *testing.T) {
	t.Helper()
	w.awaitRefusal(t, lab.Client, "tcp", lab.Join("198.51.100.11", 80))
}

// podAddress returns the IPv4 address of a pod.
func (w *world) podAddress(t *testing.T, namespace, name string) string {
	t.Helper()
	return w.podAddresses(t, namespace, name)[0].IP
}

// podAddress6 returns its IPv6 address.
func (w *world) podAddress6(t *testing.T, namespace, name string) string {
	t.Helper()
	return w.podAddresses(t, namespace, name)[1].IP
}

func (w *world) podAddresses(t *testing.T, namespace, name string) []corev1.PodIP {
	t.Helper()
	pod, err := w.Kube().CoreV1().Pods(namespace).Get(timeout(t, patience), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(pod.Status.PodIPs) != 2 {
		t.Fatalf("pod %s/%s has the addresses %v, want two", namespace, name, pod.Status.PodIPs)
	}
	return pod.Status.PodIPs
}

// awaitRules polls the gateway's rules until accept returns true.
func (w *world) awaitRules(t *testing.T, accept func(rules string) bool) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		out, err := w.plane.rules(ctx, w.Host(lab.Gateway))
		if err != nil {
			return err
		}
		if !accept(out) {
			return fmt.Errorf("the rules are:\n%s", out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
