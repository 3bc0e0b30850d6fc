// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestKernelSyncEndpoint expects that only the sync link, and the host itself, reach the sync port of the sync address. Linux takes packets
// for an address of the host by any link.
func TestKernelSyncEndpoint(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		address := "10.244.1.1"
		if n.name == "IPv6" {
			address = "fd00:244:1::1"
		}
		const sync, other = 3780, 3781
		for _, port := range []int{sync, other} {
			if err := answer(t, net.JoinHostPort(address, strconv.Itoa(port)), func(net.Addr) string { return "host" }); err != nil {
				t.Fatal(err)
			}
		}
		uplinks := []gateway.Uplink{{Link: "eth1", Number: 1, Connected: []netip.Prefix{netip.MustParsePrefix(n.connected)}}}
		expect := func(from string, port uint16, want string) {
			t.Helper()
			ask(t, dialFrom(t, from, "udp", address, port), want)
		}
		d := h.start()
		apply(t, d, gateway.State{Uplinks: uplinks})
		for _, from := range []string{"pod1", "pod2", "client"} {
			expect(from, sync, "host") // so that silence proves something
		}
		state := gateway.State{Uplinks: uplinks, Sync: gateway.SyncEndpoint{Address: addr(address), Link: "pod1", Port: sync}}
		apply(t, d, state)
		expect("pod1", sync, "host")
		for _, from := range []string{"pod2", "client"} {
			expect(from, sync, silence)
			expect(from, other, "host")
		}
		local, err := net.Dial("udp", net.JoinHostPort(address, strconv.Itoa(sync)))
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		ask(t, local, "host")
		apply(t, d, gateway.State{Uplinks: uplinks})
		expect("pod2", sync, "host")
	})
}
