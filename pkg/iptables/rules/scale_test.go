// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// dense returns one address with this number of adjacent ports, each with three endpoints.
func dense(ports int) gateway.State {
	state := gateway.State{Uplinks: uplinks}
	for i := range ports {
		f := forward(gateway.IPv4, 1, gateway.TCP, uint16(1+i), uint16(1+i), backends(gateway.IPv4, 3, 8080))
		f.Owner = fmt.Sprintf("default/echo-%d", i)
		state.Forwards = append(state.Forwards, f)
	}
	return state
}

// tens returns one address with this number of ports. Each ten of them translate to the same port of three endpoints.
func tens(ports int) gateway.State {
	state := dense(ports)
	for i, f := range state.Forwards {
		f.Owner = fmt.Sprintf("default/echo-%d", i/10)
		f.Backends = nil
		for n := range 3 {
			f.Backends = append(f.Backends, gateway.Backend{Address: inside(gateway.IPv4, 3*(i/10)+n), Port: 8000})
		}
	}
	return state
}

// cost is the cost of a set of rules. The tests expect exact figures, so that each change of them is visible and intended.
type cost struct {
	Chains, Rules, Bytes int
	// Best, Worst and Mean are the number of rules that a first packet meets, in all tables, over all ports and endpoints.
	Best, Worst int
	Mean        string
}

// withAll enables everything that adds rules for first packets, and adds many pods that leave.
func withAll(state gateway.State) gateway.State {
	state.ClampMSS = true
	for n := range 4 {
		e := gateway.Egress{Address: external(gateway.IPv4, n), Uplink: 1 + n%2}
		for i := range 50 {
			e.Sources = append(e.Sources, inside(gateway.IPv4, 1+50*n+i))
		}
		state.Egresses = append(state.Egresses, e)
	}
	return state
}

// size returns the cost of writing a batch.
func size(batch ruleset.Batch) cost {
	return cost{Chains: batch.Chains(), Rules: batch.Rules(), Bytes: len(batch.Text())}
}

func measure(t *testing.T, state gateway.State) cost {
	t.Helper()
	rs := Build(state, gateway.IPv4, options)
	c := size(ruleset.Diff(ruleset.Ruleset{}, rs, options.Ownership.ChainPrefix))
	c.Best = c.Rules
	tracer := ruleset.NewTracer(rs)
	sum, packets := 0, 0
	for _, f := range state.Forwards {
		for n := range f.Backends {
			p := firstPacket(gateway.IPv4, source(gateway.IPv4, 0).Addr(), f.Address, f.Protocol, f.Ports.First)
			trace := tracer.Choosing(pick(n)).Trace(p)
			judge(t, gateway.State{Uplinks: state.Uplinks, Forwards: []*gateway.Forward{f}}, p, n, false, trace)
			c.Best, c.Worst = min(c.Best, trace.Rules), max(c.Worst, trace.Rules)
			sum += trace.Rules
			packets++
		}
	}
	c.Mean = fmt.Sprintf("%.1f", float64(sum)/float64(packets))
	return c
}

func TestCost(t *testing.T) {
	for _, tc := range []struct {
		name  string
		state gateway.State
		want  cost
	}{
		{"10", dense(10), cost{Chains: 18, Rules: 79, Bytes: 7647, Best: 17, Mean: "22.3", Worst: 29}},
		{"1000", dense(1000), cost{Chains: 266, Rules: 3297, Bytes: 463936, Best: 22, Mean: "29.5", Worst: 35}},
		{"10000", dense(10000), cost{Chains: 2516, Rules: 32547, Bytes: 4655681, Best: 21, Mean: "33.1", Worst: 39}},
		{"10000 with all", withAll(dense(10000)), cost{Chains: 2571, Rules: 33010, Bytes: 4693937, Best: 25, Mean: "37.1", Worst: 43}},
		{"10 in tens", tens(10), cost{Chains: 16, Rules: 50, Bytes: 3646, Best: 16, Mean: "17.0", Worst: 18}},
		{"1000 in tens", tens(1000), cost{Chains: 46, Rules: 467, Bytes: 64560, Best: 20, Mean: "26.8", Worst: 35}},
		{"10000 in tens", tens(10000), cost{Chains: 328, Rules: 4295, Bytes: 634517, Best: 20, Mean: "30.4", Worst: 39}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := measure(t, tc.state)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			// Three of them are in filter FORWARD: one for replies and one for each of the two uplinks. iptables matches one link
			// at a time, and each packet of a client is checked, because a route may change while the connection exists. Replies,
			// which carry most bytes, meet the first rule (TestCostOfEstablishedPackets).
			if got.Worst > 43 {
				t.Errorf("%d rules met, want at most 43", got.Worst)
			}
		})
	}
}

