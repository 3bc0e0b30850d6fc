// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"net/netip"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestKernelLeadsNothingOutOfAnUplink: an endpoint that is routed out of an uplink gets no packet, unless it is in a network of
// the cluster.
func TestKernelLeadsNothingOutOfAnUplink(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		connect(t, "stranger", "eth2", []string{"203.0.113.10/24", "2001:db8:2::10/64"}, []string{"203.0.113.50/24", "2001:db8:2::50/64"})
		serve(t, "stranger")
		stranger := addr("203.0.113.50")
		if addr(n.external).Is6() {
			stranger = addr("2001:db8:2::50")
		}
		state := gateway.State{Uplinks: []gateway.Uplink{
			{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64")},
			{Link: "eth2", Number: 2, Connected: prefixes("203.0.113.0/24", "2001:db8:2::/64")},
		}}
		pod := forward(n.external, 80, n.pod1)
		pod.Protocol = gateway.UDP
		state.Forwards = []*gateway.Forward{pod}
		d := h.start()
		apply(t, d, state)
		udp := dial(t, "udp", n.external)
		ask(t, udp, "pod1")

		astray := *pod
		astray.Backends = []gateway.Backend{{Address: stranger, Port: 8080}}
		state.Forwards = []*gateway.Forward{&astray}
		apply(t, d, state)
		ask(t, udp, silence)

		// A route that changes under a connection takes it no further either.
		state.Forwards = []*gateway.Forward{pod}
		apply(t, d, state)
		ask(t, udp, "pod1")
		run(t, "ip", "route add "+netip.PrefixFrom(addr(n.pod1), addr(n.pod1).BitLen()).String()+" via "+stranger.String())
		ask(t, udp, silence)
		run(t, "ip", "route del "+netip.PrefixFrom(addr(n.pod1), addr(n.pod1).BitLen()).String()+" via "+stranger.String())
		ask(t, udp, "pod1")

		state.Forwards = []*gateway.Forward{&astray}
		state.InsideNetworks = prefixes(netip.PrefixFrom(stranger, stranger.BitLen()).String())
		apply(t, d, state)
		ask(t, udp, "stranger")
	})
}
