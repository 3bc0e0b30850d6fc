// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

func word(n byte) string { return string([]byte{n, 0, 0, 0}) }

func rules(lists ...[]Expr) []Rule {
	var rs []Rule
	for _, list := range lists {
		rs = append(rs, Rule{Exprs: list})
	}
	return rs
}

func base(name string, hook Hook, lists ...[]Expr) Chain {
	return Chain{Name: name, Hook: &hook, Rules: rules(lists...)}
}

var (
	mangle  = Hook{Type: FilterType, Point: Prerouting, Priority: MangleOrder}
	dnat    = Hook{Type: NATType, Point: Prerouting, Priority: DNATOrder}
	forward = Hook{Type: FilterType, Point: Forward}
	drop    = Verdict{Code: Drop}
)

// first is the first packet of a connection, which the host forwards.
func first() packet.Packet {
	return packet.Packet{
		In: "eth1", Protocol: gateway.TCP, State: packet.New, Direction: packet.Original, SYN: true,
		Source: netip.MustParseAddrPort("203.0.113.1:40000"), Destination: netip.MustParseAddrPort("192.0.2.1:80"),
		Route: func(netip.Addr, uint32) string { return "eth0" },
	}
}

// flip inverts bits of the mark, as a trace of what was executed.
func flip(bits byte) []Expr {
	return []Expr{Meta{Key: MetaMark}, Bitwise{Mask: "\xff\xff\xff\xff", Xor: word(bits)}, SetMeta{Key: MetaMark}}
}

// markIs continues if the mark of the packet is n.
func markIs(n byte, then ...Expr) []Expr {
	return append([]Expr{Meta{Key: MetaMark}, Compare{Data: word(n)}}, then...)
}

func to(chain string, code VerdictCode) []Expr { return []Expr{Verdict{Code: code, Chain: chain}} }

func translates(destination bool, address string) []Expr {
	a := netip.MustParseAddr(address).As4()
	return []Expr{Immediate{Data: string(a[:])}, NAT{Destination: destination}}
}

