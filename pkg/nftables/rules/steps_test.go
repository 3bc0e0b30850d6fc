// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rules

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// commit returns the tables that packets meet while the kernel commits a transaction: first with everything but the elements of
// Interval sets, then with those of one set after the other; before Linux 6.17 and its backports, elements of these sets that go are
// not found in the meantime. The first lookups of a packet under way may have found what there was before: late has that instead for the
// first maps. And on such a kernel, the first lookup may find nothing for a key whose element is replaced.
func commit(t *testing.T, table ruleset.Table, b ruleset.Batch) (instants, late []ruleset.Table) {
	t.Helper()
	var pending []string
	publish := func(set string, schema ruleset.Schema) {
		if schema.Interval && !slices.Contains(pending, set) {
			pending = append(pending, set)
		}
	}
	for _, s := range b.AddSets {
		publish(s.Name, s.Schema)
	}
	for _, e := range slices.Concat(b.DeleteElements, b.AddElements) {
		publish(e.Set, e.Schema)
	}
	for i := range pending {
		instants = append(instants, changed(t, table, b, pending[i:]), withoutDeleted(changed(t, table, b, pending[i:]), b, pending[i:]))
	}
	instants = append(instants, changed(t, table, b, nil))
	late = missed(instants[len(instants)-1], b)
	lookups := []string{frontendsMap, rangesMap, chainsMap} // in the order of a packet
	for i := range lookups {
		mixed := instants[len(instants)-1]
		mixed.Sets = slices.Clone(mixed.Sets)
		// The kernel keeps a deleted chain for packets under way.
		mixed.Chains = slices.Concat(mixed.Chains, slices.DeleteFunc(slices.Clone(b.DeleteChains), func(c ruleset.Chain) bool { return c.Hook != nil }))
		for j, s := range mixed.Sets {
			before := slices.IndexFunc(table.Sets, func(o ruleset.Set) bool { return o.Name == s.Name })
			if before >= 0 && slices.Contains(lookups[:i+1], s.Name) {
				mixed.Sets[j] = table.Sets[before]
			}
		}
		late = append(late, mixed)
	}
	return instants, late
}

// withoutDeleted returns the table without the elements of the pending sets that the batch deletes.
func withoutDeleted(table ruleset.Table, b ruleset.Batch, pending []string) ruleset.Table {
	table.Sets = slices.Clone(table.Sets)
	for i := range table.Sets {
		s := &table.Sets[i]
		for _, e := range b.DeleteElements {
			if e.Set == s.Name && slices.Contains(pending, s.Name) {
				s.Elements = slices.DeleteFunc(slices.Clone(s.Elements), func(x ruleset.Element) bool { return slices.Contains(e.List, x) })
			}
		}
	}
	return table
}

// missed returns, for each map of which the batch replaces elements, the table in whose chains the first lookup in it does not find them.
func missed(table ruleset.Table, b ruleset.Batch) (tables []ruleset.Table) {
	for _, c := range setChanges(b) {
		if c.Schema.Interval || len(c.replaced) == 0 {
			continue
		}
		with := slices.IndexFunc(table.Sets, func(s ruleset.Set) bool { return s.Name == c.Set })
		if with < 0 {
			continue
		}
		without := table.Sets[with]
		without.Name = "missed-" + c.Set
		without.Elements = slices.DeleteFunc(slices.Clone(without.Elements), func(x ruleset.Element) bool { return slices.Contains(c.replaced, x) })
		mixed := table
		mixed.Sets, mixed.Chains = append(slices.Clone(table.Sets), without), slices.Clone(table.Chains)
		for i := range mixed.Chains {
			mixed.Chains[i].Rules = lookElsewhere(mixed.Chains[i].Rules, c.Set, without.Name)
		}
		tables = append(tables, sorted(mixed))
	}
	return tables
}

// lookElsewhere has the first rule that looks something up in a map do so in another one.
func lookElsewhere(rules []ruleset.Rule, from, to string) []ruleset.Rule {
	for i, r := range rules {
		at := slices.IndexFunc(r.Exprs, func(e ruleset.Expr) bool { l, ok := e.(ruleset.LookupMap); return ok && l.Set == from })
		if at < 0 {
			continue
		}
		rules, r.Exprs = slices.Clone(rules), slices.Clone(r.Exprs)
		l := r.Exprs[at].(ruleset.LookupMap)
		l.Set = to
		r.Exprs[at], rules[i] = l, r
		break
	}
	return rules
}

