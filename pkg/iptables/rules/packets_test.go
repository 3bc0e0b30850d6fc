// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// randomState returns a state with all features of Forwards, crowded so that ranges and trees overlap.
func randomState(random *rand.Rand, family gateway.Family) gateway.State {
	state := gateway.State{Uplinks: uplinks[:random.IntN(3)]}
	protocols := []gateway.Protocol{gateway.SCTP, gateway.TCP, gateway.UDP}
	for a := range random.IntN(20) {
		for _, protocol := range protocols[random.IntN(3):] {
			span := 1 << random.IntN(12)
			port := 1 + random.IntN(60000)
			for range random.IntN(60) {
				last := port
				if random.IntN(8) == 0 {
					last = port + random.IntN(span)
				}
				if last > 65535 {
					break
				}
				f := forward(family, a, protocol, uint16(port), uint16(last), backends(family, random.IntN(5), uint16(1+random.IntN(60000))))
				if random.IntN(20) == 0 {
					f.Backends = backends(family, leafRules+random.IntN(100), f.Ports.First)
				}
				if random.IntN(4) == 0 {
					f.Affinity = 3 * time.Hour
				}
				if random.IntN(4) == 0 {
					f.Draining = []gateway.Backend{{Address: inside(family, 0x1000), Port: 80}}
				}
				f.Masquerade, f.Shift = random.IntN(4) > 0, random.IntN(2) == 0
				for i := range random.IntN(3) {
					f.Sources = append(f.Sources, source(family, i))
				}
				f.SourcesDeny = random.IntN(16) == 0
				if f.SourcesDeny {
					f.Sources = nil
				}
				f.Owner = fmt.Sprintf("default/mapping-%d", random.IntN(3))
				state.Forwards = append(state.Forwards, f)
				if port = last + 1 + random.IntN(max(span/16, 1)); port > 65535 {
					break
				}
			}
		}
	}
	state.Forwards = gatewaytest.Sort(state.Forwards)
	if some := masqueraded(family).MasqueradeAddresses; random.IntN(2) == 0 {
		state.MasqueradeAddresses = some[random.IntN(len(some)):]
	}
	for pod := 1; len(state.Uplinks) > 0 && pod < 60; pod++ {
		if random.IntN(3) == 0 {
			continue
		}
		if n := len(state.Egresses); n == 0 || random.IntN(8) == 0 {
			state.Egresses = append(state.Egresses, gateway.Egress{
				Address: external(family, n), Uplink: 1 + random.IntN(len(state.Uplinks)), Owner: fmt.Sprintf("default/mapping-%d", n),
			})
		}
		last := &state.Egresses[len(state.Egresses)-1]
		last.Sources = append(last.Sources, inside(family, pod))
	}
	if state.MasqueradeRemote = random.IntN(2) == 0; state.MasqueradeRemote {
		for pod := range 40 {
			if random.IntN(2) == 0 {
				state.LocalBackends = append(state.LocalBackends, inside(family, pod))
			}
		}
	}
	return state
}

// firstPacket returns a first packet from outside, by the first uplink. The host has the external addresses itself.
func firstPacket(family gateway.Family, from netip.Addr, to netip.Addr, protocol gateway.Protocol, port uint16) packet.Packet {
	return packet.Packet{
		In: "eth1", Protocol: protocol, State: packet.New, Direction: packet.Original,
		Source: netip.AddrPortFrom(from, 40000), Destination: netip.AddrPortFrom(to, port),
		Route: func(destination netip.Addr, _ uint32) string {
			if netip.PrefixFrom(inside(family, 0), destination.BitLen()-16).Contains(destination) {
				return "eth0"
			}
			return ""
		},
	}
}

// pick makes the n-th random match succeed, which selects the n-th backend.
func pick(n int) func(uint32) bool {
	return func(uint32) bool {
		n--
		return n == -1
	}
}

// sharedBy returns the masquerade addresses of a link.
func sharedBy(state gateway.State, link string, ipv6 bool) []netip.Addr {
	var addresses []netip.Addr
	for _, l := range state.MasqueradeAddresses {
		for _, a := range l.Addresses {
			if l.Link == link && a.Is6() == ipv6 {
				addresses = append(addresses, a)
			}
		}
	}
	return addresses
}

