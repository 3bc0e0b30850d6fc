// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// TestGuardTakesNothingAway puts up the boundary over nothing, over other programs' rules, and over what was programmed under
// another config: packets of before go on, and neighbours by any uplink of the new config get nothing.
func TestGuardTakesNothingAway(t *testing.T) {
	other := netfilter.Ruleset{Tables: []netfilter.Table{{Name: "filter", Chains: []*netfilter.Chain{
		{Name: "FORWARD", Policy: "ACCEPT", Rules: []netfilter.Rule{{In: "docker0", Target: netfilter.Target{Verb: netfilter.Accept}}}},
	}}}}
	for seed := range uint64(8) {
		for _, family := range families {
			random := rand.New(rand.NewPCG(seed, 3))
			state := randomState(random, family)
			other.Family = family
			before := other
			if seed > 0 {
				before = netfilter.Apply(other, netfilter.Diff(other, Build(state, family, options), options.Ownership.ChainPrefix))
			}
			now := gateway.State{Uplinks: uplinks[1:], Outside: []string{"br-wan"}}
			after := netfilter.Apply(before, Guard(before, now, options))
			if again := Guard(after, now, options); !again.Empty() {
				t.Errorf("seed %d, IPv%d: not done after what was done:\n%s", seed, family, again.Text())
			}
			was, is := netfilter.NewTracer(before), netfilter.NewTracer(after)
			for _, f := range state.Forwards {
				p := packet(family, source(family, 0).Addr(), f.Address, f.Protocol, f.Ports.First)
				p.In, p.Chance = []string{"eth1", "eth2", "eth0"}[random.IntN(3)], pick(0)
				want := was.Trace(p)
				p.Chance = pick(0)
				got := is.Trace(p)
				if got.Verdict != want.Verdict || got.Packet.Destination != want.Packet.Destination {
					t.Fatalf("seed %d, %s by %s: verdict %d to %s, before %d to %s", seed, f.Frontend, p.In,
						got.Verdict, got.Packet.Destination, want.Verdict, want.Packet.Destination)
				}
			}
			for _, link := range []string{"eth2", "br-wan"} {
				neighbour := packet(family, source(family, 0).Addr(), inside(family, 1), gateway.TCP, 8080)
				neighbour.In = link
				if got := is.Trace(neighbour); got.Verdict != netfilter.Drop {
					t.Errorf("seed %d, IPv%d: a neighbour by %s gets through: %+v", seed, family, link, got.Steps)
				}
			}
			docker := netfilter.Packet{In: "docker0", Protocol: gateway.TCP, State: netfilter.New, Direction: netfilter.Original,
				Source: netip.AddrPortFrom(inside(family, 5), 1), Destination: netip.AddrPortFrom(source(family, 0).Addr(), 80),
				Route: func(netip.Addr, uint32) string { return "eth0" }}
			if got := is.Trace(docker); got.Verdict != netfilter.Accept {
				t.Errorf("seed %d, IPv%d: what is none of ours is dropped: %+v", seed, family, got.Steps)
			}
		}
	}
}
