// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/iptablestest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// parts are what a Dataplane is made of.
type parts struct {
	own       gateway.Ownership
	guardOnly []gateway.Family
	unused    iptables.UnusedTables
	// backend makes the Ruleset, if set. Otherwise it is iptables with Program and Sets.
	backend     rulesetMaker
	randomFully bool
	// countTraffic and takeOver are those of dataplane.Options.
	countTraffic, takeOver bool

	Program   iptables.Program
	Sets      iptables.Sets
	Routes    dataplane.Routes
	Sysctls   dataplane.Sysctls
	Conntrack dataplane.Conntrack
}

// rulesetMaker is what crash tests need of a backend.
type rulesetMaker interface {
	ruleset(guardOnly []gateway.Family, life *life) dataplane.Ruleset
}

func (p parts) dataplane() *dataplane.Dataplane { return p.mortal(nil) }

// mortal returns a Dataplane whose writes end with the life, if that is set.
func (p parts) mortal(life *life) *dataplane.Dataplane {
	opts := dataplane.Options{
		Ownership: p.own, GuardOnly: p.guardOnly, CountTraffic: p.countTraffic, TakeOver: p.takeOver, Ruleset: p.ruleset(life), Routes: p.Routes, Sysctls: p.Sysctls, Conntrack: p.Conntrack,
	}
	if life != nil {
		opts.Routes, opts.Sysctls = mortalRoutes{p.Routes, life}, mortalSysctls{p.Sysctls, life}
		opts.Conntrack = mortalConntrack{p.Conntrack, life}
	}
	if p.unused != nil {
		opts.Leftovers = []dataplane.Leftovers{iptables.NewLeftovers(p.unused, p.own)}
	}
	return dataplane.New(opts)
}

func (p parts) ruleset(life *life) dataplane.Ruleset {
	if p.backend != nil {
		return p.backend.ruleset(p.guardOnly, life)
	}
	if life != nil {
		p.Program = mortalProgram{p.Program, life}
		if p.Sets != nil {
			p.Sets = mortalSets{p.Sets, p.own, life}
		}
	}
	return iptables.New(iptables.Options{
		Ownership: p.own, Program: p.Program, Sets: p.Sets, RandomFully: p.randomFully, GuardOnly: p.guardOnly,
	})
}

