// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestKernelMasqueradeRemote has a pod of this node, and one of another node, which sends its replies to clients elsewhere. Of a Forward
// that keeps the client's address, it expects that only the pod of this node sees it, that each connection is answered, and that
// connections keep what they began with.
func TestKernelMasqueradeRemote(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		serveSources(t, "pod1")
		serveSources(t, "pod2")
		run(t, "ip", "-n pod2 -4 route del default")
		run(t, "ip", "-n pod2 -6 route del default")
		local, remote, client := addr(n.pod1), addr(n.pod2), addr(n.client)
		with := func(onNode bool, backends ...netip.Addr) gateway.State {
			state := gateway.State{
				Uplinks:          []gateway.Uplink{{Link: "eth1", Number: 1, Connected: []netip.Prefix{netip.MustParsePrefix(n.connected)}}},
				MasqueradePorts:  gateway.PortRange{First: 1024, Last: 65535},
				MasqueradeRemote: onNode, LocalBackends: backends,
			}
			for _, protocol := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
				f := forward(n.external, 80, n.pod1)
				f.Protocol, f.Masquerade = protocol, false
				f.Backends = []gateway.Backend{{Address: local, Port: sourcesPort}, {Address: remote, Port: sourcesPort}}
				state.Forwards = append(state.Forwards, f)
			}
			toRemote := forward(n.external, 81, n.pod2)
			toRemote.Protocol, toRemote.Masquerade = gateway.UDP, false
			state.Forwards = append(state.Forwards, toRemote)
			return state
		}
		d := h.start()
		apply(t, d, with(true, local))
		if again := apply(t, h.start(), with(true, local)); !again.Empty() {
			t.Errorf("a restart writes %s", again)
		}
		d = h.start()
		kept := map[string]netip.AddrPort{}
		conns := map[string]func() netip.AddrPort{}
		for _, protocol := range []string{"tcp", "udp"} {
			for range 40 { // both pods get some
				conn := dialFrom(t, "client", protocol, n.external, 80)
				source := seen(t, conn)
				if want := []netip.Addr{client, remote.Prev()}; !slices.Contains(want, source.Addr()) {
					t.Fatalf("a pod sees %s over %s, want one of %s", source, protocol, want)
				}
				name := protocol + " " + source.Addr().String()
				kept[name], conns[name] = source, func() netip.AddrPort { return seen(t, conn) }
			}
			if source := seen(t, dialFrom(t, "pod1", protocol, n.external, 80)).Addr(); source != local.Prev() && source != remote.Prev() {
				t.Errorf("a pod sees %s over %s if a pod connects, want an address of this node", source, protocol)
			}
		}
		if len(kept) != 4 {
			t.Fatalf("over both protocols, the pods see %v, want the client and this node", kept)
		}
		ports, err := conntrack.SourcePorts(gateway.DefaultOwnership(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(ports, func(p gateway.SourcePorts) bool { return p.Backend.Addr() == remote && p.Protocol == gateway.TCP }); i < 0 || ports[i].InUse == 0 {
			t.Errorf("the connections to the pod of another node do not count for source ports: %+v", ports)
		}
		// The pod is now known to be elsewhere, or none is here: what began goes on.
		for _, state := range []gateway.State{with(true), with(true, local, remote), with(true, local)} {
			if result := apply(t, d, state); result.Connections != 0 {
				t.Errorf("%d connections ended, want none", result.Connections)
			}
			for name, source := range kept {
				if got := conns[name](); got != source {
					t.Errorf("%s: the pod sees %s, and %s before", name, got, source)
				}
			}
		}
		ask(t, dialFrom(t, "client", "udp", n.external, 81), "pod2")
		// The test can fail: without the rule, the pod of another node answers to nowhere.
		apply(t, d, with(false))
		ask(t, dialFrom(t, "client", "udp", n.external, 81), silence)
	})
}