// TestTraceFlow follows the verdicts. Bits of the mark show which rules were executed.
func TestTraceFlow(t *testing.T) {
	for _, tc := range []struct {
		name    string
		chains  []Chain
		packet  func(p *packet.Packet)
		verdict packet.Verdict
		mark    uint32
		rules   int
	}{
		{name: "a jump returns, a goto does not, so that b runs twice", chains: []Chain{
			base("in", mangle, to("a", Jump), flip(1), to("b", Goto), flip(2)),
			{Name: "a", Rules: rules(to("b", Goto), flip(4))}, {Name: "b", Rules: rules(flip(8))},
		}, verdict: packet.Accept, mark: 1, rules: 6},
		{name: "return ends a chain, and a base chain accepts", chains: []Chain{
			base("in", mangle, to("a", Jump), flip(1), to("", Return), flip(2)), {Name: "a", Rules: rules(to("", Return), flip(4))},
		}, verdict: packet.Accept, mark: 1, rules: 4},
		{name: "accept ends one base chain, drop all", chains: []Chain{
			base("a", mangle, flip(1), to("", Accept), flip(2)), base("b", dnat, flip(4), []Expr{drop}), base("c", forward, flip(8)),
		}, verdict: packet.Drop, mark: 1 | 4, rules: 4},
		{name: "priorities order base chains", chains: []Chain{
			base("a", dnat, markIs(1, drop)), base("b", mangle, flip(1)), base("c", forward, []Expr{drop}),
		}, verdict: packet.Drop, mark: 1, rules: 2},
		{name: "a rule ends where a comparison fails", chains: []Chain{base("in", mangle, append(markIs(9), flip(1)...), append(markIs(0), flip(2)...))},
			verdict: packet.Accept, mark: 2, rules: 2},
		{name: "a packet without a connection has only a state", chains: []Chain{base("in", mangle,
			append([]Expr{Ct{Key: CtMark}}, flip(1)...), append([]Expr{Ct{Key: CtDirection}}, flip(2)...), append([]Expr{Ct{Key: CtStatus}}, flip(4)...),
			append([]Expr{Ct{Key: CtState}, Compare{Data: word(byte(StateInvalid))}}, flip(8)...), []Expr{SetCt{Key: CtMark}})},
			packet: func(p *packet.Packet) { p.State, p.Direction = packet.Invalid, 0 }, verdict: packet.Accept, mark: 8, rules: 5},
		{name: "chains of nat are for first packets", chains: []Chain{base("in", mangle, flip(1)), base("nat", dnat, flip(2))},
			packet: func(p *packet.Packet) { p.State = packet.Established }, verdict: packet.Accept, mark: 1, rules: 1},
		{name: "a connection is translated once", chains: []Chain{base("a", dnat, translates(true, "10.0.0.1"), flip(1)), base("b", dnat, flip(2)), base("c", forward, flip(4))},
			verdict: packet.Accept, mark: 4, rules: 2},
		{name: "rules of others do not match", chains: []Chain{base("in", mangle, append(flip(1), Unknown{Name: "quota"}, drop), flip(2))},
			verdict: packet.Accept, mark: 2, rules: 2},
		{name: "a value moves onto itself", chains: []Chain{base("in", mangle, []Expr{Immediate{Data: "\x01"}, SwapPort{}, SetMeta{Key: MetaMark}})},
			verdict: packet.Accept, mark: 1, rules: 1},
		{name: "a rule without a known chain", chains: []Chain{base("in", mangle, to("x", Jump))}, verdict: packet.Drop, rules: 1},
		{name: "another verdict", chains: []Chain{base("in", mangle, []Expr{Verdict{Code: 3}})}, verdict: packet.Drop, rules: 1},
		{name: "a map without the key", chains: []Chain{base("in", mangle, append([]Expr{LookupMap{Set: "x"}}, flip(1)...), append([]Expr{Lookup{Set: "x", Not: true}}, flip(2)...))},
			verdict: packet.Accept, mark: 2, rules: 2},
		{name: "registers that do not exist", chains: []Chain{base("in", mangle,
			[]Expr{Compare{From: 16, Data: word(0)}, drop}, []Expr{Immediate{To: 15, Data: "12345678"}, drop},
			[]Expr{Payload{Base: NetworkHeader, Offset: math.MaxUint32, Len: 2}, drop}, []Expr{Payload{Base: NetworkHeader, Offset: 12, Len: 400}, drop},
			[]Expr{Payload{Base: 9, Len: 1}, drop}, []Expr{Bitwise{From: 16, Mask: word(0), Xor: word(0)}, drop},
			[]Expr{Bitwise{Mask: word(0), Xor: ""}, drop}, []Expr{Random{}, drop}, []Expr{Meta{Key: 99}, drop}, []Expr{Ct{Key: 99}, drop})},
			verdict: packet.Accept, rules: 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := first()
			if tc.packet != nil {
				tc.packet(&p)
			}
			got := NewTracer(Table{Family: gateway.IPv4, Chains: tc.chains}, "t", gateway.Mark{}).Trace(p)
			if got.Verdict != tc.verdict || got.Packet.Mark != tc.mark || got.Rules != tc.rules {
				t.Errorf("%s, mark %#x, %d rules; want %s, %#x, %d\n%+v", got.Verdict, got.Packet.Mark, got.Rules, tc.verdict, tc.mark, tc.rules, got.Steps)
			}
		})
	}
}

// TestTraceLoops expects that every loop ends.
func TestTraceLoops(t *testing.T) {
	deep := []Chain{base("in", mangle, to("c0", Jump))}
	for i := range maxJumps {
		deep = append(deep, Chain{Name: fmt.Sprintf("c%d", i), Rules: rules(to(fmt.Sprintf("c%d", i+1), Jump))})
	}
	last := Chain{Name: fmt.Sprintf("c%d", maxJumps)}
	for _, tc := range []struct {
		name   string
		chains []Chain
		loop   bool
	}{
		{"a jump to itself", []Chain{base("in", mangle, to("a", Jump)), {Name: "a", Rules: rules(to("a", Jump))}}, true},
		{"a goto to itself", []Chain{base("in", mangle, to("a", Goto)), {Name: "a", Rules: rules(to("a", Goto))}}, true},
		{"two chains", []Chain{base("in", mangle, to("a", Goto)), {Name: "a", Rules: rules(to("b", Jump))}, {Name: "b", Rules: rules(to("a", Goto))}}, true},
		{"too many jumps", append(deep, last), true},
		{"as many as the kernel allows", append(deep[:maxJumps:maxJumps], Chain{Name: fmt.Sprintf("c%d", maxJumps-1)}), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := NewTracer(Table{Family: gateway.IPv4, Chains: tc.chains}, "t", gateway.Mark{}).Trace(first())
			if got.LoopDetected != tc.loop || (got.Verdict == packet.Drop) != tc.loop {
				t.Errorf("loop %t, %s after %d rules", got.LoopDetected, got.Verdict, got.Rules)
			}
		})
	}
}