// tracers model what the rules in the kernel do to packets.
func (p parts) tracers(t *testing.T) map[gateway.Family]packet.Tracer {
	t.Helper()
	all, rules := map[gateway.Family]packet.Tracer{}, p.ruleset(nil)
	for _, family := range rules.Families() {
		var err error
		if all[family], err = rules.Tracer(t.Context(), family); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// start returns a Dataplane as smartnatd has it after a start.
func start(k *iptablestest.Kernel) *dataplane.Dataplane { return options(k).dataplane() }

func options(k *iptablestest.Kernel) parts {
	return parts{
		own: gateway.DefaultOwnership(), randomFully: true,
		Program: k.Tables, Sets: k.Sets, Routes: k.Routes, Sysctls: k.Sysctls, Conntrack: k.Conntrack,
	}
}

func newKernel() *iptablestest.Kernel { return iptablestest.New("eth0", "eth1", "eth2") }

func apply(t *testing.T, d *dataplane.Dataplane, state gateway.State) dataplane.Result {
	t.Helper()
	result, err := d.Apply(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// fresh returns a kernel after a first start with the state.
func fresh(t *testing.T, state gateway.State) *iptablestest.Kernel {
	t.Helper()
	k := newKernel()
	apply(t, start(k), state)
	return k
}

func expectSame(t *testing.T, want, got *iptablestest.Kernel) {
	t.Helper()
	if diff := cmp.Diff(want.Routes.Set.Commands(), got.Routes.Set.Commands()); diff != "" {
		t.Errorf("policy routing (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Sysctls.Values, got.Sysctls.Values); diff != "" {
		t.Errorf("sysctls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Sets.Members, got.Sets.Members, same...); diff != "" {
		t.Errorf("sets (-want +got):\n%s", diff)
	}
	for family, rules := range want.Tables.Rulesets {
		// Built-in chains stay, empty, after a write to them.
		if diff := cmp.Diff(text(rules), text(got.Tables.Rulesets[family])); diff != "" {
			t.Errorf("IPv%d rules (-want +got):\n%s", family, diff)
		}
	}
}

// text returns a rule set as input of iptables-restore, which is easy to compare and read.
func text(rs ruleset.Ruleset) string {
	filled := ruleset.Ruleset{Family: rs.Family}
	for _, t := range rs.Tables {
		t.Chains = slices.DeleteFunc(slices.Clone(t.Chains), func(c *ruleset.Chain) bool {
			return len(c.Rules) == 0 && !strings.HasPrefix(c.Name, "SMARTNAT-")
		})
		if len(t.Chains) > 0 {
			filled.Tables = append(filled.Tables, t)
		}
	}
	return string(ruleset.Render(filled))
}

func TestOrderOfWrites(t *testing.T) {
	k := newKernel()
	d := start(k)
	state := gateway.State{
		Forwards: []*gateway.Forward{forward("198.51.100.10", 8080, "10.244.1.2")},
		Uplinks:  []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24"), Gateways: addrs("198.51.100.1")}},
	}
	result := apply(t, d, state)
	want := []string{
		"ip route add 198.51.100.0/24 dev eth1 table 7380 proto 83 scope link",
		"ip route add default via 198.51.100.1 dev eth1 table 7380 proto 83",
		"ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
		"IPv4 mangle", "IPv4 filter", "IPv4 nat",
		"sysctl net/ipv4/conf/eth1/rp_filter=2",
		"sysctl net/ipv4/ip_forward=1",
		"IPv6 mangle", "IPv6 filter", "IPv6 nat",
	}
	if diff := cmp.Diff(want, k.Journal); diff != "" {
		t.Errorf("adding (-want +got):\n%s", diff)
	}
	if len(result.Sysctls) != 2 || result.Routes() != 2 || result.IPRules() != 1 || result.Writes != 2 || result.Chains == 0 || result.Rules == 0 {
		t.Errorf("the result %q is not what was written", result)
	}
	if len(result.Repaired) > 0 {
		t.Errorf("repaired at the first start: %q", result.Repaired)
	}

	k.Journal = nil
	apply(t, d, gateway.State{})
	want = []string{
		"sysctl net/ipv4/conf/eth1/rp_filter=1",
		"IPv4 mangle", "IPv4 filter", "IPv4 nat",
		"IPv6 mangle", "IPv6 filter", "IPv6 nat",
		"ip rule del priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
		"ip route del default via 198.51.100.1 dev eth1 table 7380 proto 83",
		"ip route del 198.51.100.0/24 dev eth1 table 7380 proto 83 scope link",
	}
	if diff := cmp.Diff(want, k.Journal); diff != "" {
		t.Errorf("removing (-want +got):\n%s", diff)
	}

	k.Journal = nil
	if _, err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	want = []string{
		"sysctl net/ipv4/ip_forward=0",
		"IPv4 nat", "IPv4 filter", "IPv4 mangle",
		"IPv6 nat", "IPv6 filter", "IPv6 mangle",
	}
	if diff := cmp.Diff(want, k.Journal); diff != "" {
		t.Errorf("cleaning up (-want +got):\n%s", diff)
	}
}

func TestExecutions(t *testing.T) {
	k := newKernel()
	d := start(k)
	steps := []struct {
		name            string
		do              func() dataplane.Result
		saves, restores int
		// observations counts readings of policy routing.
		observations int
		empty        bool
	}{
		{name: "first start", do: func() dataplane.Result { return apply(t, d, full()) }, saves: 2, restores: 2, observations: 1},
		{name: "no change", do: func() dataplane.Result { return apply(t, d, full()) }, empty: true},
		{
			name: "an endpoint disappears",
			do: func() dataplane.Result {
				state := full()
				state.Forwards[0].Backends = state.Forwards[0].Backends[:1]
				return apply(t, d, state)
			},
			restores: 1,
		},
		{name: "and comes back", do: func() dataplane.Result { return apply(t, d, full()) }, restores: 1},
		{
			name: "restart",
			do: func() dataplane.Result {
				d = start(k)
				return apply(t, d, full())
			},
			saves: 2, observations: 1, empty: true,
		},
		{
			name: "verification after a reading",
			do: func() dataplane.Result {
				d.Verify()
				return apply(t, d, full())
			},
			observations: 1, empty: true,
		},
		{
			name: "another endpoint disappears",
			do: func() dataplane.Result {
				state := full()
				state.Forwards[2].Backends = state.Forwards[2].Backends[:1]
				return apply(t, d, state)
			},
			restores: 1,
		},
		{name: "and comes back, too", do: func() dataplane.Result { return apply(t, d, full()) }, restores: 1},
		{
			name: "verification after a write",
			do: func() dataplane.Result {
				d.Verify()
				return apply(t, d, full())
			},
			saves: 1, observations: 1, empty: true, // only the written family is read
		},
		{
			name: "host changed",
			do: func() dataplane.Result {
				d.HostChanged()
				return apply(t, d, full())
			},
			observations: 1, empty: true,
		},
	}
	for _, step := range steps {
		k.Tables.Saves, k.Tables.Restores, k.Routes.Observations, k.Journal = 0, 0, 0, nil
		result := step.do()
		if k.Tables.Saves != step.saves || k.Tables.Restores != step.restores {
			t.Errorf("%s: %d saves, %d restores; want %d, %d", step.name, k.Tables.Saves, k.Tables.Restores, step.saves, step.restores)
		}
		if k.Routes.Observations != step.observations {
			t.Errorf("%s: policy routing was read %d times, want %d", step.name, k.Routes.Observations, step.observations)
		}
		if result.Empty() != step.empty || (len(k.Journal) == 0) != step.empty {
			t.Errorf("%s: result %q, journal %q; want empty: %t", step.name, result, k.Journal, step.empty)
		}
	}
}

func TestResultString(t *testing.T) {
	if got := (dataplane.Result{}).String(); got != "nothing" {
		t.Errorf("an empty result is %q", got)
	}
	result := apply(t, start(newKernel()), gateway.State{ServiceRoutes: []gateway.ServiceRoute{
		{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: addrs("10.10.0.11")},
	}})
	if got := result.String(); !strings.HasPrefix(got, "1 sysctl, 1 route, ") || !strings.Contains(got, " chains, ") {
		t.Errorf("the result is %q", got)
	}
}
