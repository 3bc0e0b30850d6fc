// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestKernelSwitchedFramesPass puts guests on the bridge that is the uplink, and passes its frames through netfilter. Frames
// between guests pass the boundary untouched, and packets that the host routes for a guest do not.
func TestKernelSwitchedFramesPass(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		family, guest := gateway.Families{IPv4: true}, "192.0.2.61"
		if addr(n.external).Is6() {
			family, guest = gateway.Families{IPv6: true}, "2001:db8:7::61"
		}
		run(t, "ip", "link add br-wan type bridge")
		for i, name := range []string{"guest0", "guest1"} {
			last := string(rune('0' + i))
			connect(t, name, name, []string{"192.0.2.20/24", "2001:db8:7::20/64"}, []string{"192.0.2.6" + last + "/24", "2001:db8:7::6" + last + "/64"})
			run(t, "ip", "addr flush dev "+name)
			run(t, "ip", "link set "+name+" master br-wan")
			serve(t, name)
		}
		run(t, "ip", "addr add 192.0.2.20/24 dev br-wan")
		run(t, "ip", "addr add 2001:db8:7::20/64 dev br-wan nodad")
		run(t, "ip", "link set br-wan up")
		for _, key := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables", "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
			if _, err := os.Stat("/proc/sys/" + key); err != nil {
				testenv.Lacks(t, key)
			}
			h.write(t, key, "1")
		}
		from0 := func(address string) net.Conn {
			t.Helper()
			var conn net.Conn
			testenv.In(t, "guest0", func() (err error) {
				conn, err = net.Dial("udp", net.JoinHostPort(address, "8080"))
				return err
			})
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		ask(t, from0(guest), "guest1")
		ask(t, from0(n.pod1), "pod1")

		state := gateway.State{Uplinks: []gateway.Uplink{{Link: "br-wan", Number: 1, Connected: prefixes("192.0.2.0/24", "2001:db8:7::/64")}}}
		d := h.start()
		apply(t, d, state)
		ask(t, from0(guest), silence) // without the exception, the boundary holds for frames too
		state.BridgeNetfilter = family
		if _, err := h.start().Guard(t.Context(), state); err != nil {
			t.Fatal(err)
		}
		d = h.start()
		apply(t, d, state)
		ask(t, from0(guest), "guest1")
		ask(t, from0(n.pod1), silence)
		quiet(t, d, state)
		quiet(t, h.start(), state)

		state.BridgeNetfilter = gateway.Families{}
		apply(t, h.start(), state)
		ask(t, from0(guest), silence)
		state.BridgeNetfilter = family
		d = h.start()
		apply(t, d, state)
		ask(t, from0(guest), "guest1")
		if _, err := d.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := h.backend.dump(t); strings.Contains(strings.ToLower(left), "smartnat") {
			t.Errorf("after cleanup:\n%s", left)
		}
	})
}

// TestKernelBridgeTableIsRepaired removes the table that marks switched frames.
func TestKernelBridgeTableIsRepaired(t *testing.T) {
	testenv.RequireTool(t, "ip")
	testenv.NewNetNS(t)
	h := newHost(t, newNFTables(t, true))
	h.prepare(t)
	state := full()
	state.BridgeNetfilter = gateway.Families{IPv4: true, IPv6: true}
	d := h.start()
	apply(t, d, state)
	for _, script := range []string{
		"nft delete table bridge smartnat-ipv4", "nft flush chain bridge smartnat-ipv6 mark-switched", "nft delete chain bridge smartnat-ipv4 unmark-switched",
	} {
		programmed := run(t, "nft", "list table bridge smartnat-ipv4") + run(t, "nft", "list table bridge smartnat-ipv6")
		h.repair(t, d, state, hand{
			name: script, script: script, kinds: h.hands(t)[0].kinds, missing: "chains of bridges missing or changed",
		})
		if after := run(t, "nft", "list table bridge smartnat-ipv4") + run(t, "nft", "list table bridge smartnat-ipv6"); after != programmed {
			t.Errorf("%s: after the repair:\n%s\nbefore:\n%s", script, after, programmed)
		}
	}
}
