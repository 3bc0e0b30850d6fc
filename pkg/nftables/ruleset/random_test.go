// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// randomTable returns a table as a decoder might read it from the kernel, with rules by other processes.
func randomTable(random *rand.Rand, family gateway.Family) Table {
	names := []string{"a", "b", "c", "d", "missing"}
	name := func() string { return names[random.IntN(len(names))] }
	bytes := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.IntN(4))
		}
		return string(b)
	}
	table := Table{Family: family, Flowtables: []Flowtable{{Name: name(), Links: []string{name(), bytes(2)}[:random.IntN(3)]}}}
	for _, n := range names[:4] {
		s := Set{Name: n, Schema: Schema{Interval: random.IntN(2) == 0, Dynamic: random.IntN(8) == 0}}
		for i := range 1 + random.IntN(4) {
			s.Key[i] = Datatype(1 + random.IntN(int(VerdictType)))
		}
		for i := range random.IntN(4) {
			s.Data[i] = Datatype(1 + random.IntN(int(VerdictType)))
		}
		for range random.IntN(4) {
			s.Elements = append(s.Elements, Element{Key: bytes(random.IntN(40)), Last: bytes(random.IntN(2) * random.IntN(40)), Data: bytes(random.IntN(40)), Verdict: randomVerdict(random, name)})
		}
		table.Sets = append(table.Sets, s)
		c := Chain{Name: n}
		if random.IntN(2) == 0 {
			types := []ChainType{FilterType, RouteType, NATType}
			c.Hook = &Hook{Type: types[random.IntN(3)], Point: HookPoint(random.IntN(5)), Priority: int32(random.IntN(3))}
		}
		for range random.IntN(6) {
			r := Rule{Comment: bytes(random.IntN(5))}
			for range random.IntN(6) {
				r.Exprs = append(r.Exprs, randomExpr(random, name, bytes))
			}
			c.Rules = append(c.Rules, r)
		}
		table.Chains = append(table.Chains, c)
	}
	return table
}

func randomVerdict(random *rand.Rand, name func() string) Verdict {
	return Verdict{Code: VerdictCode(random.IntN(8) - 5), Chain: name()}
}

func randomExpr(random *rand.Rand, name func() string, bytes func(int) string) Expr {
	register := func() Register { return Register(random.IntN(18)) }
	number := func() uint32 {
		if random.IntN(8) == 0 {
			return math.MaxUint32
		}
		return uint32(random.IntN(24))
	}
	yes := random.IntN(2) == 0
	all := []Expr{
		Payload{PayloadBase(random.IntN(4)), number(), number(), register()}, Meta{MetaKey(number()), register()}, SetMeta{MetaMark, register()},
		Ct{CtKey(random.IntN(5)), register()}, SetCt{CtKey(random.IntN(5)), register()}, Bitwise{register(), register(), bytes(random.IntN(20)), bytes(random.IntN(20))},
		Compare{register(), bytes(random.IntN(20)), yes}, Lookup{name(), register(), yes, random.IntN(2) == 0}, LookupMap{name(), register(), register()},
		Random{uint32(random.IntN(3)), number(), register()}, Immediate{register(), bytes(random.IntN(70))}, randomVerdict(random, name),
		NAT{yes, register(), random.IntN(2) == 0, register(), register(), number()}, Masquerade{yes, register(), register(), number()}, Reject{number(), number()},
		Update{name(), register(), uint64(number())}, Counter{}, AssignHelper{name()}, AddFlow{name()}, ReversePath{register()}, PathMSS{register()}, SwapPort{register(), register()}, LowerMSS{register()},
		Unknown{bytes(3)},
	}
	return all[random.IntN(len(all))]
}

// TestAnyTable expects that no table, whatever other processes wrote to it, breaks the text or the Tracer.
func TestAnyTable(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	refused, loops, ended := 0, 0, map[packet.Verdict]int{}
	for range 5000 {
		family, p := gateway.IPv4, first()
		if random.IntN(2) == 0 {
			family = gateway.IPv6
			p.Source, p.Destination = netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2")
		}
		p.State, p.Direction = packet.State(1<<random.IntN(7)), packet.Direction(random.IntN(3))
		table := randomTable(random, family)
		if err := WriteText(io.Discard, table, "t"); err != nil {
			refused++
		}
		s := newSpeller(table)
		for _, c := range table.Chains {
			for i := range c.Rules {
				if text, err := s.Rule(&c.Rules[i]); err == nil && strings.ContainsAny(text, "\n\x00") {
					t.Fatalf("a rule is not one line: %q", text)
				}
			}
		}
		sum, n := 0.0, 0
		for trace := range NewTracer(table, "t", gateway.Mark{}).Outcomes(p) {
			ended[trace.Verdict]++
			if trace.LoopDetected {
				loops++
			}
			sum += trace.Probability
			if n++; n == 200 {
				break
			}
		}
		if n < 200 && math.Abs(sum-1) > 1e-9 {
			t.Fatalf("the probabilities of %d outcomes add up to %g", n, sum)
		}
	}
	if refused == 0 || loops == 0 || len(ended) != 3 {
		t.Errorf("the tables are too similar: %d without text, %d loops, %v", refused, loops, ended)
	}
}
