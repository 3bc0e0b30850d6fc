// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab_test

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

func testContext(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// exec runs a program that must succeed.
func exec(ctx context.Context, t *testing.T, h *lab.Host, argv ...string) string {
	t.Helper()
	output, err := h.Exec(ctx, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

func TestWiresWithoutControlPlane(t *testing.T) {
	ctx := testContext(t, 30*time.Second)
	l := lab.New(t, lab.WithoutControlPlane(), lab.WithBackend("legacy"))

	for _, name := range []string{lab.Router, lab.Gateway} {
		server, err := l.Host(name).Serve(7)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
	}
	t.Run("the client reaches the router and the gateway", func(t *testing.T) {
		for _, address := range []string{"192.0.2.1", lab.External1} {
			answer, err := l.Host(lab.Client).EchoTCP(ctx, lab.Join(address, 7))
			if err != nil || answer.Client.Addr().String() != lab.ClientAddress {
				t.Errorf("%s answers %+v, %v", address, answer, err)
			}
		}
	})
	t.Run("a reply by the wrong uplink is lost", func(t *testing.T) {
		try, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		if answer, err := l.Host(lab.Client).EchoUDP(try, lab.Join(lab.External2, 7)); err == nil {
			t.Errorf("the second uplink answers although nobody set the gateway up: %+v", answer)
		}
	})
	t.Run("the gateway is as delivered", func(t *testing.T) {
		for name, want := range map[string]string{"net.ipv4.ip_forward": "0", "net.ipv4.conf.eth1.rp_filter": "1"} {
			if got, err := l.Host(lab.Gateway).Sysctl(name); err != nil || got != want {
				t.Errorf("%s = %q (%v), want %s", name, got, err, want)
			}
		}
		if got := exec(ctx, t, l.Host(lab.Gateway), "iptables", "--version"); got != "iptables v1.8.9 (legacy)\n" {
			t.Errorf("iptables --version = %q, want the legacy one", got)
		}
	})
	t.Run("a host's files are its own", func(t *testing.T) {
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
	t.Logf("the lab was up after %s", time.Since(started))
	pods := map[string]netip.Addr{}
	for name, node := range map[string]string{"echo-1": lab.Node1, "echo-2": lab.Node2} {
		ip, err := l.AddPod(ctx, lab.Pod{Name: name, Node: node, Labels: map[string]string{"app": "echo"}})
		if err != nil {
			t.Fatal(err)
		}
		pods[name] = ip
	}
	if _, err := l.Apply(ctx, echoService); err != nil {
		t.Fatal(err)
	}

	t.Run("pods reach each other across nodes", func(t *testing.T) {
		answer, err := l.PodHost("", "echo-1").EchoTCP(ctx, lab.Join(pods["echo-2"].String(), 8080))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Pod != "echo-2" || answer.Client.Addr() != pods["echo-1"] || answer.Port != 8080 {
			t.Errorf("answer = %+v, want echo-2's, to %s", answer, pods["echo-1"])
		}
	})
	t.Run("a ClusterIP leads to every pod", func(t *testing.T) {
		const clusterIP = "10.96.10.10"
		node := l.Host(lab.Node1)
		for _, protocol := range []string{"tcp", "udp"} {
			seen := map[string]bool{}
			bound, cancel := context.WithTimeout(ctx, 15*time.Second)
			defer cancel()
			if err := lab.Poll(bound, func(ctx context.Context) error {
				try, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				flow, err := node.OpenFlow(try, protocol, lab.Join(clusterIP, 80), 0)
				if err != nil {
					return err
				}
				defer func() { _ = flow.Close() }()
				answer, err := flow.Echo(try)
				if err != nil {
					return err
				}
				seen[answer.Pod] = true
				if len(seen) < len(pods) {
					return context.DeadlineExceeded
				}
				return nil
			}); err != nil {
				t.Errorf("%s: only %v answered: %v", protocol, seen, err)
			}
		}
		if answer, err := node.HTTPGet(ctx, "http://10.96.10.10/hello"); err != nil || answer.Message != "/hello" {
			t.Errorf("HTTP answer = %+v, %v", answer, err)
		}
	})
	t.Run("the API server's word is in the error", func(t *testing.T) {
		if _, err := l.Apply(ctx, "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 70000}]}\n"); err == nil {
			t.Error("port 70000 was accepted")
		} else {
			t.Log(err)
		}
	})
	t.Run("Mappings are known", func(t *testing.T) {
		if err := l.ApplyCRDs(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

const echoService = `
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  clusterIP: 10.96.10.10
  selector: {app: echo}
  ports:
  - {name: tcp, port: 80, targetPort: 8080, protocol: TCP}
  - {name: udp, port: 80, targetPort: 8080, protocol: UDP}
`
