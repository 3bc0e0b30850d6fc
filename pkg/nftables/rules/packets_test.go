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

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

func tracer(state gateway.State, family gateway.Family) *ruleset.Tracer {
	return ruleset.NewTracer(Build(state, family, ownership), "smartnat", BridgedMark(ownership))
}

// firstPacket returns a first packet from outside, by the first uplink. The host has the external addresses itself.
func firstPacket(family gateway.Family, from, to netip.Addr, protocol gateway.Protocol, port uint16) packet.Packet {
	return packet.Packet{
		In: "eth1", Protocol: protocol, State: packet.New, Direction: packet.Original, SYN: protocol == gateway.TCP,
		Source: netip.AddrPortFrom(from, 40000), Destination: netip.AddrPortFrom(to, port),
		Route: func(destination netip.Addr, _ uint32) string {
			if pods(family).Contains(destination) {
				return "eth0"
			}
			return ""
		},
	}
}

func to(link string) func(netip.Addr, uint32) string {
	return func(netip.Addr, uint32) string { return link }
}

// outcome is what a test expects of a first packet.
type outcome struct {
	Verdict     packet.Verdict
	RejectWith  string
	Source      netip.Addr
	Destination netip.AddrPort
	Out         string
	Masqueraded bool
	ConnMark    uint32
	// Remembered means that one list of clients records the source.
	Remembered bool
}

// outcomes adds up the probability of each outcome.
func outcomes(t *testing.T, tracer *ruleset.Tracer, p packet.Packet) map[outcome]float64 {
	t.Helper()
	all := map[outcome]float64{}
	for trace := range tracer.Outcomes(p) {
		if len(trace.Remembered) > 1 || trace.LoopDetected || trace.Packet.Source.Port() != p.Source.Port() {
			t.Errorf("%s to %s: remembered by %q, loop %t, now from %s", p.Source, p.Destination, trace.Remembered, trace.LoopDetected, trace.Packet.Source)
		}
		all[outcome{
			trace.Verdict, trace.RejectWith, trace.Packet.Source.Addr(), trace.Packet.Destination, trace.Out, trace.Masqueraded, trace.Packet.ConnMark, len(trace.Remembered) == 1,
		}] += trace.Probability
	}
	return all
}

