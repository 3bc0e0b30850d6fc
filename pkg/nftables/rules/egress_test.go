// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// refusing follows packets on a host whose own rules refuse what ours do not accept.
func refusing(state gateway.State, family gateway.Family) *ruleset.Tracer {
	table := Build(state, family, ownership)
	for i := range table.Chains {
		if c := &table.Chains[i]; c.Name == forwardFilter {
			c.Rules = append(c.Rules, rule("", verdict(ruleset.Drop)))
		}
	}
	return ruleset.NewTracer(table, "smartnat", BridgedMark(ownership))
}

// byMark routes as the host does: by the main table to inside networks, otherwise by the uplink of the mark.
func byMark(family gateway.Family, state gateway.State) func(netip.Addr, uint32) string {
	return func(destination netip.Addr, mark uint32) string {
		if pods(family).Contains(destination) {
			return "eth0"
		}
		for _, u := range state.Uplinks {
			if m := ownership.Uplink(u.Number); mark&m.Mask == m.Value {
				return u.Link
			}
		}
		return "eth7"
	}
}

// TestPodsLeaveAsTheStateSays follows first packets to the outside, from pods and from senders that use their addresses.
func TestPodsLeaveAsTheStateSays(t *testing.T) {
	own := ownership
	for seed := range uint64(8) {
		for _, family := range families {
			t.Run(fmt.Sprintf("%d/IPv%d", seed, family), func(t *testing.T) {
				state := randomState(rand.New(rand.NewPCG(seed, 1)), family)
				state.InsideNetworks, state.ForwardingOwned = nil, gateway.Families{}
				tracer := refusing(state, family)
				for _, pod := range []int{1, 0x100, 0x101, 0x102, 0x103, 0x200, 0x201, 0x202, 0x203} {
					p := firstPacket(family, inside(family, pod), client(family, 144), gateway.UDP, 53)
					p.Route = byMark(family, state)
					for _, p.In = range []string{"eth0", "eth1"} {
						i := slices.IndexFunc(state.Egresses, func(e gateway.Egress) bool { return slices.Contains(e.Sources, p.Source.Addr()) })
						got := tracer.Trace(p)
						if spoofed := len(state.Uplinks) > 0 && p.In == "eth1"; i < 0 || spoofed {
							if got.Verdict != packet.Drop || got.Packet.Mark != 0 {
								t.Fatalf("%s by %s: verdict %s, mark %#x; want no match of ours, and a drop by the host's policy", p.Source, p.In, got.Verdict, got.Packet.Mark)
							}
							continue
						}
						e := state.Egresses[i]
						if link := state.Uplinks[e.Uplink-1].Link; got.Verdict != packet.Accept || got.Out != link || got.Packet.Source.Addr() != e.Address || got.Masqueraded || got.Packet.ConnMark != own.Forwarded().Value {
							t.Fatalf("%s: verdict %s by %s as %s, masqueraded %t, marked %#x; want it to leave by %s as %s",
								p.Source, got.Verdict, got.Out, got.Packet.Source, got.Masqueraded, got.Packet.ConnMark, link, e.Address)
						}
					}
				}
			})
		}
	}
}

