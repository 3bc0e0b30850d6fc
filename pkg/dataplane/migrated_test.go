// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"net"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestKernelFlowsOfRulesThatWent has a foreign rule translate a flow to pod2, then deletes the rule. The flow never pauses.
func TestKernelFlowsOfRulesThatWent(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		iptables, forwarding := "iptables-nft", "net.ipv4.ip_forward"
		if addr(n.external).Is6() {
			iptables, forwarding = "ip6tables-nft", "net.ipv6.conf.all.forwarding"
		}
		if b, ok := h.backend.(*iptablesBackend); ok && b.variant == "legacy" {
			iptables = strings.Replace(iptables, "nft", "legacy", 1)
		}
		run(t, "sysctl", "-qw "+forwarding+"=1")
		rule := " PREROUTING -d " + n.external + " -p udp --dport 80 -j DNAT --to-destination " + net.JoinHostPort(n.pod2, "8080")
		run(t, iptables, "-t nat -A"+rule)
		moves, stays := dial(t, "udp", n.external), dial(t, "udp", n.external)
		ask(t, moves, "pod2")
		ask(t, stays, "pod2")

		to := func(pod string) gateway.State {
			f := forward(n.external, 80, pod)
			f.Protocol, f.Masquerade = gateway.UDP, true
			return gateway.State{
				Uplinks:  []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64")}},
				Forwards: []*gateway.Forward{f},
			}
		}
		if result := apply(t, h.start(), to(n.pod2)); result.Connections != 0 {
			t.Errorf("%d connections to a backend ended, want none", result.Connections)
		}
		ask(t, stays, "pod2")
		run(t, iptables, "-t nat -D"+rule)
		ask(t, moves, "pod2")
		d := h.start()
		if result := apply(t, d, to(n.pod1)); result.Connections != 2 {
			t.Errorf("%d connections ended, want 2", result.Connections)
		}
		ask(t, moves, "pod1")
		ask(t, stays, "pod1")
		if result := apply(t, h.start(), to(n.pod1)); result.Connections != 0 {
			t.Errorf("%d connections ended by a restart, want none", result.Connections)
		}
	})
}
