// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

func TestBoundary(t *testing.T) {
	const forwarded, uplink1, uplink2 = 0x10, 0x100, 0x200
	pod := netip.AddrPortFrom(inside(gateway.IPv4, 1), 8080)
	client := netip.AddrPortFrom(client(gateway.IPv4, 0), 40000)
	for _, tc := range []struct {
		name    string
		packet  packet.Packet
		verdict packet.Verdict
		mark    uint32
	}{
		{"a neighbour sends to a pod", packet.Packet{In: "eth1", State: packet.New, Source: client, Destination: pod}, packet.Drop, 0},
		{"a neighbour fakes a packet of a connection", packet.Packet{In: "eth1", State: packet.Invalid, Source: client, Destination: pod}, packet.Drop, 0},
		{"a neighbour's connection from before us", packet.Packet{In: "eth1", State: packet.Established, Direction: packet.Original, Source: client, Destination: pod}, packet.Drop, 0},
		{"an answer to a pod", packet.Packet{In: "eth1", State: packet.Established, Direction: packet.Reply, Source: client, Destination: pod}, packet.Accept, 0},
		{"an error about a pod's packet", packet.Packet{In: "eth1", State: packet.Related, Direction: packet.Reply, Source: client, Destination: pod}, packet.Accept, 0},
		{"published by another program", packet.Packet{In: "eth1", State: packet.New | packet.DNAT, Source: client, Destination: pod}, packet.Accept, 0},
		{"from another link", packet.Packet{In: "eth0", State: packet.New, Source: client, Destination: pod}, packet.Accept, 0},
		{"of a forwarded connection", packet.Packet{In: "eth2", State: packet.Established, Direction: packet.Original, ConnMark: forwarded | uplink2, Source: client, Destination: pod}, packet.Accept, 0},
		{"a reply leaves by the uplink that was used", packet.Packet{In: "eth0", State: packet.Established, Direction: packet.Reply, ConnMark: forwarded | uplink2, Source: pod, Destination: client}, packet.Accept, uplink2},
		{"so does a reply of the host itself", packet.Packet{State: packet.Established, Direction: packet.Reply, ConnMark: uplink1, Source: pod, Destination: client}, packet.Accept, uplink1},
		{"an answer of a pod without a connection", packet.Packet{In: "eth0", State: packet.Invalid, Source: pod, Destination: client, Route: to("eth2")}, packet.Drop, 0},
		{"the same to the inside", packet.Packet{In: "eth0", State: packet.Invalid, Source: pod, Destination: client}, packet.Accept, 0},
		{"an answer to the host without a connection", packet.Packet{In: "eth1", State: packet.Invalid, Source: client, Destination: pod, Route: to("")}, packet.Drop, 0},
		{"IPv6 neighbour discovery", packet.Packet{In: "eth1", State: packet.Untracked, Source: client, Destination: pod, Route: to("")}, packet.Accept, 0},
		{"a neighbour opens a connection to the host", packet.Packet{In: "eth1", State: packet.New, Source: client, Destination: pod, Route: to("")}, packet.Accept, 0},
		{"to a pod, the mark is not restored", packet.Packet{In: "eth1", State: packet.Established, Direction: packet.Original, ConnMark: forwarded | uplink1, Source: client, Destination: pod}, packet.Accept, 0},
		{"a link that leads outside but is not an uplink", packet.Packet{In: "br-wan", State: packet.New, Source: client, Destination: pod}, packet.Drop, 0},
		{"from a network of the cluster by an uplink", packet.Packet{In: "eth1", State: packet.New, Source: netip.AddrPortFrom(inside(gateway.IPv4, 1<<12), 1), Destination: pod}, packet.Accept, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.packet.Protocol = gateway.TCP
			if tc.packet.Route == nil {
				tc.packet.Route = to("eth9")
			}
			tracer := tracer(gateway.State{Uplinks: uplinks, Outside: []string{"br-wan"}, InsideNetworks: []netip.Prefix{
				netip.PrefixFrom(inside(gateway.IPv4, 1<<12), 20),
			}}, gateway.IPv4)
			got := tracer.Trace(tc.packet)
			if got.Verdict != tc.verdict || got.Packet.Mark != tc.mark {
				t.Errorf("verdict %s, mark %#x; want %s, %#x\n%+v", got.Verdict, got.Packet.Mark, tc.verdict, tc.mark, got.Steps)
			}
		})
	}
}

