// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// withSources returns a Mapping of three ports, of which two are adjacent, and another Mapping next to it.
func withSources(family gateway.Family, sources []netip.Prefix) gateway.State {
	state := gateway.State{Uplinks: uplinks}
	for _, port := range []uint16{80, 81, 443, 8080} {
		f := forward(family, 1, gateway.TCP, port, port, backends(family, 2, port))
		f.Sources = sources
		if port == 8080 {
			f.Owner, f.Sources = "default/other", nil
		}
		state.Forwards = append(state.Forwards, f)
	}
	return state
}

func withSets() Options {
	opts := options
	opts.Sets = true
	return opts
}

func TestManySources(t *testing.T) {
	for _, tc := range []struct {
		name    string
		sources int
		sets    bool
		// want is the cost that the sources add.
		want    cost
		members int
	}{
		{"few", listedSources, true, cost{Chains: 1, Rules: 67}, 0},
		{"many", listedSources + 1, true, cost{Rules: 1}, 65},
		{"10000", 10000, true, cost{Rules: 1}, 10000},
		{"10000 without sets", 10000, false, cost{Chains: 1, Rules: 10003}, 0},
	} {
		for _, family := range families {
			t.Run(fmt.Sprintf("%s/IPv%d", tc.name, family), func(t *testing.T) {
				opts := options
				opts.Sets = tc.sets
				rs, open := Build(withSources(family, manySources(family, tc.sources)), family, opts), Build(withSources(family, nil), family, opts)
				check(t, rs)
				with, without := size(ruleset.Diff(ruleset.Ruleset{}, rs, "")), size(ruleset.Diff(ruleset.Ruleset{}, open, ""))
				if diff := cmp.Diff(tc.want, cost{Chains: with.Chains - without.Chains, Rules: with.Rules - without.Rules}); diff != "" {
					t.Error(diff)
				}
				if tc.members == 0 {
					if len(rs.Sets) != 0 {
						t.Errorf("sets %v", rs.Sets)
					}
					return
				}
				if len(rs.Sets) != 1 || len(rs.Sets[0].Members) != tc.members || rs.Sets[0].Family != family {
					t.Fatalf("sets %v", rs.Sets)
				}
				if text := string(ruleset.Render(rs)); strings.Count(text, "! --match-set "+rs.Sets[0].Name+" src") != 1 {
					t.Errorf("want one rule that matches the set:\n%s", text)
				}
			})
		}
	}
}

// TestSourceOfManyThatComes expects that another source changes no rule and that the set keeps its name.
func TestSourceOfManyThatComes(t *testing.T) {
	for _, family := range families {
		builder := NewBuilder(family, withSets())
		before := builder.Build(withSources(family, manySources(family, 100)))
		after := builder.Build(withSources(family, manySources(family, 101)))
		if batch := ruleset.Diff(before, after, options.Ownership.ChainPrefix); !batch.Empty() {
			t.Errorf("IPv%d: rules change:\n%s", family, batch.Text())
		}
		if before.Sets[0].Name != after.Sets[0].Name || len(after.Sets[0].Members) != 101 {
			t.Errorf("IPv%d: %v", family, after.Sets)
		}
	}
}

func TestSetNamesFit(t *testing.T) {
	opts := withSets()
	opts.Ownership.SetPrefix = "sixteen-letters-"
	names := map[string]bool{}
	for _, family := range families {
		for _, owner := range []string{"default/echo", "default/echo2", strings.Repeat("n", 63) + "/" + strings.Repeat("m", 253)} {
			state := withSources(family, manySources(family, 100))
			for _, f := range state.Forwards {
				f.Owner = owner
			}
			for _, s := range Build(state, family, opts).Sets {
				names[s.Name] = true
				// Leave three characters for the name of a temporary set.
				if len(s.Name) > 28 || !strings.HasPrefix(s.Name, opts.Ownership.SetPrefix) {
					t.Errorf("%s has %d characters", s.Name, len(s.Name))
				}
			}
		}
	}
	if len(names) != 6 {
		t.Errorf("names %v, want 6", names)
	}
}

// TestEverybodyIsNoSource expects that a network of all addresses is the same as no sources.
func TestEverybodyIsNoSource(t *testing.T) {
	for _, family := range families {
		sources := append([]netip.Prefix{everybody(family)}, manySources(family, 100)...)
		got, want := Build(withSources(family, sources), family, withSets()), Build(withSources(family, nil), family, withSets())
		if diff := cmp.Diff(string(ruleset.Render(want)), string(ruleset.Render(got))); diff != "" || len(got.Sets) > 0 {
			t.Errorf("IPv%d: sets %v\n%s", family, got.Sets, diff)
		}
	}
}

// TestPacketsFromManySources sends packets from sources that are in sets and from others.
func TestPacketsFromManySources(t *testing.T) {
	for _, sets := range []bool{true, false} {
		for _, family := range families {
			t.Run(fmt.Sprintf("sets=%t/IPv%d", sets, family), func(t *testing.T) {
				opts := options
				opts.Sets = sets
				random := rand.New(rand.NewPCG(3, 9))
				state := randomState(random, family)
				for i, f := range state.Forwards {
					f.Owner = fmt.Sprintf("default/mapping-%d", i/5)
					f.Sources, f.SourcesDeny = manySources(family, 40*(i/5%4)), false
				}
				rs := Build(state, family, opts)
				if sets == (len(rs.Sets) == 0) {
					t.Errorf("%d sets", len(rs.Sets))
				}
				tracer := ruleset.NewTracer(rs)
				for i, f := range state.Forwards {
					for _, n := range []int{0, 39, 40, 79, 80, 119, 120, 1000} {
						p := firstPacket(family, source(family, n).Addr().Next(), f.Address, f.Protocol, f.Ports.First)
						judge(t, state, p, 0, false, tracer.Choosing(pick(0)).Trace(p))
						if allowed := slices.ContainsFunc(f.Sources, func(s netip.Prefix) bool { return s.Contains(p.Source.Addr()) }); allowed != (n < 40*(i/5%4)) {
							t.Fatalf("%s is in %d sources: %t", p.Source, len(f.Sources), allowed)
						}
					}
				}
			})
		}
	}
}
