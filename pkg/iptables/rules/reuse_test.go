// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// step returns a state that usually differs little from the last one and shares the rest with it.
func step(random *rand.Rand, last gateway.State, family gateway.Family) gateway.State {
	next := last
	next.Forwards = slices.Clone(last.Forwards)
	if len(next.Forwards) == 0 || random.IntN(30) == 0 {
		next = randomState(random, family)
		next.Forwards = next.Forwards[:min(len(next.Forwards), 300)]
		return next
	}
	if random.IntN(4) == 0 {
		next.Forwards = gatewaytest.Copies(last.Forwards) // equal, in other memory
	}
	switch random.IntN(30) {
	case 1, 2, 3:
		next.Uplinks, next.Egresses = uplinks[:random.IntN(3)], nil
		return next
	case 4, 5, 6:
		next.ClampMSS = !next.ClampMSS
		next.MasqueradePorts = gateway.PortRange{First: 1024, Last: 65535 - uint16(random.IntN(2))}
		return next
	case 9, 10:
		next.MasqueradeAddresses = masqueraded(family).MasqueradeAddresses[random.IntN(4):]
		return next
	case 7, 8:
		next.ForwardedOnly = !next.ForwardedOnly
		return next
	}
	for range 1 + random.IntN(3) {
		if len(next.Forwards) == 0 {
			break
		}
		changeOne(random, &next, family)
	}
	return next
}

// changeOne changes a forward. The list belongs to the state, its elements may be shared.
func changeOne(random *rand.Rand, next *gateway.State, family gateway.Family) {
	i := random.IntN(len(next.Forwards))
	f := own(next.Forwards, i)
	switch random.IntN(9) {
	case 0:
		end := min(len(next.Forwards), i+1+random.IntN(8))
		next.Forwards = slices.Delete(next.Forwards, i, end)
	case 1:
		other := *f
		other.Protocol, other.Address = gateway.TCP, external(family, random.IntN(40))
		if !overlaps(next.Forwards, &other) {
			next.Forwards = gatewaytest.Sort(append(next.Forwards, &other))
		}
	case 2:
		f.Backends = slices.Clone(f.Backends) // equal, in other memory
	case 3:
		f.Backends = backends(family, random.IntN(5), f.Ports.First)
	case 4:
		f.Sources, f.SourcesDeny = manySources(family, random.IntN(2*listedSources)), false
	case 5:
		f.Sources, f.SourcesDeny = []netip.Prefix{everybody(family)}, false
	case 6:
		f.Masquerade = !f.Masquerade
	case 7:
		f.Owner = fmt.Sprintf("default/mapping-%d", random.IntN(5))
	case 8:
		// Forwards that differ only in their ports may be merged.
		for j := i + 1; j < min(len(next.Forwards), i+10); j++ {
			to := own(next.Forwards, j)
			front := to.Frontend
			*to = *f
			to.Frontend = front
		}
	}
}

// own replaces a forward that may be shared with a copy.
func own(forwards []*gateway.Forward, i int) *gateway.Forward {
	f := *forwards[i]
	forwards[i] = &f
	return &f
}

func overlaps(forwards []*gateway.Forward, f *gateway.Forward) bool {
	return slices.ContainsFunc(forwards, func(g *gateway.Forward) bool {
		return g.Address == f.Address && g.Protocol == f.Protocol && g.Ports.Overlaps(f.Ports)
	})
}

// manySources returns this number of adjacent networks.
func manySources(family gateway.Family, n int) []netip.Prefix {
	var sources []netip.Prefix
	for i := range n {
		sources = append(sources, source(family, i))
	}
	return sources
}

func everybody(family gateway.Family) netip.Prefix {
	if family == gateway.IPv4 {
		return netip.MustParsePrefix("0.0.0.0/0")
	}
	return netip.MustParsePrefix("::/0")
}

// equal is faster than reflect.DeepEqual, because rules are comparable.
func equal(x, y ruleset.Ruleset) bool {
	return x.Family == y.Family &&
		slices.EqualFunc(x.Tables, y.Tables, func(x, y ruleset.Table) bool {
			return x.Name == y.Name && slices.EqualFunc(x.Chains, y.Chains, func(x, y *ruleset.Chain) bool {
				return x.Name == y.Name && x.Policy == y.Policy && slices.Equal(x.Rules, y.Rules)
			})
		}) &&
		slices.EqualFunc(x.Sets, y.Sets, func(x, y ruleset.Set) bool {
			return x.Name == y.Name && x.Family == y.Family && slices.Equal(x.Members, y.Members)
		})
}

// TestBuilderBuildsWhatBuildDoes walks through states, sometimes back to an earlier one, and compares the incremental result
// with a fresh build.
func TestBuilderBuildsWhatBuildDoes(t *testing.T) {
	opts := options
	opts.Sets = true
	for seed := range uint64(3) {
		for _, family := range families {
			t.Run(fmt.Sprintf("%d/IPv%d", seed, family), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 17))
				builder := NewBuilder(family, opts)
				history := []gateway.State{{}}
				var kernel, given, before ruleset.Ruleset
				for n := range 100 {
					state := step(random, history[n], family)
					if random.IntN(10) == 0 {
						state = history[random.IntN(len(history))]
					}
					history = append(history, state)
					got, want := builder.Build(state), Build(state, family, opts)
					if !equal(got, want) {
						t.Fatalf("step %d:\n%s", n, cmp.Diff(string(ruleset.Render(want)), string(ruleset.Render(got))))
					}
					if n > 0 && !equal(given, before) {
						t.Fatalf("step %d changed an earlier result:\n%s", n, cmp.Diff(string(ruleset.Render(before)), string(ruleset.Render(given))))
					}
					given, before = got, want
					// A comparison that relies on shared chains must give the same result.
					kernel = ruleset.Apply(kernel, ruleset.Diff(kernel, got, opts.Ownership.ChainPrefix))
					if left := ruleset.Diff(kernel, want, opts.Ownership.ChainPrefix); !left.Empty() {
						t.Fatalf("step %d leaves differences:\n%s", n, left.Text())
					}
				}
			})
		}
	}
}