// expected searches the Forwards one by one for the outcomes of a packet.
func expected(state gateway.State, p packet.Packet) map[outcome]float64 {
	mark := uint32(0)
	uplink := slices.IndexFunc(state.Uplinks, func(u gateway.Uplink) bool { return u.Link == p.In })
	if uplink >= 0 {
		mark = ownership.Uplink(state.Uplinks[uplink].Number).Value
	}
	i := slices.IndexFunc(state.Forwards, func(f *gateway.Forward) bool {
		return f.Address == p.Destination.Addr() && f.Protocol == p.Protocol && f.Ports.Contains(p.Destination.Port())
	})
	if i < 0 || p.In == "" && state.ForwardedOnly {
		return map[outcome]float64{{Verdict: packet.Accept, Source: p.Source.Addr(), Destination: p.Destination, ConnMark: mark}: 1}
	}
	f := state.Forwards[i]
	if f.SourcesDeny || len(f.Sources) > 0 && !slices.ContainsFunc(f.Sources, func(s netip.Prefix) bool { return s.Contains(p.Source.Addr()) }) {
		return map[outcome]float64{{Verdict: packet.Drop, Source: p.Source.Addr(), Destination: p.Destination, ConnMark: mark}: 1}
	}
	if len(f.Backends) == 0 {
		answer := "icmp-port-unreachable"
		switch {
		case p.Protocol == gateway.TCP:
			answer = "tcp-reset"
		case p.Destination.Addr().Is6():
			answer = "icmp6-port-unreachable"
		}
		return map[outcome]float64{{Verdict: packet.Reject, RejectWith: answer, Source: p.Source.Addr(), Destination: p.Destination, ConnMark: mark}: 1}
	}
	all := map[outcome]float64{}
	mark |= ownership.Forwarded().Value
	for _, b := range f.Backends {
		mark := mark
		remote := state.MasqueradeRemote && !slices.Contains(state.LocalBackends, b.Address)
		masqueraded := f.Masquerade || uplink < 0 || remote
		if masqueraded {
			mark |= ownership.Masquerade().Value
		}
		sources := sharedBy(state, "eth0", p.Source.Addr().Is6())
		toHost := masqueraded && len(sources) == 0
		if !masqueraded || toHost {
			sources = []netip.Addr{p.Source.Addr()}
		}
		port := b.Port
		if f.Shift {
			port += p.Destination.Port() - f.Ports.First
		}
		for _, from := range sources {
			all[outcome{
				Verdict: packet.Accept, Source: from, Destination: netip.AddrPortFrom(b.Address, port), Out: "eth0", Masqueraded: toHost, ConnMark: mark,
				Remembered: f.Affinity > 0 && len(f.Backends) > 1,
			}] += 1 / float64(len(f.Backends)*len(sources))
		}
	}
	return all
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

// judge compares all outcomes of a packet with those that the state wants.
func judge(t *testing.T, state gateway.State, tracer *ruleset.Tracer, p packet.Packet) {
	t.Helper()
	state = decided(t, state, tracer, p)
	if diff := cmp.Diff(expected(state, p), outcomes(t, tracer, p), cmpopts.EquateApprox(0, 1e-9), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Fatalf("%s to %s/%s by %q (-want +got):\n%s%+v", p.Source, p.Destination, p.Protocol, p.In, diff, tracer.Trace(p).Steps)
	}
}

// decided returns a state in which the Consistent Forward for a packet has only the Backend that the packet reaches.
func decided(t *testing.T, state gateway.State, tracer *ruleset.Tracer, p packet.Packet) gateway.State {
	t.Helper()
	f := gateway.FindForward(state.Forwards, p.Protocol, p.Destination)
	trace := tracer.Trace(p)
	if f == nil || !consistent(f) || trace.Verdict != packet.Accept || trace.Packet.Destination == p.Destination {
		return state
	}
	i := slices.IndexFunc(f.Backends, func(b gateway.Backend) bool {
		if f.Shift {
			b.Port += p.Destination.Port() - f.Ports.First
		}
		return netip.AddrPortFrom(b.Address, b.Port) == trace.Packet.Destination
	})
	if i < 0 {
		t.Fatalf("%s to %s reaches %s, which is no Backend", p.Source, p.Destination, trace.Packet.Destination)
	}
	state.Forwards = slices.Clone(state.Forwards)
	state.Forwards[slices.Index(state.Forwards, f)] = with(f, func(f *gateway.Forward) { f.Backends = f.Backends[i : i+1] })
	return state
}

// returns expects that a client which an endpoint's list remembers reaches that endpoint and no other.
func returns(t *testing.T, tracer *ruleset.Tracer, p packet.Packet) {
	t.Helper()
	for last := range tracer.Outcomes(p) {
		if len(last.Remembered) == 0 {
			return
		}
		remembers := tracer.Remembering(func(set string) bool { return slices.Contains(last.Remembered, set) })
		all := 0.0
		for again := range remembers.Outcomes(p) {
			all += again.Probability
			if again.Packet.Destination != last.Packet.Destination || !slices.Equal(again.Remembered, last.Remembered) {
				t.Fatalf("%s to %s: %s, remembered by %q, after %s, %q", p.Source, p.Destination, again.Packet.Destination, again.Remembered, last.Packet.Destination, last.Remembered)
			}
		}
		if math.Abs(all-1) > 1e-9 {
			t.Fatalf("%s to %s: a probability of %f in all", p.Source, p.Destination, all)
		}
	}
}

func TestPacketsGoWhereTheStateSays(t *testing.T) {
	for seed := range uint64(12) {
		for _, family := range families {
			t.Run(fmt.Sprintf("%d/IPv%d", seed, family), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				state := randomState(random, family)
				tracer := tracer(state, family)
				for _, f := range state.Forwards {
					for _, port := range []int{int(f.Ports.First) - 1, int(f.Ports.First), (int(f.Ports.First) + int(f.Ports.Last)) / 2, int(f.Ports.Last), int(f.Ports.Last) + 1} {
						p := firstPacket(family, client(family, random.IntN(48)), f.Address, f.Protocol, uint16(port))
						p.In = []string{"eth1", "eth1", "eth2", "eth0", ""}[random.IntN(5)]
						judge(t, state, tracer, p)
						returns(t, tracer, p)
					}
				}
			})
		}
	}
}