// judge checks the outcome of a packet by searching the forwards one by one. backend is the index of the random choice or, if
// the client returns, of its last backend.
func judge(t *testing.T, state gateway.State, p packet.Packet, backend int, returns bool, got packet.Trace) {
	t.Helper()
	own := options.Ownership
	i := slices.IndexFunc(state.Forwards, func(f *gateway.Forward) bool {
		return f.Address == p.Destination.Addr() && f.Protocol == p.Protocol && f.Ports.Contains(p.Destination.Port())
	})
	uplink := slices.IndexFunc(state.Uplinks, func(u gateway.Uplink) bool { return u.Link == p.In })
	want := packet.Trace{Verdict: packet.Accept, Packet: packet.Packet{Destination: p.Destination}}
	marks, from := uint32(0), []netip.Addr{p.Source.Addr()}
	if i >= 0 {
		f := state.Forwards[i]
		allowed := len(f.Sources) == 0 || slices.ContainsFunc(f.Sources, func(s netip.Prefix) bool { return s.Contains(p.Source.Addr()) })
		switch {
		case f.SourcesDeny || !allowed:
			want.Verdict = packet.Drop
		case len(f.Backends) == 0:
			want.Verdict = packet.Reject
		default:
			b := f.Backends[min(backend, len(f.Backends)-1)]
			if !returns && len(f.Backends) > groupSize {
				b = anyOf(f.Backends, got.Packet.Destination.Addr())
			}
			if f.Affinity > 0 && len(f.Backends) > 1 {
				want.Remembered = []string{clients(b)}
			}
			port := b.Port
			if f.Shift {
				port += p.Destination.Port() - f.Ports.First
			}
			want.Packet.Destination = netip.AddrPortFrom(b.Address, port)
			remote := state.MasqueradeRemote && !slices.Contains(state.LocalBackends, b.Address)
			want.Out, want.Masqueraded = "eth0", f.Masquerade || uplink < 0 || remote
			marks = own.Forwarded().Value
			if want.Masqueraded {
				marks |= own.Masquerade().Value
				if shared := sharedBy(state, want.Out, p.Source.Addr().Is6()); len(shared) > 0 {
					want.Masqueraded, from = false, shared
				}
			}
		}
	}
	if got.Verdict != want.Verdict || got.Packet.Destination != want.Packet.Destination || got.Out != want.Out || got.Masqueraded != want.Masqueraded {
		t.Fatalf("%s to %s/%s: got verdict %s to %s by %q, masqueraded %t; want %s, %s, %q, %t\n%+v",
			p.Source, p.Destination, p.Protocol, got.Verdict, got.Packet.Destination, got.Out, got.Masqueraded,
			want.Verdict, want.Packet.Destination, want.Out, want.Masqueraded, got.Steps)
	}
	if uplink >= 0 {
		marks |= own.Uplink(state.Uplinks[uplink].Number).Value
	}
	if got.Packet.ConnMark != marks || got.Packet.Source.Port() != p.Source.Port() || !slices.Contains(from, got.Packet.Source.Addr()) || !slices.Equal(got.Remembered, want.Remembered) {
		t.Fatalf("%s to %s/%s: connection marked %#x, now from %s, remembered by %q; want %#x, %s, %q",
			p.Source, p.Destination, p.Protocol, got.Packet.ConnMark, got.Packet.Source, got.Remembered, marks, from, want.Remembered)
	}
}

// anyOf returns the backend with this address, or a zero one.
func anyOf(backends []gateway.Backend, address netip.Addr) gateway.Backend {
	if i := slices.IndexFunc(backends, func(b gateway.Backend) bool { return b.Address == address }); i >= 0 {
		return backends[i]
	}
	return gateway.Backend{}
}

// clients names the client list of an endpoint of the Service default/echo.
func clients(b gateway.Backend) string { return "SMARTNAT-MCUJOUQUNJ-" + b.Address.String() }