// TestBuilderUsesEachField changes one field of the State after a build, and compares with a fresh build.
func TestBuilderUsesEachField(t *testing.T) {
	base := gateway.State{
		Uplinks: uplinks, ForwardingOwned: gateway.Families{IPv4: true}, MasqueradeRemote: true,
		Forwards: []*gateway.Forward{forward(gateway.IPv4, 1, gateway.TCP, 21, 21, backends(gateway.IPv4, 2, 21))},
	}
	network := []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	changes := map[string]func(*gateway.State){
		"Forwards":        func(s *gateway.State) { s.Forwards = nil },
		"Absent":          func(s *gateway.State) { s.Absent.Forwards = s.Forwards },
		"Uplinks":         func(s *gateway.State) { s.Uplinks = s.Uplinks[:1] },
		"Outside":         func(s *gateway.State) { s.Outside = []string{"eth9"} },
		"OwnPrefixes":     func(s *gateway.State) { s.OwnPrefixes = []string{"eth9"} },
		"InsideNetworks":  func(s *gateway.State) { s.InsideNetworks = network },
		"BackendNetworks": func(s *gateway.State) { s.BackendNetworks = network },
		"ForwardingOwned": func(s *gateway.State) { s.ForwardingOwned = gateway.Families{} },
		"InsideLinks":     func(s *gateway.State) { s.InsideLinks = []string{"eth9"} },
		"BridgeNetfilter": func(s *gateway.State) { s.BridgeNetfilter = gateway.Families{IPv4: true} },
		"ServiceRoutes":   func(s *gateway.State) { s.ServiceRoutes = []gateway.ServiceRoute{{Destination: network[0]}} },
		"Egresses": func(s *gateway.State) {
			s.Egresses = []gateway.Egress{{Address: external(gateway.IPv4, 1), Uplink: 1, Sources: []netip.Addr{inside(gateway.IPv4, 1)}}}
		},
		"ClampMSS":        func(s *gateway.State) { s.ClampMSS = true },
		"ForwardedOnly":   func(s *gateway.State) { s.ForwardedOnly = true },
		"MasqueradePorts": func(s *gateway.State) { s.MasqueradePorts = gateway.PortRange{First: 2000, Last: 3000} },
		"MasqueradeAddresses": func(s *gateway.State) {
			s.MasqueradeAddresses = []gateway.LinkAddresses{{Link: "eth0", Addresses: []netip.Addr{inside(gateway.IPv4, 0x6400)}}}
		},
		"MasqueradeRemote": func(s *gateway.State) { s.MasqueradeRemote = false },
		"LocalBackends":    func(s *gateway.State) { s.LocalBackends = []netip.Addr{inside(gateway.IPv4, 1)} },
		"Sync": func(s *gateway.State) {
			s.Sync = gateway.SyncEndpoint{Address: inside(gateway.IPv4, 2), Link: "eth3", Port: 3780}
		},
		"Helpers":   func(s *gateway.State) { s.Helpers = []gateway.Helper{{Name: "ftp", Protocol: gateway.TCP, Port: 21}} },
		"Flowtable": func(s *gateway.State) { s.Flowtable.Families = gateway.Families{IPv4: true} },
	}
	// These are not for the rules.
	ignored := []string{"Absent", "OwnPrefixes", "Flowtable"}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[gateway.State]()) {
		t.Run(field.Name, func(t *testing.T) {
			change := changes[field.Name]
			if change == nil {
				t.Fatal("no change of this field to test")
			}
			builder := NewBuilder(gateway.IPv4, options)
			before := builder.Build(base)
			changed := base
			change(&changed)
			got, want := builder.Build(changed), Build(changed, gateway.IPv4, options)
			if !equal(got, want) {
				t.Error(cmp.Diff(string(ruleset.Render(want)), string(ruleset.Render(got))))
			}
			if equal(before, want) != slices.Contains(ignored, field.Name) {
				t.Errorf("the rules change: %t", !equal(before, want))
			}
		})
	}
}

// TestBuilderSharesWhatDidNotChange counts the chains that are new.
func TestBuilderSharesWhatDidNotChange(t *testing.T) {
	builder := NewBuilder(gateway.IPv4, options)
	state := dense(1000)
	before := builder.Build(state)
	for _, tc := range []struct {
		name   string
		change func(*gateway.State)
		want   int
	}{
		{"nothing", func(*gateway.State) {}, 0},
		{"one endpoint", func(s *gateway.State) { s.Forwards[500].Backends = s.Forwards[500].Backends[1:] }, 1},
		{"one port less", func(s *gateway.State) { s.Forwards = slices.Delete(s.Forwards, 300, 301) }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state.Forwards = gatewaytest.Copies(state.Forwards)
			tc.change(&state)
			after := builder.Build(state)
			added := 0
			for _, c := range after.Tables[2].Chains {
				i := slices.IndexFunc(before.Tables[2].Chains, func(o *ruleset.Chain) bool { return o.Name == c.Name })
				if i < 0 || c != before.Tables[2].Chains[i] {
					added++
				}
			}
			if added != tc.want {
				t.Errorf("%d new chains, want %d", added, tc.want)
			}
			before = after
		})
	}
}