// TestScenarioPackets sends packets to the ports of the scenarios and next to them, from clients around the ends of sources.
func TestScenarioPackets(t *testing.T) {
	for _, family := range families {
		for _, tc := range scenarios {
			t.Run(fmt.Sprintf("%s/IPv%d", tc.name, family), func(t *testing.T) {
				state := tc.state(family)
				tracer := tracer(state, family)
				for _, f := range state.Forwards {
					for _, port := range []uint16{f.Ports.First - 1, f.Ports.First, f.Ports.First + 1, f.Ports.First/2 + f.Ports.Last/2, f.Ports.Last, f.Ports.Last + 1} {
						for _, n := range []int{1, 31, 32, 127, 128, 143, 144} {
							p := firstPacket(family, client(family, n), f.Address, f.Protocol, port)
							judge(t, state, tracer, p)
							p.In, p.Source = "eth0", netip.AddrPortFrom(inside(family, 0x300+n), 40000)
							judge(t, state, tracer, p)
						}
					}
				}
			})
		}
	}
}

// TestAffinityAcrossPorts expects that a client of one port returns to the same pod by another port, protocol and external
// address of the Service, but that another Service decides by itself.
func TestAffinityAcrossPorts(t *testing.T) {
	for _, family := range families {
		stays := func(f *gateway.Forward) { f.Affinity = time.Hour }
		http := with(forward(family, 1, gateway.TCP, 80, 80, backends(family, 3, 8080)), stays)
		related := []*gateway.Forward{
			with(forward(family, 1, gateway.TCP, 443, 443, backends(family, 3, 8443)), stays),
			with(forward(family, 1, gateway.UDP, 443, 443, backends(family, 3, 8443)), stays),
			with(forward(family, 2, gateway.TCP, 80, 80, backends(family, 3, 8080)), func(f *gateway.Forward) { f.Affinity, f.Masquerade = time.Hour, false }),
			with(forward(family, 3, gateway.TCP, 80, 80, backends(family, 3, 8080)), func(f *gateway.Forward) { f.Affinity = 2 * time.Hour }),
			with(forward(family, 4, gateway.UDP, 5000, 5099, backends(family, 3, 6000)), func(f *gateway.Forward) { f.Affinity, f.Shift = time.Hour, true }),
			with(forward(family, 4, gateway.TCP, 5000, 5099, backends(family, 3, 6000)), stays),
		}
		other := with(forward(family, 9, gateway.TCP, 80, 80, backends(family, 3, 8080)), func(f *gateway.Forward) { f.Affinity, f.Service = time.Hour, "default/other" })
		tracer := tracer(stateOf(append(related, http, other)...), family)
		packetTo := func(f *gateway.Forward) packet.Packet {
			return firstPacket(family, client(family, 1), f.Address, f.Protocol, f.Ports.First)
		}
		for last := range tracer.Outcomes(packetTo(http)) {
			remembers := tracer.Remembering(func(set string) bool { return slices.Contains(last.Remembered, set) })
			for _, f := range related {
				got := remembers.Trace(packetTo(f))
				if got.Packet.Destination.Addr() != last.Packet.Destination.Addr() || got.Probability != 1 || !slices.Equal(got.Remembered, last.Remembered) {
					t.Errorf("%s after %s: to %s with probability %g, remembered by %q instead of %q", f.Frontend, last.Packet.Destination,
						got.Packet.Destination, got.Probability, got.Remembered, last.Remembered)
				}
			}
			if got := remembers.Trace(packetTo(other)); got.Probability == 1 || slices.Equal(got.Remembered, last.Remembered) {
				t.Errorf("%s follows the clients of another Service", other.Frontend)
			}
		}
	}
}

// TestForwardedOnly expects that ForwardedOnly exempts connections of the host itself and nothing else.
func TestForwardedOnly(t *testing.T) {
	for _, family := range families {
		for _, only := range []bool{false, true} {
			state := stateOf(forward(family, 1, gateway.TCP, 80, 80, backends(family, 2, 8080)))
			state.ForwardedOnly = only
			p := firstPacket(family, external(family, 1), external(family, 1), gateway.TCP, 80)
			judge(t, state, tracer(state, family), p)
			p.In = ""
			judge(t, state, tracer(state, family), p)
		}
	}
}