func TestEgress(t *testing.T) {
	own, family := ownership, gateway.IPv4
	pod, other, client := inside(family, 1), inside(family, 200), client(family, 0)
	state := gateway.State{
		Uplinks:  uplinks,
		ClampMSS: true,
		Forwards: []*gateway.Forward{forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080))},
		Egresses: []gateway.Egress{{Address: external(family, 1), Uplink: 2, Sources: []netip.Addr{pod}}},
	}
	marked := own.Uplink(2).Value | own.Egress().Value
	for _, tc := range []struct {
		name     string
		change   func(p *packet.Packet)
		verdict  packet.Verdict
		out      string
		from, to netip.Addr
		mark     uint32
		connMark uint32
		// masqueraded and clamped describe further changes of the packet.
		masqueraded, clamped bool
	}{
		{"to the outside", func(*packet.Packet) {}, packet.Accept, "eth2", external(family, 1), client, marked, 0x10, false, true},
		{"to another pod", func(p *packet.Packet) { p.Destination = netip.AddrPortFrom(other, 80) }, packet.Drop, "eth0", pod, other, marked, 0, false, false},
		{"to itself from outside", func(p *packet.Packet) { p.Destination = netip.AddrPortFrom(external(family, 1), 80) }, packet.Accept, "eth0", pod, pod, marked, 0x30, true, true},
		{"a later packet", func(p *packet.Packet) { p.State, p.ConnMark, p.SYN = packet.Established, 0x10, false }, packet.Accept, "eth2", pod, client, marked, 0x10, false, false},
		{"a connection from before", func(p *packet.Packet) { p.State = packet.Established }, packet.Drop, "eth7", pod, client, 0, 0, false, false},
		{"an answer", func(p *packet.Packet) {
			p.In, p.State, p.Direction, p.ConnMark = "eth2", packet.Established|packet.SNAT, packet.Reply, 0x10
			p.Source, p.Destination = p.Destination, p.Source
		}, packet.Accept, "eth0", client, pod, 0, 0x10, false, true},
		{"an error about it", func(p *packet.Packet) {
			p.In, p.State, p.Direction, p.ConnMark, p.Protocol = "eth1", packet.Related|packet.SNAT, packet.Reply, 0x10, "icmp"
			p.Source, p.Destination = p.Destination, p.Source
		}, packet.Accept, "eth0", client, pod, 0, 0x10, false, false},
		{"to a network of another uplink", func(p *packet.Packet) {
			p.Route = func(netip.Addr, uint32) string { return "eth1" }
		}, packet.Accept, "eth1", external(family, 1), client, marked, 0x10, false, true},
		{"without a connection", func(p *packet.Packet) { p.State = packet.Invalid }, packet.Drop, "eth7", pod, client, 0, 0, false, false},
		{"from a pod without egress", func(p *packet.Packet) { p.Source = netip.AddrPortFrom(other, 40000) }, packet.Drop, "eth7", other, client, 0, 0, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := firstPacket(family, pod, client, gateway.TCP, 80)
			p.In, p.SYN, p.Route = "eth0", true, byMark(family, state)
			tc.change(&p)
			got := refusing(state, family).Trace(p)
			if got.Verdict != tc.verdict || got.Out != tc.out || got.Packet.Source.Addr() != tc.from || got.Packet.Destination.Addr() != tc.to {
				t.Errorf("verdict %s by %s, %s to %s; want %s by %s, %s to %s\n%+v", got.Verdict, got.Out,
					got.Packet.Source, got.Packet.Destination, tc.verdict, tc.out, tc.from, tc.to, got.Steps)
			}
			if got.Packet.Mark != tc.mark || got.Packet.ConnMark != tc.connMark || got.Masqueraded != tc.masqueraded || got.Clamped != tc.clamped {
				t.Errorf("marks %#x and %#x, masqueraded %t, clamped %t; want %#x, %#x, %t, %t", got.Packet.Mark, got.Packet.ConnMark,
					got.Masqueraded, got.Clamped, tc.mark, tc.connMark, tc.masqueraded, tc.clamped)
			}
		})
	}
}

// TestEgressBehindAnUplink covers hosts with one link. Pods come in by its uplink and are recognized by their network. Replies
// to them follow the main table, which leads to their node, not the table of the uplink, which leads to the provider's router.
func TestEgressBehindAnUplink(t *testing.T) {
	own := ownership
	for _, family := range families {
		for _, protocol := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
			pod, other, client := inside(family, 1), inside(family, 200), client(family, 0)
			state := gateway.State{
				Uplinks:        uplinks,
				InsideNetworks: []netip.Prefix{hostPrefix(pod)},
				Egresses:       []gateway.Egress{{Address: external(family, 1), Uplink: 2, Sources: []netip.Addr{pod, other}}},
			}
			tracer := refusing(state, family)
			opened := firstPacket(family, pod, client, protocol, 80)
			opened.In, opened.Route = "eth2", byMark(family, state)
			goesOn := opened
			goesOn.State, goesOn.ConnMark = packet.Established, own.Forwarded().Value
			for name, p := range map[string]packet.Packet{"first": opened, "later": goesOn} {
				got := tracer.Trace(p)
				if got.Verdict != packet.Accept || got.Out != "eth2" || got.Packet.ConnMark != own.Forwarded().Value {
					t.Errorf("%s packet by %s: verdict %s by %s, connection marked %#x; want eth2 and mark %#x",
						name, protocol, got.Verdict, got.Out, got.Packet.ConnMark, own.Forwarded().Value)
				}
				if want := external(family, 1); name == "first" && got.Packet.Source.Addr() != want {
					t.Errorf("it leaves as %s, want %s", got.Packet.Source, want)
				}
			}
			answer := opened
			answer.Source, answer.Destination = answer.Destination, answer.Source
			answer.State, answer.Direction, answer.ConnMark = packet.Established|packet.SNAT, packet.Reply, own.Forwarded().Value
			if got := tracer.Trace(answer); got.Verdict != packet.Accept || got.Packet.Mark != 0 {
				t.Errorf("answer: verdict %s, mark %#x; want it accepted and routed by the main table", got.Verdict, got.Packet.Mark)
			}
			opened.Source = netip.AddrPortFrom(other, 40000)
			if got := tracer.Trace(opened); got.Verdict != packet.Drop || got.Packet.Mark != 0 {
				t.Errorf("from a pod of another network: verdict %s, mark %#x; want it dropped", got.Verdict, got.Packet.Mark)
			}
		}
	}
}