func TestPacketsGoWhereTheStateSays(t *testing.T) {
	for seed := range uint64(8) {
		for _, family := range families {
			t.Run(fmt.Sprintf("%d/IPv%d", seed, family), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				state := randomState(random, family)
				rs := Build(state, family, options)
				check(t, rs)
				tracer := ruleset.NewTracer(rs)
				for _, f := range state.Forwards {
					for _, port := range []int{int(f.Ports.First) - 1, int(f.Ports.First), int(f.Ports.First+f.Ports.Last) / 2, int(f.Ports.Last), int(f.Ports.Last) + 1} {
						from := source(family, random.IntN(3)).Addr().Next()
						backend := random.IntN(4)
						p := firstPacket(family, from, f.Address, f.Protocol, uint16(min(port, 65535)))
						p.In = []string{"eth1", "eth1", "eth2", "eth0", ""}[random.IntN(5)]
						judge(t, state, p, backend, false, tracer.Choosing(pick(backend)).Trace(p))
					}
					if f.Affinity == 0 || len(f.Backends) < 2 {
						continue
					}
					p := firstPacket(family, source(family, 0).Addr(), f.Address, f.Protocol, f.Ports.First)
					backend := random.IntN(len(f.Backends))
					recent := func(list string, seconds uint32) bool {
						return list == clients(f.Backends[backend]) && seconds == 10800
					}
					judge(t, state, p, backend, true, tracer.Remembering(recent).Trace(p))
				}
			})
		}
	}
}

func TestAnyPathLeadsToTheSameRules(t *testing.T) {
	for _, family := range families {
		t.Run(fmt.Sprintf("IPv%d", family), func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, 7))
			var kernel ruleset.Ruleset
			for step := range 40 {
				var want ruleset.Ruleset
				state := randomState(random, family)
				if step%10 > 0 {
					want = Build(state, family, options)
				}
				kernel = ruleset.Apply(kernel, ruleset.Diff(kernel, want, options.Ownership.ChainPrefix))
				if left := ruleset.Diff(kernel, want, options.Ownership.ChainPrefix); !left.Empty() {
					t.Fatalf("step %d leaves differences:\n%s", step, left.Text())
				}
				fresh := ruleset.Apply(ruleset.Ruleset{}, ruleset.Diff(ruleset.Ruleset{}, want, options.Ownership.ChainPrefix))
				if got, want := string(ruleset.Render(kernel)), string(ruleset.Render(fresh)); step%10 > 0 && got != want {
					t.Fatalf("the rules after step %d differ from those of a fresh start", step)
				}
			}
		})
	}
}

func TestBoundary(t *testing.T) {
	const forwarded, uplink1, uplink2 = 0x10, 0x100, 0x200
	pod := netip.AddrPortFrom(inside(gateway.IPv4, 1), 8080)
	client := netip.AddrPortFrom(source(gateway.IPv4, 0).Addr(), 40000)
	to := func(link string) func(netip.Addr, uint32) string {
		return func(netip.Addr, uint32) string { return link }
	}
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
			tracer := ruleset.NewTracer(Build(gateway.State{Uplinks: uplinks, Outside: []string{"br-wan"}, InsideNetworks: []netip.Prefix{
				netip.PrefixFrom(inside(gateway.IPv4, 1<<12), 20),
			}}, gateway.IPv4, options))
			got := tracer.Trace(tc.packet)
			if got.Verdict != tc.verdict || got.Packet.Mark != tc.mark {
				t.Errorf("verdict %s, mark %#x; want %s, %#x\n%+v", got.Verdict, got.Packet.Mark, tc.verdict, tc.mark, got.Steps)
			}
		})
	}
}