// TestFlowsFollowTheirUplink sends packets of known connections by another link than the first packet.
func TestFlowsFollowTheirUplink(t *testing.T) {
	own := ownership
	for _, family := range families {
		pod, node := inside(family, 20), inside(family, 30)
		state := gateway.State{
			Uplinks: uplinks, InsideNetworks: []netip.Prefix{netip.PrefixFrom(node, node.BitLen())},
			Forwards: []*gateway.Forward{forward(family, 1, gateway.UDP, 53, 53, backends(family, 1, 53))},
			Egresses: []gateway.Egress{{Address: external(family, 1), Uplink: 1, Sources: []netip.Addr{pod}}},
		}
		tracer := tracer(state, family)
		client, backend := client(family, 0), state.Forwards[0].Backends[0].Address
		for _, tc := range []struct {
			name      string
			in        string
			protocol  gateway.Protocol
			direction packet.Direction
			from, to  netip.Addr
			// mark is the uplink of the connection before the packet, want the uplink after it.
			mark, want uint32
		}{
			{"UDP by another uplink", "eth2", gateway.UDP, packet.Original, client, backend, own.Uplink(1).Value, own.Uplink(2).Value},
			{"UDP by the same", "eth2", gateway.UDP, packet.Original, client, backend, own.Uplink(2).Value, own.Uplink(2).Value},
			{"UDP of the host itself", "eth2", gateway.UDP, packet.Original, client, external(family, 3), own.Uplink(1).Value, own.Uplink(2).Value},
			{"TCP", "eth2", gateway.TCP, packet.Original, client, backend, own.Uplink(1).Value, own.Uplink(1).Value},
			{"SCTP", "eth2", gateway.SCTP, packet.Original, client, backend, own.Uplink(1).Value, own.Uplink(1).Value},
			{"a reply by another uplink", "eth2", gateway.UDP, packet.Reply, client, pod, own.Uplink(1).Value, own.Uplink(1).Value},
			{"a reply of the backend", "eth0", gateway.UDP, packet.Reply, backend, client, own.Uplink(1).Value, own.Uplink(1).Value},
			{"a node behind an uplink, which the main table leads to", "eth2", gateway.UDP, packet.Original, node, external(family, 3), 0, 0},
			{"a pod that leaves", "eth0", gateway.UDP, packet.Original, pod, client, 0, 0},
		} {
			t.Run(fmt.Sprintf("%s/IPv%d", tc.name, family), func(t *testing.T) {
				p := packet.Packet{
					In: tc.in, Protocol: tc.protocol, State: packet.Established, Direction: tc.direction, ConnMark: own.Forwarded().Value | tc.mark,
					Source: netip.AddrPortFrom(tc.from, 40000), Destination: netip.AddrPortFrom(tc.to, 53),
				}
				if got := tracer.Trace(p); got.Packet.ConnMark != own.Forwarded().Value|tc.want {
					t.Errorf("connection marked %#x, want %#x", got.Packet.ConnMark, own.Forwarded().Value|tc.want)
				}
			})
		}
	}
}

// TestNothingOfOursLeavesByAnUplink expects that connections stay inside for every backend and every route.
func TestNothingOfOursLeavesByAnUplink(t *testing.T) {
	own := ownership
	for _, family := range families {
		f := forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080))
		network := netip.PrefixFrom(inside(family, 0), inside(family, 0).BitLen()-8)
		state := gateway.State{Uplinks: uplinks, Forwards: []*gateway.Forward{f}}
		cluster, route, listed := state, state, state
		listed.BackendNetworks = []netip.Prefix{network}
		cluster.InsideNetworks = []netip.Prefix{network}
		route.ServiceRoutes = []gateway.ServiceRoute{{Destination: network}}
		first := func(p *packet.Packet) {}
		later := func(p *packet.Packet) {
			p.State, p.ConnMark = packet.Established|packet.DNAT, own.Forwarded().Value|own.Uplink(1).Value
			p.Destination = netip.AddrPortFrom(f.Backends[0].Address, f.Backends[0].Port)
		}
		for _, tc := range []struct {
			name    string
			state   gateway.State
			change  func(p *packet.Packet)
			out     string
			verdict packet.Verdict
		}{
			{"the first packet", state, first, "eth1", packet.Drop},
			{"by another uplink", state, first, "eth2", packet.Drop},
			{"a route that changed later", state, later, "eth2", packet.Drop},
			{"inside", state, first, "eth0", packet.Accept},
			{"inside, later", state, later, "eth0", packet.Accept},
			{"a pod, hairpin, out of an uplink", state, func(p *packet.Packet) { p.In = "eth0" }, "eth1", packet.Drop},
			{"a pod, hairpin", state, func(p *packet.Packet) { p.In = "eth0" }, "eth0", packet.Accept},
			{"a reply", state, func(p *packet.Packet) { later(p); p.In, p.Direction = "eth0", packet.Reply }, "eth1", packet.Accept},
			{"an error about a packet of the client", state, func(p *packet.Packet) {
				later(p)
				p.In, p.State, p.Direction, p.Protocol = "eth0", packet.Related|packet.DNAT, packet.Reply, "icmp"
			}, "eth1", packet.Accept},
			{"data of active FTP, opened by the backend", state, func(p *packet.Packet) {
				later(p)
				p.In, p.State, p.Expected = "eth0", packet.Related, true
			}, "eth1", packet.Accept},
			{"a later packet of it", state, func(p *packet.Packet) { later(p); p.In, p.Expected = "eth0", true }, "eth1", packet.Accept},
			{"a network of the cluster behind the uplink", cluster, first, "eth1", packet.Accept},
			{"a network of backends behind the uplink", listed, first, "eth1", packet.Accept},
			{"a service route by the uplink", route, first, "eth1", packet.Accept},
		} {
			p := firstPacket(family, client(family, 0), f.Address, gateway.TCP, 80)
			p.Route = func(netip.Addr, uint32) string { return tc.out }
			tc.change(&p)
			if got := tracer(tc.state, family).Trace(p); got.Verdict != tc.verdict {
				t.Errorf("IPv%d, %s: verdict %s by %s, want %s\n%+v", family, tc.name, got.Verdict, got.Out, tc.verdict, got.Steps)
			}
		}
	}
}

