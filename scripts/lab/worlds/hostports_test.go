// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	metricsPort = 9470
	metrics     = "metrics: {address: \":9470\"}\n"
	// A program on the gateway listens on hostPort from the start, and on laterPort later.
	hostPort, laterPort = 5000, 5001

	unlimited = "maxPortsPerMapping: 0\nmaxPortsPerNamespace: 0\n"
)

// TestMappingCannotTakeSSH has one Mapping with port 22 and another with all ports of the gateway's addresses: ssh, metrics and each
// program on the host must stay reachable, from outside and from inside.
func TestMappingCannotTakeSSH(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 22, hostPort, laterPort, metricsPort, 8080)
		w.serve(t, lab.Gateway, hostPort)
		addresses := `addresses: [198.51.100.10, 203.0.113.10, 10.10.0.2, "2001:db8:1::10", "fd00:10::2"]`
		w.objects(t, service(t, "echo", []string{"22/TCP", "1/UDP", "1/TCP"}, p1),
			mapping("a-ssh", "echo", addresses+", ports: [{port: 22}]"),
			mapping("b-all", "echo", addresses+", ports: [{port: 1, endPort: 65535}, {port: 1, endPort: 65535, protocol: udp}]"))
		w.start(t, twoUplinks+metrics+unlimited)
		outside := []string{lab.External1, lab.External2, lab.External1v6}
		for _, external := range outside {
			w.await(t, lab.Client, "tcp", lab.Join(external, 8080), by(p1, 8080))
			w.await(t, lab.Client, "udp", lab.Join(external, 8080), by(p1, 8080))
		}
		w.expectNoRuleFrom(t, lab.GatewayAddress, lab.GatewayAddress6)

		t.Run("port 22 without a listener", func(t *testing.T) {
			w.expectUnreached(t, []string{lab.Join(lab.External1, 8080), lab.Join(lab.External2, 8080), lab.Join(lab.External1v6, 8080)}, func() {
				for _, external := range outside {
					w.sendFrom(t, lab.Client, external, "22/tcp")
				}
			})
		})
		w.serve(t, lab.Gateway, 22)
		t.Run("ports of the host", func(t *testing.T) {
			for _, external := range outside {
				for _, port := range []uint16{22, hostPort} {
					w.expectOnce(t, lab.Client, lab.Join(external, port), lab.Gateway)
				}
				w.expectMetrics(t, lab.Join(external, metricsPort))
			}
		})
		t.Run("an address inside", func(t *testing.T) {
			inside := w.serveInside(t)
			w.expectUnreached(t, []string{lab.Join(lab.External1, 8080), lab.Join(lab.External1v6, 8080)}, func() {
				for to, from := range inside {
					if err := w.Host(lab.Control).SendTCP(from, netip.AddrPortFrom(to, 8080), lab.SYN, 1, 0); err != nil {
						t.Fatal(err)
					}
					if err := w.Host(lab.Control).SendUDP(from, netip.AddrPortFrom(to, 8080), "unwanted"); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
		t.Run("a program that listens later", func(t *testing.T) {
			ofHost := func(a lab.Answer) bool { return a.Pod == lab.Gateway }
			for _, external := range outside[:2] {
				w.await(t, lab.Client, "tcp", lab.Join(external, laterPort), by(p1, laterPort))
			}
			end := w.serve(t, lab.Gateway, laterPort)
			for _, external := range outside {
				w.await(t, lab.Client, "tcp", lab.Join(external, laterPort), ofHost)
			}
			w.await(t, lab.Client, "udp", lab.Join(lab.External1, laterPort), ofHost)
			end()
			for _, external := range outside {
				w.await(t, lab.Client, "tcp", lab.Join(external, laterPort), by(p1, laterPort))
			}
		})
	})
}

// TestOneTenantCannotTakeAllPorts has an older Mapping with all ports: with the default limits it gets none, and a younger one gets
// its port.
func TestOneTenantCannotTakeAllPorts(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 443, 8080)
		w.serve(t, lab.Gateway, 22)
		addresses := `addresses: [198.51.100.10, "2001:db8:1::10"]`
		w.objects(t, service(t, "greedy", []string{"1/TCP"}, p1), service(t, "honest", []string{"443/TCP"}, p2),
			mapping("a-greedy", "greedy", addresses+", ports: [{port: 1, endPort: 65535}]"),
			mapping("b-honest", "honest", addresses+", ports: [{port: 443}]"))
		w.start(t, twoUplinks)
		for _, external := range []string{lab.External1, lab.External1v6} {
			w.await(t, lab.Client, "tcp", lab.Join(external, 443), by(p2, 443))
			w.expectOnce(t, lab.Client, lab.Join(external, 22), lab.Gateway)
		}
		rules := w.gateway(t, "iptables-save") + w.gateway(t, "ip6tables-save")
		if leadsTo(rules, p1.address) || leadsTo(rules, p1.address6) {
			t.Error("rules lead to the pod of a Mapping that is over the limit")
		}
		if !strings.Contains(w.daemon.Log(), "TooManyPorts") {
			t.Error("the log does not name TooManyPorts")
		}
	})
}

// serveInside makes the gateway resolve the other inside hosts, and returns the sources that reach its inside addresses.
func (w *world) serveInside(t *testing.T) map[netip.Addr]netip.AddrPort {
	t.Helper()
	inside := map[netip.Addr]netip.AddrPort{}
	for to, from := range map[string]string{lab.GatewayAddress: lab.ControlAddress, lab.GatewayAddress6: lab.ControlAddress6} {
		w.await(t, lab.Control, "udp", lab.Join(to, hostPort), func(a lab.Answer) bool { return a.Pod == lab.Gateway })
		inside[netip.MustParseAddr(to)] = netip.AddrPortFrom(netip.MustParseAddr(from), 4000)
	}
	return inside
}

// expectOnce opens one connection, which the named host or pod must answer.
func (w *world) expectOnce(t *testing.T, host, address, name string) {
	t.Helper()
	answer, err := w.Host(host).EchoTCP(timeout(t, patience), address)
	if err != nil || answer.Pod != name {
		t.Errorf("%s to %s: answer %+v, want one of %s: %v", host, address, answer, name, err)
	}
}

// expectMetrics checks that an address serves smartnatd's own metrics.
func (w *world) expectMetrics(t *testing.T, address string) {
	t.Helper()
	request, err := http.NewRequestWithContext(timeout(t, patience), http.MethodGet, fmt.Sprintf("http://%s/metrics", address), nil)
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		response, err := w.Host(lab.Client).HTTPClient().Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		text, err = io.ReadAll(response.Body)
		return err
	}); err != nil || !strings.Contains(string(text), "smartnat_") {
		t.Errorf("metrics at %s: %.200q: %v", address, text, err)
	}
}

// expectNoRuleFrom checks that no rule matches packets to the addresses.
func (w *world) expectNoRuleFrom(t *testing.T, addresses ...string) {
	t.Helper()
	rules := w.gateway(t, "iptables-save") + w.gateway(t, "ip6tables-save")
	if !strings.Contains(rules, "-d "+lab.External1+"/32 ") {
		t.Errorf("no rule matches %s, so the test proves nothing", lab.External1)
	}
	for _, address := range addresses {
		if strings.Contains(rules, "-d "+address+"/") {
			t.Errorf("a rule matches %s", address)
		}
	}
}