// TestFlowsFollowTheirUplink sends packets of known connections by another link than the first packet.
func TestFlowsFollowTheirUplink(t *testing.T) {
	own := options.Ownership
	for _, family := range families {
		pod, node := inside(family, 20), inside(family, 30)
		state := gateway.State{
			Uplinks: uplinks, InsideNetworks: []netip.Prefix{netip.PrefixFrom(node, node.BitLen())},
			Forwards: []*gateway.Forward{forward(family, 1, gateway.UDP, 53, 53, backends(family, 1, 53))},
			Egresses: []gateway.Egress{{Address: external(family, 1), Uplink: 1, Sources: []netip.Addr{pod}}},
		}
		tracer := ruleset.NewTracer(Build(state, family, options))
		client, backend := source(family, 0).Addr(), state.Forwards[0].Backends[0].Address
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

// TestForwardedOnly expects that ForwardedOnly exempts connections of the host itself and nothing else.
func TestForwardedOnly(t *testing.T) {
	for _, family := range families {
		for _, only := range []bool{false, true} {
			state := gateway.State{Uplinks: uplinks, ForwardedOnly: only, Forwards: []*gateway.Forward{
				forward(family, 1, gateway.TCP, 80, 80, backends(family, 2, 8080)),
			}}
			tracer := ruleset.NewTracer(Build(state, family, options))
			f := state.Forwards[0]
			outside := firstPacket(family, source(family, 0).Addr(), f.Address, f.Protocol, 80)
			judge(t, state, outside, 0, false, tracer.Choosing(pick(0)).Trace(outside))
			host := firstPacket(family, f.Address, f.Address, f.Protocol, 80)
			host.In = ""
			got := tracer.Choosing(pick(0)).Trace(host)
			if translated := got.Packet.Destination != host.Destination; translated == only || got.Verdict != packet.Accept {
				t.Errorf("IPv%d, forwarded only %t: from the host to %s, verdict %s", family, only, got.Packet.Destination, got.Verdict)
			}
		}
	}
}

// TestNothingOfOursLeavesByAnUplink expects that connections stay inside for every backend and every route.
func TestNothingOfOursLeavesByAnUplink(t *testing.T) {
	own := options.Ownership
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
			p := firstPacket(family, source(family, 0).Addr(), f.Address, gateway.TCP, 80)
			p.Route = func(netip.Addr, uint32) string { return tc.out }
			tc.change(&p)
			if got := ruleset.NewTracer(Build(tc.state, family, options)).Trace(p); got.Verdict != tc.verdict {
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
		pod, client := inside(family, 1), source(family, 0).Addr()
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
			if got := ruleset.NewTracer(Build(tc.state, family, options)).Trace(p); got.Verdict != tc.verdict {
				t.Errorf("IPv%d, %s: verdict %s, want %s\n%+v", family, tc.name, got.Verdict, tc.verdict, got.Steps)
			}
		}
	}
}

// TestMasqueradeAddressesCost expects that a masqueraded packet meets one rule for each address, and none more for other ports.
func TestMasqueradeAddressesCost(t *testing.T) {
	for _, family := range families {
		for _, ports := range []gateway.PortRange{{}, {First: 1024, Last: 65535}} {
			state := gateway.State{Uplinks: uplinks, MasqueradePorts: ports, Forwards: []*gateway.Forward{
				forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080)),
			}}
			first := firstPacket(family, source(family, 0).Addr(), external(family, 1), gateway.TCP, 80)
			without := ruleset.NewTracer(Build(state, family, options)).Trace(first)
			want := without.Rules
			if ports == (gateway.PortRange{}) {
				want++ // the jump to the chain
			}
			for n := 1; n <= 16; n++ {
				state.MasqueradeAddresses = []gateway.LinkAddresses{{Link: "eth0", Addresses: shared(family, 0, n)}, {Link: "eth3", Addresses: shared(family, 1, n)}}
				with := ruleset.NewTracer(Build(state, family, options)).Trace(first)
				if with.Rules != want+n || with.Masqueraded || !slices.Contains(shared(family, 0, n), with.Packet.Source.Addr()) {
					t.Errorf("%d addresses: %d rules to %s, masqueraded %t; %d rules without addresses", n, with.Rules, with.Packet.Source, with.Masqueraded, without.Rules)
				}
			}
		}
	}
}

// TestMasqueradeAddressesShareEvenly expects that each address gets the same share.
func TestMasqueradeAddressesShareEvenly(t *testing.T) {
	for _, family := range families {
		for n := 1; n <= 16; n++ {
			state := masqueraded(family)
			state.MasqueradeAddresses = []gateway.LinkAddresses{{Link: "eth0", Addresses: shared(family, 0, n)}}
			shares := map[netip.Addr]float64{}
			for trace := range ruleset.NewTracer(Build(state, family, options)).Outcomes(firstPacket(family, source(family, 0).Addr(), external(family, 1), gateway.TCP, 80)) {
				shares[trace.Packet.Source.Addr()] += trace.Probability
			}
			for _, a := range shared(family, 0, n) {
				if share := shares[a]; math.Abs(share*float64(n)-1) > 1e-6 || len(shares) != n {
					t.Errorf("%d addresses: %s gets %f, all are %v", n, a, share, shares)
				}
			}
		}
	}
}
