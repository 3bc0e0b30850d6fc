// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestKernelLeadsNothingOutOfAnUplink expects that an endpoint which is routed out of an uplink gets no packet, unless it is in
// a network of the cluster.
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

		// Nor may an established connection leave by an uplink after a change of the route.
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

// TestKernelBoundaryNeedsNoObject expects that on a host that already forwards, Guard keeps neighbours out from the start, also
// for IPv6 without any IPv6 service, and that existing forwarding continues.
func TestKernelBoundaryNeedsNoObject(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		h.write(t, "net/ipv4/ip_forward", "1")
		h.write(t, "net/ipv6/conf/all/forwarding", "1")
		inside := func() net.Conn {
			var conn net.Conn
			testenv.In(t, "client", func() (err error) {
				conn, err = net.Dial("udp", net.JoinHostPort(n.pod1, "8080"))
				return err
			})
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		ask(t, inside(), "pod1")
		options := h.options()
		options.guardOnly = []gateway.Family{gateway.IPv6}
		uplinks := []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64")}}
		if _, err := options.dataplane().Guard(t.Context(), gateway.State{Uplinks: uplinks}); err != nil {
			t.Fatal(err)
		}
		ask(t, inside(), silence)
		apply(t, options.dataplane(), gateway.State{Uplinks: uplinks})
		ask(t, inside(), silence)

		d := h.start()
		udp := forward(n.external, 80, n.pod1)
		udp.Protocol = gateway.UDP
		apply(t, d, gateway.State{Uplinks: uplinks, Forwards: []*gateway.Forward{udp}})
		conn := dial(t, "udp", n.external)
		ask(t, conn, "pod1")
		if _, err := h.start().Guard(t.Context(), gateway.State{Uplinks: uplinks, Outside: []string{"pod2"}}); err != nil {
			t.Fatal(err)
		}
		ask(t, conn, "pod1")
		ask(t, dial(t, "udp", n.external), "pod1")
		ask(t, inside(), silence)
		if _, err := h.start().Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		ask(t, inside(), "pod1")
	})
}