// TestTraceTranslation checks addresses and ports.
func TestTraceTranslation(t *testing.T) {
	ports := func(first, last uint16, flags uint32) []Expr {
		return []Expr{
			Immediate{Data: "\x0a\x00\x00\x01"}, Immediate{To: 1, Data: string([]byte{byte(first >> 8), byte(first)})},
			Immediate{To: 2, Data: string([]byte{byte(last >> 8), byte(last)})},
			NAT{Destination: true, HasPorts: true, FirstPort: 1, LastPort: 2, Flags: NATPortsSpecified | flags},
		}
	}
	out := Hook{Type: NATType, Point: Postrouting, Priority: SNATOrder}
	for _, tc := range []struct {
		name     string
		hook     Hook
		exprs    []Expr
		from, to string
		state    packet.State
	}{
		{"an address", dnat, translates(true, "10.0.0.1"), "203.0.113.1:40000", "10.0.0.1:80", packet.DNAT},
		{"a port", dnat, ports(8080, 8080, 0), "203.0.113.1:40000", "10.0.0.1:8080", packet.DNAT},
		{"a range with the port", dnat, ports(79, 81, 0), "203.0.113.1:40000", "10.0.0.1:80", packet.DNAT},
		{"a range without the port", dnat, ports(81, 90, 0), "203.0.113.1:40000", "10.0.0.1:81", packet.DNAT},
		{"a shifted range", dnat, ports(1000, 1015, NATOffset), "203.0.113.1:40000", "10.0.0.1:1000", packet.DNAT},
		{"a shifted range of another length", dnat, ports(1000, 1031, NATOffset), "203.0.113.1:40000", "10.0.0.1:1016", packet.DNAT},
		{"all ports, shifted", dnat, ports(0, 65535, NATOffset), "203.0.113.1:40000", "10.0.0.1:80", packet.DNAT},
		{"a reversed range", dnat, ports(90, 89, NATOffset), "203.0.113.1:40000", "10.0.0.1:90", packet.DNAT},
		{"the source", out, translates(false, "192.0.2.9"), "192.0.2.9:40000", "192.0.2.1:80", packet.SNAT},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := NewTracer(Table{Family: gateway.IPv4, Chains: []Chain{base("in", tc.hook, tc.exprs)}}, "t", gateway.Mark{}).Trace(first())
			if from, to := got.Packet.Source.String(), got.Packet.Destination.String(); from != tc.from || to != tc.to || got.Packet.State != packet.New|tc.state {
				t.Errorf("from %s to %s, state %d; want %s, %s, %d", from, to, got.Packet.State, tc.from, tc.to, tc.state)
			}
		})
	}
}

// TestTraceOutcomes expects each combination of random choices once, with its probability, and the last one from Trace.
func TestTraceOutcomes(t *testing.T) {
	random := func(to Register, modulus, offset uint32) Expr {
		return Random{To: to, Modulus: modulus, Offset: offset}
	}
	tracer := NewTracer(Table{Family: gateway.IPv4, Chains: []Chain{
		base("in", mangle, []Expr{random(0, 3, 5), SetMeta{Key: MetaMark}}, markIs(6, random(1, 2, 10), SetMeta{Key: MetaMark, From: 1}), []Expr{random(2, 1, 7)}),
	}}, "t", gateway.Mark{})
	got := map[string]float64{}
	for trace := range tracer.Outcomes(first()) {
		got[fmt.Sprint(trace.Packet.Mark)] += trace.Probability
	}
	const third = 1.0 / 3
	if diff := cmp.Diff(map[string]float64{"5": third, "10": third / 2, "11": third / 2, "7": third}, got); diff != "" {
		t.Error(diff)
	}
	if last := tracer.Trace(first()); last.Packet.Mark != 7 || last.Probability != third {
		t.Errorf("mark %d with the probability %g, want 7 with a third", last.Packet.Mark, last.Probability)
	}
	for range tracer.Outcomes(first()) {
		break // A consumer may stop early.
	}
}