// changed returns the table after the batch, with the elements of the pending sets from before.
func changed(t *testing.T, table ruleset.Table, b ruleset.Batch, pending []string) ruleset.Table {
	t.Helper()
	named := func(name string) func(s ruleset.Set) bool { return func(s ruleset.Set) bool { return s.Name == name } }
	table.Sets = slices.DeleteFunc(slices.Clone(table.Sets), func(s ruleset.Set) bool { return slices.ContainsFunc(b.DeleteSets, named(s.Name)) })
	for _, s := range b.AddSets {
		if slices.Contains(pending, s.Name) {
			s.Elements = nil
		}
		table.Sets = append(table.Sets, s)
	}
	for i := range table.Sets {
		s := &table.Sets[i]
		if slices.Contains(pending, s.Name) {
			continue
		}
		s.Elements = slices.Clone(s.Elements)
		for _, e := range b.DeleteElements {
			if e.Set != s.Name {
				continue
			}
			for _, x := range e.List {
				at, _ := slices.BinarySearchFunc(s.Elements, x, ruleset.CompareElements)
				if at == len(s.Elements) || s.Elements[at] != x {
					t.Fatalf("%s has no element %x to delete", s.Name, x.Key)
				}
				s.Elements = slices.Delete(s.Elements, at, at+1)
			}
		}
		for _, e := range b.AddElements {
			if e.Set == s.Name {
				s.Elements = append(s.Elements, e.List...)
			}
		}
		slices.SortFunc(s.Elements, ruleset.CompareElements)
		for j := 1; j < len(s.Elements); j++ {
			if before := s.Elements[j-1]; max(before.Key, before.Last) >= s.Elements[j].Key {
				t.Fatalf("elements of %s overlap: %x %x", s.Name, before, s.Elements[j])
			}
		}
	}
	table.Chains = slices.DeleteFunc(slices.Clone(table.Chains), func(c ruleset.Chain) bool {
		return slices.ContainsFunc(slices.Concat(b.DeleteChains, b.ReplaceChains), func(d ruleset.Chain) bool { return d.Name == c.Name })
	})
	table.Chains = slices.Concat(table.Chains, b.AddChains, b.ReplaceChains)
	table.Helpers = slices.DeleteFunc(slices.Concat(table.Helpers, b.AddHelpers), func(h gateway.Helper) bool { return slices.Contains(b.DeleteHelpers, h) })
	table.Flowtables = slices.DeleteFunc(slices.Clone(table.Flowtables), func(f ruleset.Flowtable) bool {
		return slices.ContainsFunc(b.DeleteFlowtables, f.Equal)
	})
	table.Flowtables = append(table.Flowtables, b.AddFlowtables...)
	if b.ReplaceBridge {
		table.Bridge = b.Bridge
	}
	return sorted(table)
}

// walk executes the steps from one state to another. It expects that each packet meets the old or the new Forwards, and the old
// or the new rest, at any instant.
func walk(t *testing.T, family gateway.Family, from *gateway.State, to gateway.State, packets []packet.Packet) (steps int) {
	t.Helper()
	table, want := ruleset.Table{Family: family}, Build(to, family, ownership)
	tracers := []*ruleset.Tracer{tracer(to, family)}
	if from != nil {
		table = Build(*from, family, ownership)
		mixed, otherwise := to, *from
		mixed.Forwards, otherwise.Forwards = from.Forwards, to.Forwards
		tracers = append(tracers, tracer(*from, family), tracer(mixed, family), tracer(otherwise, family))
	} else {
		tracers = append(tracers, ruleset.NewTracer(table, "smartnat", BridgedMark(ownership)))
	}
	var right []map[outcome]float64
	for _, p := range packets {
		for _, tracer := range tracers {
			right = append(right, outcomes(t, tracer, p))
		}
	}
	expect := func(at string, table ruleset.Table, alike func(want, got map[outcome]float64) bool) {
		t.Helper()
		tracer := ruleset.NewTracer(table, "smartnat", BridgedMark(ownership))
		for i, p := range packets {
			got, right := outcomes(t, tracer, p), right[i*len(tracers):(i+1)*len(tracers)]
			if !slices.ContainsFunc(right, func(want map[outcome]float64) bool { return alike(want, got) }) {
				t.Fatalf("%s: %s to %s/%s by %q: %+v\nright: %+v\n%+v", at, p.Source, p.Destination, p.Protocol, p.In, got, right, tracer.Trace(p).Steps)
			}
		}
	}
	for _, step := range Steps(ruleset.Diff(table, want)) {
		steps++
		instants, late := commit(t, table, step)
		for i, instant := range instants {
			expect(fmt.Sprintf("step %d, instant %d", steps, i+1), instant, func(want, got map[outcome]float64) bool {
				return maps.EqualFunc(want, got, func(x, y float64) bool { return math.Abs(x-y) < 1e-9 })
			})
		}
		for i, instant := range late {
			expect(fmt.Sprintf("step %d, late or missed %d", steps, i+1), instant, sameKind)
		}
		table = instants[len(instants)-1]
	}
	if diff := cmp.Diff(want, table, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("(-want +after all steps):\n%s", diff)
	}
	return steps
}

// sameKind reports whether all packets reach a pod, or the same happens to all.
func sameKind(want, got map[outcome]float64) bool {
	kind := func(o outcome) outcome {
		if o.Out != "" {
			return outcome{Verdict: o.Verdict, Out: o.Out}
		}
		return outcome{Verdict: o.Verdict, RejectWith: o.RejectWith}
	}
	for x := range want {
		for y := range got {
			if kind(x) != kind(y) {
				return false
			}
		}
	}
	return true
}