// TestClosed expects that a host which forwards only for us drops everything else that does not come from inside, and ignores
// packets that a bridge switches.
func TestClosed(t *testing.T) {
	for _, family := range families {
		f := forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080))
		both := gateway.Families{IPv4: true, IPv6: true}
		state := gateway.State{Uplinks: uplinks, Forwards: []*gateway.Forward{f}, ForwardingOwned: both, InsideLinks: []string{"eth0"}, BridgeNetfilter: both}
		other := state
		other.ForwardingOwned = gateway.Families{IPv4: family != gateway.IPv4, IPv6: family != gateway.IPv6}
		pod, client := inside(family, 1), client(family, 0)
		for _, tc := range []struct {
			name    string
			state   gateway.State
			in      string
			to      netip.Addr
			bridged bool
			reply   bool
			verdict packet.Verdict
		}{
			{"a link that is not known to be inside", state, "eth5", pod, false, false, packet.Drop},
			{"the same if other programs need forwarding", other, "eth5", pod, false, false, packet.Accept},
			{"a link inside", state, "eth0", client, false, false, packet.Accept},
			{"a Mapping by any link", state, "eth5", f.Address, false, false, packet.Accept},
			{"an answer", state, "eth5", client, false, true, packet.Accept},
			{"switched, by an uplink", state, "eth1", client, true, false, packet.Accept},
			{"routed, by an uplink", state, "eth1", client, false, false, packet.Drop},
		} {
			p := firstPacket(family, client.Next(), tc.to, gateway.TCP, 80)
			p.In, p.Bridged = tc.in, tc.bridged
			if tc.reply {
				p.State, p.Direction = packet.Established, packet.Reply
			}
			p.Route = func(netip.Addr, uint32) string { return "eth9" }
			if got := tracer(tc.state, family).Trace(p); got.Verdict != tc.verdict {
				t.Errorf("IPv%d, %s: verdict %s, want %s\n%+v", family, tc.name, got.Verdict, tc.verdict, got.Steps)
			}
		}
	}
}

// TestLeavingWithoutUplinks expects that, without uplinks in the config, our connections leave by no link that is assumed to
// lead outside.
func TestLeavingWithoutUplinks(t *testing.T) {
	for _, family := range families {
		pod, client := inside(family, 200), client(family, 0)
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
				p.ConnMark, p.Route = ownership.Forwarded().Value, func(netip.Addr, uint32) string { return tc.out }
			}
			if got := tracer(state, family).Trace(p); got.Verdict != tc.want {
				t.Errorf("IPv%d, %s: verdict %s, want %s: %+v", family, tc.name, got.Verdict, tc.want, got.Steps)
			}
		}
	}
}

