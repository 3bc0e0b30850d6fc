// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/netlink"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestKernelTextMeansTheSame loads the text of tables by nft(8), reads the byte code that nft(8) made of it, and expects that it
// does the same to packets as the table.
func TestKernelTextMeansTheSame(t *testing.T) {
	testenv.RequireTool(t, "nft")
	same := func(t *testing.T, state gateway.State, family gateway.Family) {
		testenv.NewNetNS(t)
		if len(state.Flowtable.Links) > 0 {
			testenv.RequireFlowtable(t)
		}
		kernel, err := netlink.New(netlink.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer kernel.Close()
		// nft(8) cannot spell the rule for a shifted range.
		state.Forwards = slices.DeleteFunc(state.Forwards, func(f *gateway.Forward) bool { return f.Shift })
		table := Build(state, family, ownership)
		if hasRanges(table) {
			testenv.RequireRangesByText(t)
		}
		nft(t, text(t, table), "-f", "-")
		loaded, err := kernel.Read("smartnat", family)
		if err != nil {
			t.Fatal(err)
		}
		for i := range loaded.Sets {
			// Datatypes mean nothing to the kernel, and nft(8) has none for a random number that others know.
			set := &loaded.Sets[i]
			if j := slices.IndexFunc(table.Sets, func(s ruleset.Set) bool { return s.Name == set.Name }); j >= 0 {
				set.Key, set.Data = table.Sets[j].Key, table.Sets[j].Data
			}
		}
		built, read := tracer(state, family), ruleset.NewTracer(loaded, "smartnat", BridgedMark(ownership))
		for _, p := range packetsOf(state, family) {
			if diff := cmp.Diff(outcomes(t, built, p), outcomes(t, read, p), cmpopts.EquateApprox(0, 1e-9), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Fatalf("%s to %s/%s by %q (-built +read):\n%s\n%+v", p.Source, p.Destination, p.Protocol, p.In, diff, read.Trace(p).Steps)
			}
			want, got := built.Trace(p), read.Trace(p)
			if want.Rules != got.Rules || want.Clamped != got.Clamped || want.Packet.Mark != got.Packet.Mark {
				t.Fatalf("%s to %s/%s by %q: %d rules, clamped %t, mark %#x; want %d, %t, %#x", p.Source, p.Destination, p.Protocol, p.In,
					got.Rules, got.Clamped, got.Packet.Mark, want.Rules, want.Clamped, want.Packet.Mark)
			}
		}
	}
	for _, family := range families {
		for _, tc := range scenarios {
			t.Run(fmt.Sprintf("%s/IPv%d", tc.name, family), func(t *testing.T) { same(t, tc.state(family), family) })
		}
		random := rand.New(rand.NewPCG(9, uint64(family)))
		for i := range 5 {
			t.Run(fmt.Sprintf("random %d/IPv%d", i, family), func(t *testing.T) { same(t, randomState(random, family), family) })
		}
	}
}

// packetsOf returns first packets for the ports of a state and next to them, later packets, replies, and packets of neighbours.
func packetsOf(state gateway.State, family gateway.Family) []packet.Packet {
	var packets []packet.Packet
	add := func(p packet.Packet) {
		for _, p.In = range []string{"eth1", "eth0", ""} {
			packets = append(packets, p)
		}
	}
	for _, f := range state.Forwards {
		for _, port := range []uint16{f.Ports.First - 1, f.Ports.First, f.Ports.Last} {
			for _, n := range []int{1, 32} {
				add(firstPacket(family, client(family, n), f.Address, f.Protocol, port))
			}
		}
	}
	neighbour := firstPacket(family, client(family, 1), inside(family, 0x101), gateway.TCP, 80)
	add(neighbour)
	for _, mark := range []uint32{0, 0x10, 0x130, 0x230} {
		later := neighbour
		later.State, later.ConnMark = packet.Established|packet.DNAT, mark
		add(later)
		later.Direction, later.Source, later.Destination = packet.Reply, later.Destination, later.Source
		add(later)
		later.State, later.Bridged, later.Route = packet.Related, true, to("eth1")
		add(later)
	}
	invalid := neighbour
	invalid.State, invalid.Direction = packet.Invalid, 0
	add(invalid)
	return packets
}