// TestTraceSteps expects the matched rules and those of others, in the words of nft(8).
func TestTraceSteps(t *testing.T) {
	table := Table{Family: gateway.IPv4, Chains: []Chain{
		base("in", mangle, markIs(1, drop), []Expr{Unknown{Name: "x"}, drop}, to("a", Goto)),
		{Name: "a", Rules: rules([]Expr{Counter{}}, []Expr{Meta{Key: MetaL4Proto}, Compare{Data: "\x06"}, Reject{Type: RejectTCPReset}})},
	}}
	got := NewTracer(table, "smartnat", gateway.Mark{}).Trace(first())
	want := []packet.Step{
		{Table: "smartnat", Chain: "in", Number: 2, Rule: "unknown drop"},
		{Table: "smartnat", Chain: "in", Number: 3, Rule: "goto a"},
		{Table: "smartnat", Chain: "a", Number: 1, Rule: "counter"},
		{Table: "smartnat", Chain: "a", Number: 2, Rule: "meta l4proto tcp reject with tcp reset"},
	}
	if diff := cmp.Diff(want, got.Steps); diff != "" || got.Verdict != packet.Reject || got.RejectWith != "tcp-reset" || got.Rules != 5 {
		t.Errorf("%s with %q after %d rules\n%s", got.Verdict, got.RejectWith, got.Rules, diff)
	}
}

// TestTraceHost follows packets of the host and to it.
func TestTraceHost(t *testing.T) {
	hook := func(typ ChainType, point HookPoint, priority int32) Hook {
		return Hook{Type: typ, Point: point, Priority: priority}
	}
	oif := func(link string, then ...Expr) []Expr {
		return append([]Expr{Meta{Key: MetaOIFName}, Compare{Data: link + string(make([]byte, 16-len(link)))}}, then...)
	}
	tracer := NewTracer(Table{Family: gateway.IPv4, Chains: []Chain{
		base("in", hook(FilterType, Input, 0), oif("", Verdict{Code: Drop})),
		base("out", hook(RouteType, Output, MangleOrder), append(oif("eth0"), flip(2)...)),
		base("out-filter", hook(FilterType, Output, FilterOrder), oif("eth2", Verdict{Code: Accept})),
		base("post", hook(FilterType, Postrouting, 0), oif("eth2", Verdict{Code: Drop})),
	}}, "t", gateway.Mark{})
	local := first()
	local.Route = nil
	if got := tracer.Trace(local); got.Verdict != packet.Drop || got.Rules != 1 || got.Out != "" {
		t.Errorf("to the host: %s after %d rules, by %q", got.Verdict, got.Rules, got.Out)
	}
	own := first()
	own.In, own.Route = "", func(_ netip.Addr, mark uint32) string { return fmt.Sprintf("eth%d", mark) }
	if got := tracer.Trace(own); got.Verdict != packet.Drop || len(got.Steps) != 3 || got.Out != "eth2" {
		t.Errorf("from the host: %s, by %q: %+v", got.Verdict, got.Out, got.Steps)
	}
}

// TestIndex looks up ranges part by part, and keys whose element is shorter than the register.
func TestIndex(t *testing.T) {
	concatenated := newIndex(&Set{Schema: Schema{Key: [4]Datatype{IPv4Type, PortType}, Interval: true}, Elements: []Element{
		{Key: "\x0a\x00\x00\x01\x00\x10", Last: "\x0a\x00\x00\x02\x00\x20", Data: "x"},
	}})
	short := newIndex(&Set{Schema: Schema{Key: [4]Datatype{PortType}}, Elements: []Element{{Key: "\x00\x50", Data: "x"}}})
	for _, tc := range []struct {
		name string
		set  *index
		key  string
		want bool
	}{
		{"within", concatenated, "\x0a\x00\x00\x02\x00\x10\x00\x00", true},
		{"the end", concatenated, "\x0a\x00\x00\x01\x00\x20\x00\x00", true},
		{"another port between the ends of the whole", concatenated, "\x0a\x00\x00\x01\x00\x21\x00\x00", false},
		{"another address", concatenated, "\x0a\x00\x00\x03\x00\x10\x00\x00", false},
		{"a short key", short, "\x00\x50\x00\x00", true},
		{"another", short, "\x00\x51\x00\x00", false},
	} {
		if e, got := tc.set.find([]byte(tc.key)); got != tc.want || got && e.Data != "x" {
			t.Errorf("%s: found %t, want %t", tc.name, got, tc.want)
		}
	}
	if _, found := short.find(nil); found {
		t.Error("found a key that the registers do not hold")
	}
}
