// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// flowing returns the state with a flowtable.
func flowing(state gateway.State) gateway.State {
	state.Flowtable = flowtable
	return state
}

// adds reports whether a rule adds the connection of a traced packet to a flowtable.
func adds(trace packet.Trace) bool {
	return slices.ContainsFunc(trace.Steps, func(s packet.Step) bool { return strings.Contains(s.Rule, "flow add @flows-") })
}

// TestFlowtableChangesNoVerdict expects the same of all packets with and without a flowtable.
func TestFlowtableChangesNoVerdict(t *testing.T) {
	added := 0
	for _, family := range families {
		random := rand.New(rand.NewPCG(6, uint64(family)))
		states := []gateway.State{host(family), forwards(family)}
		for range 20 {
			states = append(states, randomState(random, family))
		}
		for _, state := range states {
			without, with := tracer(state, family), tracer(flowing(state), family)
			for _, p := range packetsOf(state, family) {
				route, from, by := p.Route, p.Source.Addr(), p.In
				p.Route = func(to netip.Addr, mark uint32) string {
					if to == from {
						return by // the way back
					}
					return route(to, mark)
				}
				want, got := without.Trace(p), with.Trace(p)
				if want.Verdict != got.Verdict || want.RejectWith != got.RejectWith || want.Out != got.Out || want.Masqueraded != got.Masqueraded ||
					want.Packet.Destination != got.Packet.Destination || want.Packet.ConnMark != got.Packet.ConnMark || want.Packet.Mark != got.Packet.Mark {
					t.Fatalf("%s to %s by %q: %+v\nwithout: %+v", p.Source, p.Destination, p.In, got, want)
				}
				if adds(got) {
					added++
				}
			}
		}
	}
	if added == 0 {
		t.Error("no packet adds a connection to a flowtable")
	}
}

