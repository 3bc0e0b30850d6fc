// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/scripts/lab"
)

func TestMain(m *testing.M) {
	if os.Getenv(programKey) != "" {
		os.Exit(program())
	}
	lab.Main(m)
}

func testContext(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// exec runs a program and fails the test if it fails.
func exec(ctx context.Context, t *testing.T, h *lab.Host, argv ...string) string {
	t.Helper()
	output, err := h.Exec(ctx, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

func TestWiresWithoutControlPlane(t *testing.T) {
	ctx := testContext(t, 2*time.Minute)
	l := lab.New(t, lab.WithoutControlPlane(), lab.WithVariant("legacy"))

	for _, name := range []string{lab.Router, lab.Gateway} {
		server, err := l.Host(name).Serve(7)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
	}
	t.Run("the client reaches the router and the gateway", func(t *testing.T) {
		for address, client := range map[string]string{
			"192.0.2.1": lab.ClientAddress, lab.External1: lab.ClientAddress,
			"2001:db8:c::1": lab.ClientAddress6, lab.External1v6: lab.ClientAddress6,
		} {
			answer, err := l.Host(lab.Client).EchoTCP(ctx, lab.Join(address, 7))
			if err != nil || answer.Client.Addr().String() != client {
				t.Errorf("%s answers %+v, %v", address, answer, err)
			}
		}
	})
	t.Run("a reply through the wrong uplink is lost", func(t *testing.T) {
		for _, address := range []string{lab.External2, lab.External2v6} {
			try, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			if answer, err := l.Host(lab.Client).EchoUDP(try, lab.Join(address, 7)); err == nil {
				t.Errorf("the second uplink answers although the gateway is not configured: %+v", answer)
			}
			cancel()
		}
	})
	t.Run("the gateway has a distribution's defaults", func(t *testing.T) {
		for name, want := range map[string]string{"net.ipv4.ip_forward": "0", "net.ipv4.conf.eth1.rp_filter": "1", "net.ipv6.conf.all.forwarding": "0"} {
			if got, err := l.Host(lab.Gateway).Sysctl(name); err != nil || got != want {
				t.Errorf("%s = %q (%v), want %s", name, got, err, want)
			}
		}
		if got := exec(ctx, t, l.Host(lab.Gateway), "iptables", "--version"); !strings.Contains(got, "(legacy)") {
			t.Errorf("iptables --version = %q, want the legacy one", got)
		}
	})
	t.Run("a capture sees both directions on the right link", func(t *testing.T) {
		capture, err := l.Host(lab.Gateway).Capture("eth1")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = capture.Close() }()
		other, err := l.Host(lab.Gateway).Capture("eth2")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		flow, err := l.Host(lab.Client).OpenFlow(ctx, "udp", lab.Join(lab.External1, 7), 4321)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = flow.Close() }()
		if _, err := flow.Echo(ctx); err != nil {
			t.Fatal(err)
		}
		client, server := netip.MustParseAddrPort("192.0.2.10:4321"), netip.MustParseAddrPort("198.51.100.10:7")
		want := []lab.Packet{
			{Protocol: unix.IPPROTO_UDP, Source: client, Destination: server},
			{Protocol: unix.IPPROTO_UDP, Source: server, Destination: client, Out: true},
		}
		got, err := capture.Packets()
		// The kernel reports its multicast groups at any time (MLD, RFC 3810).
		got = slices.DeleteFunc(got, func(p lab.Packet) bool { return p.Protocol != unix.IPPROTO_UDP })
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("packets on eth1: %v (-want +got):\n%s", err, diff)
		}
		got, err = other.Packets()
		got = slices.DeleteFunc(got, func(p lab.Packet) bool { return p.Protocol != unix.IPPROTO_UDP })
		if err != nil || len(got) > 0 {
			t.Errorf("packets on eth2: %v, %v", got, err)
		}
	})
	t.Run("a killed process restarts and continues its log", func(t *testing.T) {
		process, err := l.Host(lab.Router).Start("counter", nil, "sh", "-c", "echo started; exec sleep 1000")
		if err != nil {
			t.Fatal(err)
		}
		starts := func(want int) {
			t.Helper()
			if err := lab.Poll(ctx, func(context.Context) error {
				if got := strings.Count(process.Log(), "started"); got != want {
					return fmt.Errorf("started %d times, want %d", got, want)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		starts(1)
		first := process.PID()
		if err := process.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		starts(2)
		if err := unix.Kill(first, 0); err == nil {
			t.Errorf("process %d is still running", first)
		}
	})
	t.Run("each host has its own files", func(t *testing.T) {
		if err := l.Host(lab.Gateway).WriteFile("/etc/smartnat.yaml", "mine"); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Host(lab.Router).ReadFile("/etc/smartnat.yaml"); !os.IsNotExist(err) {
			t.Errorf("the router reads the gateway's file: %v", err)
		}
		if _, err := os.Stat("/etc/smartnat.yaml"); !os.IsNotExist(err) {
			t.Errorf("the machine has the gateway's file: %v", err)
		}
	})
}

func TestCluster(t *testing.T) {
	ctx := testContext(t, 2*time.Minute)
	started := time.Now()
	l := lab.New(t)
	t.Logf("the lab started within %s", time.Since(started))
	pods := map[string]netip.Addr{}
	for name, node := range map[string]string{"echo-1": lab.Node1, "echo-2": lab.Node2} {
		ip, err := l.AddPod(ctx, lab.Pod{Name: name, Node: node, Labels: map[string]string{"app": "echo"}})
		if err != nil {
			t.Fatal(err)
		}
		pods[name] = ip
	}
	if err := l.Apply(ctx, echoService); err != nil {
		t.Fatal(err)
	}

	t.Run("pods reach each other across nodes", func(t *testing.T) {
		// Each is the first pod on its node.
		for to, from := range map[string]string{pods["echo-2"].String(): pods["echo-1"].String(), "fd00:244:2::2": "fd00:244:1::2"} {
			answer, err := l.PodHost("", "echo-1").EchoTCP(ctx, lab.Join(to, 8080))
			if err != nil {
				t.Fatal(err)
			}
			if answer.Pod != "echo-2" || answer.Client.Addr().String() != from || answer.Port != 8080 {
				t.Errorf("answer = %+v, want echo-2's, to %s", answer, from)
			}
		}
	})
	t.Run("a ClusterIP reaches every pod", func(t *testing.T) {
		node := l.Host(lab.Node1)
		for _, address := range []string{lab.Join("10.96.10.10", 80), lab.Join("fd00:96::10", 80)} {
			for _, protocol := range []string{"tcp", "udp"} {
				awaitPods(ctx, t, node, protocol, address, len(pods))
			}
		}
		if answer, err := node.HTTPGet(ctx, "http://10.96.10.10/hello"); err != nil || answer.Message != "/hello" {
			t.Errorf("HTTP answer = %+v, %v", answer, err)
		}
	})
	t.Run("endpoints follow pods", func(t *testing.T) {
		ready := func(want ...string) {
			t.Helper()
			bound, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if err := lab.Poll(bound, func(ctx context.Context) error {
				got, err := readyPods(ctx, l)
				if diff := cmp.Diff(want, got); err == nil && diff != "" {
					return fmt.Errorf("ready pods (-want +got):\n%s", diff)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		ready("echo-1", "echo-2")
		if err := l.SetReady(ctx, "", "echo-2", false); err != nil {
			t.Fatal(err)
		}
		ready("echo-1")
		if err := l.SetReady(ctx, "", "echo-2", true); err != nil {
			t.Fatal(err)
		}
		ready("echo-1", "echo-2")
		if err := l.RemovePod(ctx, "", "echo-1"); err != nil {
			t.Fatal(err)
		}
		ready("echo-2")
		if l.PodHost("", "echo-1") != nil {
			t.Error("the pod's host is still there")
		}
	})
	t.Run("the error contains the API server's message", func(t *testing.T) {
		if _, err := l.KubectlApply(ctx, "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 70000}]}\n"); err == nil {
			t.Error("port 70000 was accepted")
		} else if !strings.Contains(err.Error(), "must be between 1 and 65535") {
			t.Errorf("the error does not say why: %v", err)
		}
	})
	t.Run("the API server serves Mappings", func(t *testing.T) {
		if err := l.ApplyCRDs(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

// awaitPods connects to an address until the given number of pods answered.
func awaitPods(ctx context.Context, t *testing.T, from *lab.Host, protocol, address string, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	seen := map[string]bool{}
	if err := lab.Poll(ctx, func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		flow, err := from.OpenFlow(try, protocol, address, 0)
		if err != nil {
			return err
		}
		defer func() { _ = flow.Close() }()
		answer, err := flow.Echo(try)
		if err != nil {
			return err
		}
		seen[answer.Pod] = true
		if len(seen) < want {
			return fmt.Errorf("only %v answered", seen)
		}
		return nil
	}); err != nil {
		t.Errorf("%s by %s: %v", address, protocol, err)
	}
}

// readyPods returns the names of the ready pods in the EndpointSlices of the Service echo.
func readyPods(ctx context.Context, l *lab.Lab) ([]string, error) {
	slices, err := l.Kube().DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=echo"})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, slice := range slices.Items {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue // the same pods again
		}
		for _, endpoint := range slice.Endpoints {
			if endpoint.TargetRef != nil && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				names = append(names, endpoint.TargetRef.Name)
			}
		}
	}
	sort.Strings(names)
	return names, nil
}

const echoService = `
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  ipFamilyPolicy: RequireDualStack
  clusterIP: 10.96.10.10
  clusterIPs: [10.96.10.10, "fd00:96::10"]
  selector: {app: echo}
  ports:
  - {name: tcp, port: 80, targetPort: 8080, protocol: TCP}
  - {name: udp, port: 80, targetPort: 8080, protocol: UDP}
`