// TestStepsLeaveNoGap walks between random states that share ports.
func TestStepsLeaveNoGap(t *testing.T) {
	for _, family := range families {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%d/IPv%d", seed, family), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 3))
				var from *gateway.State
				to := randomState(random, family)
				var before []packet.Packet
				for range 3 {
					packets := packetsOf(to, family)
					walk(t, family, from, to, slices.Concat(before, packets))
					last := to
					from, before, to = &last, packets, similar(random, to, family)
				}
			})
		}
	}
}

// TestSteps counts the transactions of changes.
func TestSteps(t *testing.T) {
	one := func(change func(f *gateway.Forward)) gateway.State {
		return stateOf(with(forward(gateway.IPv4, 1, gateway.TCP, 80, 80, backends(gateway.IPv4, 2, 8080)), change))
	}
	plain := func(*gateway.Forward) {}
	from := func(n int) func(f *gateway.Forward) {
		return func(f *gateway.Forward) { f.Sources = []netip.Prefix{clients(gateway.IPv4, n)} }
	}
	last := func(port uint16) func(f *gateway.Forward) { return func(f *gateway.Forward) { f.Ports.Last = port } }
	for _, tc := range []struct {
		name     string
		from, to gateway.State
		want     int
	}{
		{"another backend", one(plain), one(func(f *gateway.Forward) { f.Backends[1].Port++ }), 1},
		{"one backend more", one(plain), one(func(f *gateway.Forward) { f.Backends = backends(gateway.IPv4, 3, 8080) }), 2},
		{"one backend less", one(plain), one(func(f *gateway.Forward) { f.Backends = f.Backends[:1] }), 2},
		{"a port less", one(plain), stateOf(), 1},
		{"a port more", stateOf(), one(plain), 1},
		{"a port more, for some sources", stateOf(), one(from(1)), 2},
		{"other sources", one(from(1)), one(from(2)), 3},
		{"a range", one(plain), one(last(89)), 3},
		{"a longer range", one(last(89)), one(last(99)), 3},
		{"another backend of a range", one(last(89)), one(func(f *gateway.Forward) { f.Ports.Last, f.Backends[1].Port = 89, 9090 }), 4},
		{"no range", one(last(99)), one(plain), 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p []packet.Packet
			for _, s := range []gateway.State{tc.from, tc.to} {
				p = append(p, packetsOf(s, gateway.IPv4)...)
			}
			if got := walk(t, gateway.IPv4, &tc.from, tc.to, p); got != tc.want {
				t.Errorf("%d transactions, want %d", got, tc.want)
			}
		})
	}
}

// TestStepsAfterAnEnd ends changes after each of their steps. From there, further steps lead to each state.
func TestStepsAfterAnEnd(t *testing.T) {
	ranged := func(last, backend uint16) gateway.State {
		return stateOf(with(forward(gateway.IPv4, 1, gateway.TCP, 80, last, backends(gateway.IPv4, 2, 8080)), func(f *gateway.Forward) { f.Backends[1].Port = backend }))
	}
	states := []gateway.State{stateOf(), ranged(80, 8080), ranged(89, 8080), ranged(89, 9090), ranged(99, 8080)}
	last := func(table ruleset.Table, step ruleset.Batch) ruleset.Table {
		instants, _ := commit(t, table, step)
		return instants[len(instants)-1]
	}
	for i, from := range states {
		for j, to := range states {
			table := Build(from, gateway.IPv4, ownership)
			for n, step := range Steps(ruleset.Diff(table, Build(to, gateway.IPv4, ownership))) {
				table = last(table, step)
				for k, next := range states {
					want, then := Build(next, gateway.IPv4, ownership), table
					for _, step := range Steps(ruleset.Diff(table, want)) {
						then = last(then, step)
					}
					if diff := cmp.Diff(want, then, cmpopts.EquateEmpty()); diff != "" {
						t.Errorf("from state %d after step %d to state %d, then to state %d (-want +got):\n%s", i, n+1, j, k, diff)
					}
				}
			}
		}
	}
}

// similar returns a state with other properties, most of whose ports are the same.
func similar(random *rand.Rand, state gateway.State, family gateway.Family) gateway.State {
	next := randomState(random, family)
	next.Forwards = nil
	for i, f := range state.Forwards {
		f = with(f, func(f *gateway.Forward) {
			switch random.IntN(6) {
			case 0:
				f.Ports.Last = f.Ports.First
			case 1:
				f.Ports.Last += uint16(random.IntN(3))
			}
			if !f.Ports.Single() && i+1 < len(state.Forwards) && state.Forwards[i+1].Address == f.Address && state.Forwards[i+1].Protocol == f.Protocol {
				f.Ports.Last = min(f.Ports.Last, state.Forwards[i+1].Ports.First-1)
			}
			if random.IntN(3) == 0 {
				f.Sources = nil
				*f = *randomForward(random, f)
			}
			f.Shift = f.Shift && !f.Ports.Single()
		})
		if random.IntN(8) > 0 {
			next.Forwards = append(next.Forwards, f)
		}
	}
	next.Forwards = gatewaytest.Sort(next.Forwards)
	return next
}