// TestCostOfManyPorts builds many ports without writing them.
func TestCostOfManyPorts(t *testing.T) {
	for _, tc := range []struct {
		ports int
		want  cost
	}{
		{30000, cost{Chains: 949, Rules: 12772, Bytes: 1923618}},
		{100000, cost{Chains: 3138, Rules: 42526, Bytes: 6428701}},
	} {
		t.Run(fmt.Sprint(tc.ports), func(t *testing.T) {
			var state gateway.State
			for a, left := 0, tc.ports; left > 0; a++ {
				n := min(left, 50000)
				for _, f := range tens(n).Forwards {
					f.Address = external(gateway.IPv4, a)
					state.Forwards = append(state.Forwards, f)
				}
				left -= n
			}
			got := size(ruleset.Diff(ruleset.Ruleset{}, Build(state, gateway.IPv4, options), options.Ownership.ChainPrefix))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestManyEndpointsBehindNeighbours expects that ten ports with the same thousand endpoints cost as much as one port.
func TestManyEndpointsBehindNeighbours(t *testing.T) {
	one := manyBackends(1000, 0)
	ten := one
	for i := range uint16(9) {
		f := *one.Forwards[0]
		f.Ports = gateway.Port(81 + i)
		ten.Forwards = append(ten.Forwards[:len(ten.Forwards):len(ten.Forwards)], &f)
	}
	want := size(ruleset.Diff(ruleset.Ruleset{}, Build(one, gateway.IPv4, options), options.Ownership.ChainPrefix))
	got := size(ruleset.Diff(ruleset.Ruleset{}, Build(ten, gateway.IPv4, options), options.Ownership.ChainPrefix))
	if got.Chains != want.Chains || got.Rules != want.Rules {
		t.Errorf("%+v, want the cost of one port: %+v", got, want)
	}
}

// TestCostOfEstablishedPackets counts the rules that packets of a known connection meet. The number does not depend on the
// number of ports. None of the rules is in the nat table.
func TestCostOfEstablishedPackets(t *testing.T) {
	for _, tc := range []struct {
		name    string
		uplinks int
		// original and reply are the number of rules for a TCP packet in each direction, udp the number for a UDP packet to the
		// pod.
		original, udp, reply int
	}{
		{"one uplink", 1, 8, 9, 5},
		{"two uplinks", 2, 9, 11, 5},
		{"eight uplinks", 8, 15, 23, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state := tens(1000)
			state.Uplinks = nil
			for n := range tc.uplinks {
				state.Uplinks = append(state.Uplinks, gateway.Uplink{Link: fmt.Sprintf("eth%d", 1+n), Number: 1 + n})
			}
			tracer := ruleset.NewTracer(Build(state, gateway.IPv4, options))
			own := options.Ownership
			f := state.Forwards[500]
			client, pod := netip.AddrPortFrom(source(gateway.IPv4, 0).Addr(), 40000), netip.AddrPortFrom(f.Backends[0].Address, f.Backends[0].Port)
			p := packet.Packet{
				In: "eth1", Protocol: gateway.TCP, Source: client, Destination: pod, Direction: packet.Original,
				State: packet.Established | packet.DNAT, ConnMark: own.Forwarded().Value | own.Uplink(1).Value,
				Route: func(netip.Addr, uint32) string { return "eth0" },
			}
			if got := tracer.Trace(p); got.Rules != tc.original || got.Verdict != packet.Accept || got.Packet.Mark != 0 {
				t.Errorf("to the pod: %d rules, verdict %s, mark %#x; want %d rules", got.Rules, got.Verdict, got.Packet.Mark, tc.original)
			}
			p.Protocol = gateway.UDP
			if got := tracer.Trace(p); got.Rules != tc.udp || got.Verdict != packet.Accept || got.Packet.Mark != 0 {
				t.Errorf("to the pod by UDP: %d rules, verdict %s, mark %#x; want %d rules", got.Rules, got.Verdict, got.Packet.Mark, tc.udp)
			}
			p.In, p.Source, p.Destination, p.Direction = "eth0", pod, client, packet.Reply
			p.Route = func(netip.Addr, uint32) string { return "eth1" }
			if got := tracer.Trace(p); got.Rules != tc.reply || got.Verdict != packet.Accept || got.Packet.Mark != own.Uplink(1).Value {
				t.Errorf("from the pod: %d rules, verdict %s, mark %#x; want %d rules", got.Rules, got.Verdict, got.Packet.Mark, tc.reply)
			}
		})
	}
}

// changes are small changes in the middle of a state.
var changes = []struct {
	name string
	make func(state *gateway.State)
}{
	{"endpoint", func(s *gateway.State) { *s = lessOne(*s) }},
	{"endpoint of one port", func(s *gateway.State) {
		f := s.Forwards[len(s.Forwards)/2]
		f.Backends = f.Backends[1:]
	}},
	{"port", func(s *gateway.State) {
		middle := len(s.Forwards) / 2
		s.Forwards = slices.Delete(s.Forwards, middle, middle+1)
	}},
	{"source", func(s *gateway.State) {
		middle := len(s.Forwards) / 20 * 10
		for _, f := range s.Forwards[middle : middle+10] {
			f.Sources = manySources(gateway.IPv4, 1)
		}
	}},
	{"Mapping", func(s *gateway.State) {
		middle := len(s.Forwards) / 20 * 10
		s.Forwards = slices.Delete(s.Forwards, middle, middle+10)
	}},
}

// TestCostOfChanges measures a small change and its reversal.
func TestCostOfChanges(t *testing.T) {
	want := map[string][2]cost{
		"apart/1000/endpoint":              {{Chains: 3, Rules: 34, Bytes: 4475}, {Chains: 3, Rules: 44, Bytes: 5965}},
		"apart/1000/endpoint of one port":  {{Chains: 1, Rules: 12, Bytes: 1708}, {Chains: 1, Rules: 13, Bytes: 1857}},
		"apart/1000/port":                  {{Chains: 1, Rules: 10, Bytes: 1425}, {Chains: 1, Rules: 13, Bytes: 1857}},
		"apart/1000/source":                {{Chains: 4, Rules: 52, Bytes: 6672}, {Chains: 4, Rules: 44, Bytes: 6029}},
		"apart/1000/Mapping":               {{Chains: 4, Rules: 24, Bytes: 3292}, {Chains: 4, Rules: 56, Bytes: 7726}},
		"apart/10000/endpoint":             {{Chains: 3, Rules: 28, Bytes: 4015}, {Chains: 3, Rules: 38, Bytes: 5515}},
		"apart/10000/endpoint of one port": {{Chains: 1, Rules: 11, Bytes: 1639}, {Chains: 1, Rules: 12, Bytes: 1789}},
		"apart/10000/port":                 {{Chains: 1, Rules: 9, Bytes: 1353}, {Chains: 1, Rules: 12, Bytes: 1789}},
		"apart/10000/source":               {{Chains: 4, Rules: 46, Bytes: 6228}, {Chains: 4, Rules: 38, Bytes: 5579}},
		"apart/10000/Mapping":              {{Chains: 4, Rules: 19, Bytes: 2900}, {Chains: 4, Rules: 51, Bytes: 7378}},
		"tens/1000/endpoint":               {{Chains: 1, Rules: 18, Bytes: 2445}, {Chains: 1, Rules: 19, Bytes: 2600}},
		"tens/1000/endpoint of one port":   {{Chains: 2, Rules: 25, Bytes: 3413}, {Chains: 2, Rules: 19, Bytes: 2660}},
		"tens/1000/port":                   {{Chains: 1, Rules: 19, Bytes: 2600}, {Chains: 1, Rules: 19, Bytes: 2600}},
		"tens/1000/source":                 {{Chains: 2, Rules: 23, Bytes: 2891}, {Chains: 2, Rules: 19, Bytes: 2664}},
		"tens/1000/Mapping":                {{Chains: 1, Rules: 16, Bytes: 2151}, {Chains: 1, Rules: 19, Bytes: 2600}},
		"tens/10000/endpoint":              {{Chains: 1, Rules: 11, Bytes: 1712}, {Chains: 1, Rules: 12, Bytes: 1869}},
		"tens/10000/endpoint of one port":  {{Chains: 1, Rules: 14, Bytes: 2118}, {Chains: 1, Rules: 12, Bytes: 1869}},
		"tens/10000/port":                  {{Chains: 1, Rules: 12, Bytes: 1869}, {Chains: 1, Rules: 12, Bytes: 1869}},
		"tens/10000/source":                {{Chains: 2, Rules: 16, Bytes: 2162}, {Chains: 2, Rules: 12, Bytes: 1933}},
		"tens/10000/Mapping":               {{Chains: 1, Rules: 9, Bytes: 1413}, {Chains: 1, Rules: 12, Bytes: 1869}},
	}
	for _, shape := range shapes {
		for _, n := range []int{1000, 10000} {
			for _, change := range changes {
				name := fmt.Sprintf("%s/%d/%s", shape.name, n, change.name)
				t.Run(name, func(t *testing.T) {
					before := shape.state(n)
					after := before
					after.Forwards = gatewaytest.Copies(before.Forwards)
					change.make(&after)
					builder := NewBuilder(gateway.IPv4, options)
					there, back := builder.Build(before), builder.Build(after)
					got := [2]cost{
						size(ruleset.Diff(there, back, options.Ownership.ChainPrefix)),
						size(ruleset.Diff(back, builder.Build(before), options.Ownership.ChainPrefix)),
					}
					if diff := cmp.Diff(want[name], got); diff != "" {
						t.Error(diff)
					}
				})
			}
		}
	}
}

func BenchmarkParse(b *testing.B) {
	// Convert the output for iptables-restore to that of iptables-save.
	saved := strings.NewReplacer("*nat\n", "*nat\n:PREROUTING - [0:0]\n:OUTPUT - [0:0]\n:POSTROUTING - [0:0]\n",
		"-I PREROUTING 1", "-A PREROUTING", "-I OUTPUT 1", "-A OUTPUT", "-I POSTROUTING 1", "-A POSTROUTING")
	nat := Build(dense(10000), gateway.IPv4, options).Tables[2:]
	text := []byte(saved.Replace(string(ruleset.Render(ruleset.Ruleset{Tables: nat}))))
	for b.Loop() {
		if _, err := ruleset.Parse(gateway.IPv4, text); err != nil {
			b.Fatal(err)
		}
	}
}
