// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// each runs a test for tables of all scenarios and of random states.
func each(t *testing.T, test func(t *testing.T, state gateway.State, family gateway.Family)) {
	for _, family := range families {
		for _, tc := range scenarios {
			t.Run(fmt.Sprintf("%s/IPv%d", tc.name, family), func(t *testing.T) { test(t, tc.state(family), family) })
		}
		random := rand.New(rand.NewPCG(2, uint64(family)))
		for i := range 60 {
			t.Run(fmt.Sprintf("random %d/IPv%d", i, family), func(t *testing.T) { test(t, randomState(random, family), family) })
		}
	}
}

// TestReferences expects that chains and sets have one definition, that all that rules and elements refer to exists, and that
// nothing but the fixed chains and sets exists without use.
func TestReferences(t *testing.T) {
	fixed := []string{"chain " + dropChain, "chain " + rejectChain, "set " + uplinkLinksSet, "set " + rangesMap, "set " + movingMap, "set " + backendsMap}
	each(t, func(t *testing.T, state gateway.State, family gateway.Family) {
		for _, table := range []ruleset.Table{Build(state, family, ownership), Guard(state, family, ownership)} {
			defined, used := definedBy(t, table), usedBy(table)
			for name := range used {
				if !defined[name] {
					t.Errorf("%s does not exist", name)
				}
			}
			for name := range defined {
				if !used[name] && !slices.Contains(fixed, name) {
					t.Errorf("no rule or element refers to %s", name)
				}
			}
		}
	})
}

// definedBy returns the chains and sets of a table. Base chains are not in it, because the kernel calls them.
func definedBy(t *testing.T, table ruleset.Table) map[string]bool {
	t.Helper()
	defined := map[string]bool{}
	chains := map[string]bool{}
	for _, c := range table.Chains {
		if chains[c.Name] || len(c.Name) > 127 {
			t.Errorf("the chain %s exists twice, or its name is too long", c.Name)
		}
		chains[c.Name] = true
		if c.Hook == nil {
			defined["chain "+c.Name] = true
		}
	}
	for _, s := range table.Sets {
		if defined["set "+s.Name] || len(s.Name) > 127 {
			t.Errorf("the set %s exists twice, or its name is too long", s.Name)
		}
		defined["set "+s.Name] = true
	}
	for _, h := range table.Helpers {
		defined["helper "+h.Name] = true
	}
	return defined
}

func usedBy(table ruleset.Table) map[string]bool {
	used := map[string]bool{}
	for _, c := range table.Chains {
		for _, r := range c.Rules {
			for _, e := range r.Exprs {
				used[reference(e)] = true
			}
		}
	}
	for _, s := range table.Sets {
		for _, e := range s.Elements {
			used[reference(e.Verdict)] = true
		}
	}
	delete(used, "")
	return used
}

// reference returns what an expression refers to, or "".
func reference(e ruleset.Expr) string {
	switch e := e.(type) {
	case ruleset.Lookup:
		return "set " + e.Set
	case ruleset.LookupMap:
		return "set " + e.Set
	case ruleset.Update:
		return "set " + e.Set
	case ruleset.AssignHelper:
		return "helper " + e.Name
	case ruleset.Verdict:
		if e.Chain != "" {
			return "chain " + e.Chain
		}
	}
	return ""
}

// TestContributions expects that the part of the host and those of the Forwards, each computed alone, are the whole table, and
// that units with the same name are equal.
func TestContributions(t *testing.T) {
	each(t, func(t *testing.T, state gateway.State, family gateway.Family) {
		units := map[string]Unit{}
		var elements []Placed
		ranges := false
		for _, f := range state.Forwards {
			c := Contribute(f, ownership, nil)
			for _, u := range c.Units {
				if have, ok := units[u.Name]; ok {
					if diff := cmp.Diff(have, u); diff != "" {
						t.Errorf("two units %s:\n%s", u.Name, diff)
					}
				}
				units[u.Name] = u
			}
			elements = append(elements, c.Elements...)
			ranges = ranges || slices.ContainsFunc(c.Elements, func(e Placed) bool { return e.Set == rangesMap })
		}
		got := Host(state, family, ownership, ranges)
		for _, u := range units {
			got.Chains = append(got.Chains, u.Chains...)
			got.Sets = append(got.Sets, u.Sets...)
			elements = append(elements, u.Elements...)
		}
		for i := range got.Sets {
			for _, e := range elements {
				if e.Set == got.Sets[i].Name {
					got.Sets[i].Elements = append(got.Sets[i].Elements, e.Element)
				}
			}
		}
		if diff := cmp.Diff(Build(state, family, ownership), sorted(got)); diff != "" {
			t.Errorf("the sum of contributions differs from the table (-table +sum):\n%s", diff)
		}
	})
}

// TestSharedContent expects that Forwards with equal content share their chains and sets.
func TestSharedContent(t *testing.T) {
	for _, family := range families {
		one := forwards(family)
		many := one
		for i := range 100 {
			for _, f := range one.Forwards {
				many.Forwards = append(many.Forwards, with(f, func(f *gateway.Forward) { f.Address = external(family, 100+i) }))
			}
		}
		if a, b := Build(one, family, ownership), Build(many, family, ownership); len(a.Chains) != len(b.Chains) || len(a.Sets) != len(b.Sets) {
			t.Errorf("IPv%d: %d chains and %d sets, want the %d and %d of one address", family, len(b.Chains), len(b.Sets), len(a.Chains), len(a.Sets))
		}
	}
}

// TestFamiliesAreApart expects that the other family's Forwards and Egresses do not change a table.
func TestFamiliesAreApart(t *testing.T) {
	for _, tc := range scenarios {
		states := map[gateway.Family]gateway.State{gateway.IPv4: tc.state(gateway.IPv4), gateway.IPv6: tc.state(gateway.IPv6)}
		for _, family := range families {
			mixed := states[family]
			mixed.Forwards = slices.Concat(states[gateway.IPv4].Forwards, states[gateway.IPv6].Forwards)
			mixed.Egresses = slices.Concat(states[gateway.IPv4].Egresses, states[gateway.IPv6].Egresses)
			if diff := cmp.Diff(Build(states[family], family, ownership), Build(mixed, family, ownership)); diff != "" {
				t.Errorf("%s, IPv%d (-alone +mixed):\n%s", tc.name, family, diff)
			}
		}
	}
}

// TestGuardIsApart expects that the guard shares no chain or set with what follows it, so that one can go while the other stays.
func TestGuardIsApart(t *testing.T) {
	each(t, func(t *testing.T, state gateway.State, family gateway.Family) {
		for _, guard := range []bool{false, true} {
			table := Build(state, family, ownership)
			if guard {
				table = Guard(state, family, ownership)
			}
			for _, c := range table.Chains {
				if IsGuard(c.Name) != guard {
					t.Errorf("the chain %s belongs to the guard: %t", c.Name, !guard)
				}
			}
			for _, s := range table.Sets {
				if IsGuard(s.Name) != guard {
					t.Errorf("the set %s belongs to the guard: %t", s.Name, !guard)
				}
			}
		}
	})
}