// TestExpectedConnection expects that a connection which begins with the mark of its parent is not taken for one of a Mapping.
func TestExpectedConnection(t *testing.T) {
	for _, family := range families {
		p := firstPacket(family, client(family, 1), external(family, 1), gateway.TCP, 2000)
		p.ConnMark = forwardedMark(ownership).Value
		if got := tracer(host(family), family).Trace(p); got.Packet.ConnMark != ownership.Uplink(1).Value || got.Masqueraded {
			t.Errorf("IPv%d: marked %#x, masqueraded %t", family, got.Packet.ConnMark, got.Masqueraded)
		}
	}
}

// TestRulesOfPackets counts the rules that packets meet. The figures are exact, so that each change of them is intended.
func TestRulesOfPackets(t *testing.T) {
	for _, family := range families {
		for _, ports := range []int{1, 100, 10000} {
			var forwards []*gateway.Forward
			for i := range ports {
				forwards = append(forwards, forward(family, 1, gateway.TCP, uint16(1+i), uint16(1+i), backends(family, 3, 8080)))
			}
			tracer := tracer(gateway.State{Uplinks: uplinks, Forwards: gatewaytest.Sort(forwards)}, family)
			p := firstPacket(family, client(family, 1), external(family, 1), gateway.TCP, uint16(ports))
			for trace := range tracer.Outcomes(p) {
				if trace.Rules != 12 || trace.Verdict != packet.Accept || trace.Out != "eth0" {
					t.Errorf("IPv%d, %d ports: the first packet meets %d rules, %s by %s, want 12", family, ports, trace.Rules, trace.Verdict, trace.Out)
				}
			}
			later := p
			later.SYN, later.State, later.ConnMark = false, packet.Established|packet.DNAT, 0x130
			later.Destination = netip.AddrPortFrom(inside(family, 1), 8080)
			reply := later
			reply.In, reply.Direction, reply.Route = "eth0", packet.Reply, to("eth1")
			reply.Source, reply.Destination = later.Destination, p.Source
			if got := tracer.Trace(later); got.Rules != 6 || got.Verdict != packet.Accept {
				t.Errorf("IPv%d, %d ports: a later packet meets %d rules, %s, want 6: %+v", family, ports, got.Rules, got.Verdict, got.Steps)
			}
			if got := tracer.Trace(reply); got.Rules != 4 || got.Verdict != packet.Accept || got.Packet.Mark != ownership.Uplink(1).Value {
				t.Errorf("IPv%d, %d ports: a reply meets %d rules, %s, mark %#x, want 4: %+v", family, ports, got.Rules, got.Verdict, got.Packet.Mark, got.Steps)
			}
		}
	}
}

// TestMasqueradeAddressesCostOneRule compares the rules that a masqueraded packet meets with and without addresses for its link.
func TestMasqueradeAddressesCostOneRule(t *testing.T) {
	for _, family := range families {
		for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP} {
			for _, ports := range []gateway.PortRange{{}, {First: 1024, Last: 65535}} {
				state := stateOf(forward(family, 1, p, 80, 80, backends(family, 1, 8080)))
				state.MasqueradePorts = ports
				first := firstPacket(family, client(family, 1), external(family, 1), p, 80)
				without := tracer(state, family).Trace(first)
				for n := 1; n <= 16; n++ {
					state.MasqueradeAddresses = []gateway.LinkAddresses{{Link: "eth0", Addresses: shared(family, 0, n)}, {Link: "eth3", Addresses: shared(family, 1, n)}}
					with := tracer(state, family).Trace(first)
					if with.Rules != without.Rules+1 || with.Masqueraded || !slices.Contains(shared(family, 0, n), with.Packet.Source.Addr()) {
						t.Errorf("%s to %d addresses: %d rules to %s, masqueraded %t; %d rules without addresses", p, n, with.Rules, with.Packet.Source, with.Masqueraded, without.Rules)
					}
				}
			}
		}
	}
}
