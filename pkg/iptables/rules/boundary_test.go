// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// TestGuardTakesNothingAway adds the boundary to an empty host, to rules of other programs, and to our rules of another config.
// Packets that passed before must still pass, and neighbours on every uplink of the new config must get nothing.
func TestGuardTakesNothingAway(t *testing.T) {
	other := ruleset.Ruleset{Tables: []ruleset.Table{{Name: "filter", Chains: []*ruleset.Chain{
		{Name: "FORWARD", Policy: "ACCEPT", Rules: []ruleset.Rule{{In: "docker0", Target: ruleset.Target{Verb: ruleset.Accept}}}},
	}}}}
	for seed := range uint64(8) {
		for _, family := range families {
			random := rand.New(rand.NewPCG(seed, 3))
			state := randomState(random, family)
			other.Family = family
			before := other
			if seed > 0 {
				before = ruleset.Apply(other, ruleset.Diff(other, Build(state, family, options), options.Ownership.ChainPrefix))
			}
			now := gateway.State{Uplinks: uplinks[1:], Outside: []string{"br-wan"}}
			after := ruleset.Apply(before, Guard(before, now, options))
			if again := Guard(after, now, options); !again.Empty() {
				t.Errorf("seed %d, IPv%d: a second Guard changes:\n%s", seed, family, again.Text())
			}
			was, is := ruleset.NewTracer(before), ruleset.NewTracer(after)
			for _, f := range state.Forwards {
				p := firstPacket(family, source(family, 0).Addr(), f.Address, f.Protocol, f.Ports.First)
				p.In = []string{"eth1", "eth2", "eth0"}[random.IntN(3)]
				want := was.Choosing(pick(0)).Trace(p)
				got := is.Choosing(pick(0)).Trace(p)
				if got.Verdict != want.Verdict || got.Packet.Destination != want.Packet.Destination {
					t.Fatalf("seed %d, %s by %s: verdict %s to %s, before %s to %s", seed, f.Frontend, p.In,
						got.Verdict, got.Packet.Destination, want.Verdict, want.Packet.Destination)
				}
			}
			for _, link := range []string{"eth2", "br-wan"} {
				neighbour := firstPacket(family, source(family, 0).Addr(), inside(family, 1), gateway.TCP, 8080)
				neighbour.In = link
				if got := is.Trace(neighbour); got.Verdict != packet.Drop {
					t.Errorf("seed %d, IPv%d: a neighbour by %s gets through: %+v", seed, family, link, got.Steps)
				}
			}
			docker := packet.Packet{In: "docker0", Protocol: gateway.TCP, State: packet.New, Direction: packet.Original,
				Source: netip.AddrPortFrom(inside(family, 5), 1), Destination: netip.AddrPortFrom(source(family, 0).Addr(), 80),
				Route: func(netip.Addr, uint32) string { return "eth0" }}
			if got := is.Trace(docker); got.Verdict != packet.Accept {
				t.Errorf("seed %d, IPv%d: a packet that does not concern us is dropped: %+v", seed, family, got.Steps)
			}
		}
	}
}

// TestLeavingWithoutUplinks expects that, without uplinks in the config, our connections leave by no link that is assumed to
// lead outside.
func TestLeavingWithoutUplinks(t *testing.T) {
	for _, family := range families {
		pod, client := inside(family, 200), source(family, 0).Addr()
		state := gateway.State{
			Forwards: []*gateway.Forward{forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080))},
			Outside:  []string{"eth1"},
		}
		backend := state.Forwards[0].Backends[0].Address
		for _, tc := range []struct {
			name     string
			networks []netip.Prefix
			out      string
			reply    bool
			want     packet.Verdict
		}{
			{"inside", nil, "eth0", false, packet.Accept},
			{"outside", nil, "eth1", false, packet.Drop},
			{"outside, in a listed network", []netip.Prefix{hostPrefix(backend)}, "eth1", false, packet.Accept},
			{"outside, in another one", []netip.Prefix{hostPrefix(pod)}, "eth1", false, packet.Drop},
			{"the answer", nil, "eth1", true, packet.Accept},
		} {
			state.BackendNetworks = tc.networks
			p := firstPacket(family, client, external(family, 1), gateway.TCP, 80)
			p.In, p.Route = "eth1", func(netip.Addr, uint32) string { return tc.out }
			if tc.reply {
				p = firstPacket(family, backend, client, gateway.TCP, 80)
				p.In, p.Direction, p.State = "eth0", packet.Reply, packet.Established|packet.DNAT
				p.ConnMark, p.Route = options.Ownership.Forwarded().Value, func(netip.Addr, uint32) string { return tc.out }
			}
			if got := ruleset.NewTracer(Build(state, family, options)).Trace(p); got.Verdict != tc.want {
				t.Errorf("IPv%d, %s: verdict %s, want %s: %+v", family, tc.name, got.Verdict, tc.want, got.Steps)
			}
		}
	}
}