// TestGuarded expects that a table from Build needs no guard, unless a part of the boundary is missing or differs.
func TestGuarded(t *testing.T) {
	for _, family := range families {
		built := func() ruleset.Table { return Build(host(family), family, ownership) }
		chain := func(table ruleset.Table, name string) *ruleset.Chain {
			return &table.Chains[slices.IndexFunc(table.Chains, func(c ruleset.Chain) bool { return c.Name == name })]
		}
		set := func(table ruleset.Table, name string) *ruleset.Set {
			return &table.Sets[slices.IndexFunc(table.Sets, func(s ruleset.Set) bool { return s.Name == name })]
		}
		boundaryOnly := host(family)
		boundaryOnly.Forwards, boundaryOnly.Egresses = nil, nil
		for _, tc := range []struct {
			name  string
			state gateway.State
			table func() ruleset.Table
			want  bool
		}{
			{"everything", host(family), built, true},
			{"no object is known", boundaryOnly, built, true},
			{"nothing", host(family), func() ruleset.Table { return ruleset.Table{Family: family} }, false},
			{"a guard", host(family), func() ruleset.Table { return Guard(host(family), family, ownership) }, false},
			{"no jump", host(family), func() ruleset.Table {
				table := built()
				c := chain(table, forwardFilter)
				c.Rules = c.Rules[:len(c.Rules)-1]
				return table
			}, false},
			{"no exception for bridges", host(family), func() ruleset.Table {
				table := built()
				c := chain(table, forwardFilter)
				c.Rules = slices.DeleteFunc(c.Rules, func(r ruleset.Rule) bool { return r.Comment == "switched by a bridge" })
				return table
			}, false},
			{"no drop", host(family), func() ruleset.Table {
				table := built()
				c := chain(table, boundaryChain)
				c.Rules = c.Rules[:len(c.Rules)-1]
				return table
			}, false},
			{"a link that is not outside", host(family), func() ruleset.Table {
				table := built()
				s := set(table, outsideLinks)
				s.Elements = s.Elements[1:]
				return table
			}, false},
			{"a network that is inside no more", boundaryOnly, func() ruleset.Table {
				more := host(family)
				more.InsideNetworks = append(more.InsideNetworks, clients(family, 9))
				return Build(more, family, ownership)
			}, false},
			{"no mark of bridges", host(family), func() ruleset.Table {
				table := built()
				table.Bridge = nil
				return table
			}, false},
		} {
			if got := Guarded(tc.table(), tc.state, family, ownership); got != tc.want {
				t.Errorf("IPv%d, %s: %t, want %t", family, tc.name, got, tc.want)
			}
		}
	}
}

// TestGuard expects that the guard by itself stops neighbours, and changes nothing else.
func TestGuard(t *testing.T) {
	for _, family := range families {
		for _, closed := range []bool{false, true} {
			state := host(family)
			if !closed {
				state.ForwardingOwned = gateway.Families{}
			}
			guard := ruleset.NewTracer(Guard(state, family, ownership), "smartnat", BridgedMark(ownership))
			other := packet.Drop
			if !closed {
				other = packet.Accept
			}
			for _, tc := range []struct {
				name    string
				in      string
				from    netip.Addr
				change  func(p *packet.Packet)
				verdict packet.Verdict
			}{
				{"a neighbour", "eth1", client(family, 0), nil, packet.Drop},
				{"a neighbour by another link to the outside", "br-wan", client(family, 0), nil, packet.Drop},
				{"switched by a bridge", "eth1", client(family, 0), func(p *packet.Packet) { p.Bridged = true }, packet.Accept},
				{"translated before", "eth1", client(family, 0), func(p *packet.Packet) { p.State = packet.Established | packet.DNAT }, packet.Accept},
				{"an answer", "eth1", client(family, 0), func(p *packet.Packet) { p.State, p.Direction = packet.Established, packet.Reply }, packet.Accept},
				{"from inside", "eth0.100", client(family, 0), nil, packet.Accept},
				{"of the cluster", "eth1", inside(family, 9), nil, packet.Accept},
				{"by an unknown link", "eth9", client(family, 0), nil, other},
				{"to the host", "eth1", client(family, 0), func(p *packet.Packet) { p.Route = to("") }, packet.Accept},
			} {
				p := firstPacket(family, tc.from, inside(family, 1), gateway.TCP, 80)
				p.In, p.Route = tc.in, to("eth9")
				if tc.change != nil {
					tc.change(&p)
				}
				got := guard.Trace(p)
				if got.Verdict != tc.verdict || got.Packet.ConnMark != 0 || got.Packet.Destination != p.Destination {
					t.Errorf("IPv%d, closed %t, %s: %s, marked %#x, to %s; want %s\n%+v", family, closed, tc.name, got.Verdict, got.Packet.ConnMark, got.Packet.Destination, tc.verdict, got.Steps)
				}
			}
		}
	}
}