// TestWhichConnectionsFlow expects packets to add their connection exactly if the kernel then finds the routes that our rules lead to.
func TestWhichConnectionsFlow(t *testing.T) {
	for _, family := range families {
		pod, outsider := netip.AddrPortFrom(inside(family, 1), 8080), netip.AddrPortFrom(client(family, 1), 40000)
		two := flowing(host(family))
		one := flowing(host(family))
		one.Uplinks = uplinks[:1]
		one.Egresses = one.Egresses[:1]
		none := flowing(stateOf(host(family).Forwards...))
		none.Uplinks = nil
		byUplink := func(p *packet.Packet) {
			p.In, p.Source, p.Destination, p.ConnMark = "eth2", outsider, pod, ownership.Forwarded().Value|ownership.Uplink(2).Value
		}
		fromPod := func(p *packet.Packet) {
			p.In, p.Source, p.Destination, p.ConnMark, p.State = "eth0", pod, outsider, ownership.Forwarded().Value, packet.Established|packet.SNAT
		}
		for _, tc := range []struct {
			name  string
			state gateway.State
			// change changes a packet of a client to a pod, by the second uplink.
			change func(p *packet.Packet)
			want   bool
		}{
			{"established", two, byUplink, true},
			{"by the first uplink", two, func(p *packet.Packet) { byUplink(p); p.In, p.ConnMark = "eth1", 0x110 }, true},
			{"by another uplink than that of the replies", two, func(p *packet.Packet) { byUplink(p); p.In = "eth1" }, false},
			{"the first packet", two, func(p *packet.Packet) { byUplink(p); p.State = packet.New | packet.DNAT }, false},
			{"an error of ICMP", two, func(p *packet.Packet) { byUplink(p); p.State = packet.Related | packet.DNAT }, false},
			{"a reply", two, func(p *packet.Packet) {
				byUplink(p)
				p.In, p.Source, p.Destination, p.Direction = "eth0", pod, outsider, packet.Reply
			}, false},
			{"a connection that a helper expects", two, func(p *packet.Packet) { byUplink(p); p.Expected = true }, false},
			{"a packet that a bridge switches", two, func(p *packet.Packet) { byUplink(p); p.Bridged = true }, false},
			{"a connection of another program", two, func(p *packet.Packet) { byUplink(p); p.ConnMark = ownership.Uplink(2).Value }, false},
			{"UDP with two uplinks", two, func(p *packet.Packet) { byUplink(p); p.Protocol = gateway.UDP }, false},
			{"UDP with one uplink", one, func(p *packet.Packet) { byUplink(p); p.In, p.ConnMark, p.Protocol = "eth1", 0x110, gateway.UDP }, true},
			{"a client inside", two, func(p *packet.Packet) {
				byUplink(p)
				p.In, p.Source, p.ConnMark = "eth0", netip.AddrPortFrom(inside(family, 99), 1), 0x30
			}, true},
			{"out of the uplink", two, func(p *packet.Packet) { byUplink(p); p.Route = to("eth1") }, false},
			{"without uplinks", none, func(p *packet.Packet) { byUplink(p); p.In, p.ConnMark = "eth1", 0x30 }, true},
			{"without uplinks, another way back", none, func(p *packet.Packet) { byUplink(p); p.In, p.ConnMark = "eth2", 0x30 }, false},
			{"a pod", two, fromPod, true},
			{"UDP of a pod", two, func(p *packet.Packet) { fromPod(p); p.Protocol = gateway.UDP }, true},
			{"the first packet of a pod", two, func(p *packet.Packet) { fromPod(p); p.State = packet.New }, false},
			{"a reply to a pod", two, func(p *packet.Packet) {
				fromPod(p)
				p.In, p.Source, p.Destination, p.Direction = "eth1", outsider, pod, packet.Reply
			}, false},
			{"a pod that is routed elsewhere", two, func(p *packet.Packet) { fromPod(p); p.In = "eth7" }, false},
		} {
			p := packet.Packet{Protocol: gateway.TCP, State: packet.Established | packet.DNAT, Direction: packet.Original}
			// The main table leads clients to the first uplink.
			p.Route = func(to netip.Addr, mark uint32) string {
				switch {
				case pods(family).Contains(to):
					return "eth0"
				case mark&ownership.UplinkMask() == ownership.Uplink(2).Value:
					return "eth2"
				}
				return "eth1"
			}
			tc.change(&p)
			trace := tracer(tc.state, family).Trace(p)
			if got := adds(trace); got != tc.want {
				t.Errorf("IPv%d, %s: added %t, want %t\n%+v", family, tc.name, got, tc.want, trace.Steps)
			}
			if trace.Packet.Mark&(ownership.UplinkMask()|ownership.Egress().Mask) != 0 && adds(trace) {
				t.Errorf("IPv%d, %s: the packet keeps the mark %#x", family, tc.name, trace.Packet.Mark)
			}
		}
	}
}

// TestFlowtableFollowsLinks expects another flowtable for other links and for a link that was made again, and the same one for others
// of a State.
func TestFlowtableFollowsLinks(t *testing.T) {
	name := func(links ...gateway.FlowLink) string {
		state := host(gateway.IPv4)
		state.Flowtable = gateway.Flowtable{Families: both, Links: links}
		tables := Build(state, gateway.IPv4, ownership).Flowtables
		if len(tables) != 1 || !tables[0].Counters || len(tables[0].Links) != len(links) {
			t.Fatalf("%v makes %+v", links, tables)
		}
		return tables[0].Name
	}
	a, b := gateway.FlowLink{Name: "eth0", Index: 2}, gateway.FlowLink{Name: "eth1", Index: 3}
	names := []string{name(a, b), name(a), name(b), name(gateway.FlowLink{Name: "eth0", Index: 4}, b)}
	slices.Sort(names)
	if len(slices.Compact(names)) != 4 {
		t.Errorf("different links have flowtables of the same name: %q", names)
	}
	// The chains of a family that has no flowtable are those without one.
	state := flowing(host(gateway.IPv4))
	state.Flowtable.Families.IPv4 = false
	if batch := ruleset.Diff(Build(host(gateway.IPv4), gateway.IPv4, ownership), Build(state, gateway.IPv4, ownership)); !batch.Empty() {
		t.Errorf("IPv4 without a flowtable: %+v", batch)
	}
}
