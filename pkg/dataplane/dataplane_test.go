// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/dataplane/dataplanetest"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// start is what a start of smartnatd is to the kernel.
func start(k *dataplanetest.Kernel) *dataplane.Dataplane {
	return dataplane.New(dataplane.Options{
		Ownership: gateway.DefaultOwnership(), RandomFully: true,
		IPTables: k.Tables, Routes: k.Routes, Sysctls: k.Sysctls, Conntrack: k.Conntrack,
	})
}

func newKernel() *dataplanetest.Kernel { return dataplanetest.New("eth0", "eth1", "eth2") }

func apply(t *testing.T, d *dataplane.Dataplane, state gateway.State) dataplane.Result {
	t.Helper()
	result, err := d.Apply(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// fresh is the kernel after a first start with the state.
func fresh(t *testing.T, state gateway.State) *dataplanetest.Kernel {
	t.Helper()
	k := newKernel()
	apply(t, start(k), state)
	return k
}

func expectSame(t *testing.T, want, got *dataplanetest.Kernel) {
	t.Helper()
	if diff := cmp.Diff(want.Routes.Set.Commands(), got.Routes.Set.Commands()); diff != "" {
		t.Errorf("policy routing (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Sysctls.Values, got.Sysctls.Values); diff != "" {
		t.Errorf("sysctls (-want +got):\n%s", diff)
	}
	for family, rules := range want.Tables.Rulesets {
		// Built-in chains that were written to once stay, empty.
		if diff := cmp.Diff(text(rules), text(got.Tables.Rulesets[family])); diff != "" {
			t.Errorf("IPv%d rules (-want +got):\n%s", family, diff)
		}
	}
}

// text is a rule set as iptables-restore's input, the easiest to compare and to read.
func text(rs netfilter.Ruleset) string {
	filled := netfilter.Ruleset{Family: rs.Family}
	for _, t := range rs.Tables {
		t.Chains = slices.DeleteFunc(slices.Clone(t.Chains), func(c netfilter.Chain) bool {
			return len(c.Rules) == 0 && !strings.HasPrefix(c.Name, "SMARTNAT-")
		})
		if len(t.Chains) > 0 {
			filled.Tables = append(filled.Tables, t)
		}
	}
	return string(netfilter.Render(filled))
}

func TestOrderOfWrites(t *testing.T) {
	k := newKernel()
	d := start(k)
	state := gateway.State{
		Forwards: []gateway.Forward{forward("198.51.100.10", 8080, "10.244.1.2")},
		Uplinks:  []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24"), Gateways: addrs("198.51.100.1")}},
	}
	result := apply(t, d, state)
	want := []string{
		"sysctl net/ipv4/conf/eth1/rp_filter=2",
		"ip route add 198.51.100.0/24 dev eth1 table 7380 proto 83 scope link",
		"ip route add default via 198.51.100.1 dev eth1 table 7380 proto 83",
		"ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
		"IPv4 mangle", "IPv4 filter", "IPv4 nat",
		"sysctl net/ipv4/ip_forward=1",
		"IPv6 mangle", "IPv6 filter", "IPv6 nat",
	}
	if diff := cmp.Diff(want, k.Journal); diff != "" {
		t.Errorf("adding (-want +got):\n%s", diff)
	}
	if len(result.Sysctls) != 2 || result.Routes() != 2 || result.IPRules() != 1 || len(result.Batches) != 2 || result.Chains() == 0 || result.Rules() == 0 {
		t.Errorf("the result %q is not what was written", result)
	}
	if len(result.Missing) > 0 {
		t.Errorf("missing at the first start: %q", result.Missing)
	}

	k.Journal = nil
	apply(t, d, gateway.State{})
	want = []string{
		"IPv4 mangle", "IPv4 filter", "IPv4 nat",
		"IPv6 mangle", "IPv6 filter", "IPv6 nat",
		"ip rule del priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
		"ip route del default via 198.51.100.1 dev eth1 table 7380 proto 83",
		"ip route del 198.51.100.0/24 dev eth1 table 7380 proto 83 scope link",
		"sysctl net/ipv4/conf/eth1/rp_filter=1",
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
		empty           bool
	}{
		{name: "first start", do: func() dataplane.Result { return apply(t, d, full()) }, saves: 2, restores: 2},
		{name: "no change", do: func() dataplane.Result { return apply(t, d, full()) }, empty: true},
		{
			name: "an endpoint that went",
			do: func() dataplane.Result {
				state := full()
				state.Forwards[0].Backends = state.Forwards[0].Backends[:1]
				return apply(t, d, state)
			},
			restores: 1,
		},
		{name: "and came back", do: func() dataplane.Result { return apply(t, d, full()) }, restores: 1},
		{
			name: "restart",
			do: func() dataplane.Result {
				d = start(k)
				return apply(t, d, full())
			},
			saves: 2, empty: true,
		},
		{
			name: "verification",
			do: func() dataplane.Result {
				d.Invalidate()
				return apply(t, d, full())
			},
			saves: 2, empty: true,
		},
	}
	for _, step := range steps {
		k.Tables.Saves, k.Tables.Restores, k.Journal = 0, 0, nil
		result := step.do()
		if k.Tables.Saves != step.saves || k.Tables.Restores != step.restores {
			t.Errorf("%s: %d saves, %d restores; want %d, %d", step.name, k.Tables.Saves, k.Tables.Restores, step.saves, step.restores)
		}
		if result.Empty() != step.empty || (len(k.Journal) == 0) != step.empty {
			t.Errorf("%s: result %q, journal %q; want empty: %t", step.name, result, k.Journal, step.empty)
		}
	}
}

// Every step fails once; all that does not need it is done, and the next Apply brings the rest.
func TestFailures(t *testing.T) {
	want := fresh(t, full())
	steps := slices.Concat([]string{"observe routes", "IPv4 save", "IPv6 save", "cut connections"}, want.Journal)
	for _, failing := range steps {
		t.Run(failing, func(t *testing.T) {
			k := newKernel()
			d := start(k)
			broken := errors.New("broken for the test")
			k.Fail = func(step string) error {
				if step == failing {
					return broken
				}
				return nil
			}
			result, err := d.Apply(t.Context(), full())
			if !errors.Is(err, broken) {
				t.Errorf("err = %v, want the injected one", err)
			}
			if result.Empty() {
				t.Error("nothing was done beside the failure")
			}
			for _, step := range want.Journal {
				if !dependsOn(step, failing) && !slices.Contains(k.Journal, step) {
					t.Errorf("not done: %s", step)
				}
			}
			k.Fail = nil
			if result := apply(t, d, full()); len(result.Missing) > 0 {
				t.Errorf("what failed is said to have gone missing: %q", result.Missing)
			}
			expectSame(t, want, k)
		})
	}
}

// A change that failed halfway is undone by going back to the state before.
func TestBackAfterFailure(t *testing.T) {
	for _, failing := range fresh(t, full()).Journal {
		t.Run(failing, func(t *testing.T) {
			k := newKernel()
			d := start(k)
			apply(t, d, gateway.State{})
			broken := errors.New("broken for the test")
			k.Fail = func(step string) error {
				if step == failing {
					return broken
				}
				return nil
			}
			_, err := d.Apply(t.Context(), full())
			if set := failing == "sysctl net/ipv4/ip_forward=1"; set != (err == nil) { // set by the state before
				t.Errorf("err = %v", err)
			}
			k.Fail = nil
			apply(t, d, gateway.State{})
			expectSame(t, fresh(t, gateway.State{}), k)
		})
	}
}

// dependsOn reports whether a step cannot be made without the other.
func dependsOn(step, on string) bool {
	family, _, isFamily := strings.Cut(on, " ")
	switch {
	case step == on:
		return true
	case on == "observe routes":
		return strings.HasPrefix(step, "ip ")
	case strings.HasPrefix(family, "IPv") && isFamily:
		// Forwarding waits for the boundary.
		return strings.HasPrefix(step, family+" ") || strings.HasPrefix(step, "sysctl net/"+strings.ToLower(family)) && !strings.Contains(step, "rp_filter")
	case strings.Contains(on, "accept_ra"): // or the host would lose what it heard from routers
		return strings.Contains(step, "net/ipv6/conf/all/forwarding")
	case strings.Contains(on, "route add 1") || strings.Contains(on, "route add 2"): // the network that a gateway is in
		return strings.Contains(step, " default via ")
	}
	return false
}

func TestRepair(t *testing.T) {
	for _, tc := range []struct {
		name string
		harm func(k *dataplanetest.Kernel)
		// verify is set when only a verification can notice.
		verify  bool
		missing []string
	}{
		{
			name:    "iptables -t nat -F; iptables -t nat -X",
			harm:    func(k *dataplanetest.Kernel) { dropTable(k, netfilter.IPv4, "nat") },
			verify:  true,
			missing: []string{"IPv4 table nat: chains missing or changed: SMARTNAT-", "jumps missing or not first: OUTPUT POSTROUTING PREROUTING"},
		},
		{
			name: "another program's rule above ours",
			harm: func(k *dataplanetest.Kernel) {
				insert(k, "filter", "FORWARD", netfilter.Rule{In: "eth9", Target: netfilter.Target{Verb: netfilter.Accept}})
			},
			verify:  true,
			missing: []string{"IPv4 table filter: jumps missing or not first: FORWARD"},
		},
		{
			name:    "ip rule flush",
			harm:    func(k *dataplanetest.Kernel) { k.Routes.Set.Rules = nil },
			missing: []string{"ip rule: ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380", "ip rule: ip -6 rule add", "lookup 7381"},
		},
		{
			name: "a link that flapped",
			harm: func(k *dataplanetest.Kernel) {
				k.Routes.SetLink("eth1", false)
				k.Routes.SetLink("eth1", true)
			},
			missing: []string{"route: ip route add default via 198.51.100.1 dev eth1 table 7380", "route: ip -6 route add default via 2001:db8:1::1"},
		},
		{
			name:    "a gateway changed by hand",
			harm:    func(k *dataplanetest.Kernel) { k.Routes.Set.Routes[1].Gateways = addrs("10.10.0.99") },
			missing: []string{"route: "},
		},
		{
			name:    "a sysctl set back",
			harm:    func(k *dataplanetest.Kernel) { k.Sysctls.Values["net/ipv4/ip_forward"] = "0" },
			missing: []string{"sysctl net/ipv4/ip_forward=1: it was 0"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := fresh(t, full())
			d := start(k)
			apply(t, d, full())
			tc.harm(k)
			if tc.verify {
				if result := apply(t, d, full()); !result.Empty() {
					t.Fatalf("noticed without reading the tables: %s", result)
				}
				d.Invalidate()
			}
			result := apply(t, d, full())
			said := strings.Join(result.Missing, "\n")
			for _, want := range tc.missing {
				if !strings.Contains(said, want) {
					t.Errorf("missing %q in:\n%s", want, said)
				}
			}
			if result.Empty() {
				t.Error("nothing was repaired")
			}
			d.Invalidate()
			if result := apply(t, d, full()); !result.Empty() || len(result.Missing) > 0 {
				t.Errorf("repaired again: %s, %q", result, result.Missing)
			}
		})
	}
}

func dropTable(k *dataplanetest.Kernel, family netfilter.Family, name string) {
	rs := k.Tables.Rulesets[family]
	rs.Tables = slices.DeleteFunc(slices.Clone(rs.Tables), func(t netfilter.Table) bool { return t.Name == name })
	k.Tables.Rulesets[family] = rs
}

func insert(k *dataplanetest.Kernel, table, chain string, rule netfilter.Rule) {
	k.Tables.Rulesets[netfilter.IPv4] = netfilter.Apply(k.Tables.Rulesets[netfilter.IPv4], netfilter.Batch{
		Family: netfilter.IPv4,
		Tables: []netfilter.TableBatch{{Name: table, Insert: []netfilter.ChainRule{{Chain: chain, Rule: rule}}}},
	})
}

func TestSysctls(t *testing.T) {
	const all, eth1, forward = "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth1/rp_filter", "net/ipv4/ip_forward"
	for _, tc := range []struct {
		name                           string
		forward, all, eth1             string
		wantForward, wantAll, wantEth1 string
	}{
		{"strict on the link", "0", "0", "1", "1", "0", "2"},
		{"strict on all", "0", "1", "0", "1", "1", "2"},
		{"strict on both", "0", "1", "1", "1", "1", "2"},
		{"loose on all", "1", "2", "1", "1", "2", "1"},
		{"loose on the link", "1", "1", "2", "1", "1", "2"},
		{"off stays off", "1", "0", "0", "1", "0", "0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newKernel()
			k.Sysctls.Values[forward], k.Sysctls.Values[all], k.Sysctls.Values[eth1] = tc.forward, tc.all, tc.eth1
			d := start(k)
			apply(t, d, gateway.State{Uplinks: []gateway.Uplink{uplink1}})
			v := k.Sysctls.Values
			if v[forward] != tc.wantForward || v[all] != tc.wantAll || v[eth1] != tc.wantEth1 {
				t.Errorf("ip_forward %s, all %s, eth1 %s; want %s, %s, %s", v[forward], v[all], v[eth1], tc.wantForward, tc.wantAll, tc.wantEth1)
			}
			if v["net/ipv4/conf/eth2/rp_filter"] != "1" {
				t.Error("a link that is no uplink was changed")
			}
			if _, err := d.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if v[forward] != tc.forward || v[all] != tc.all || v[eth1] != tc.eth1 {
				t.Errorf("after cleanup: ip_forward %s, all %s, eth1 %s; want %s, %s, %s", v[forward], v[all], v[eth1], tc.forward, tc.all, tc.eth1)
			}
		})
	}
}

// A host that forwards IPv6 goes on listening to routers, and is not made to forward without need.
func TestIPv6Forwarding(t *testing.T) {
	const forwarding, all, standard, eth0, eth1, eth2 = "net/ipv6/conf/all/forwarding", "net/ipv6/conf/all/accept_ra", "net/ipv6/conf/default/accept_ra",
		"net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/eth1/accept_ra", "net/ipv6/conf/eth2/accept_ra"
	four := gateway.State{Forwards: []gateway.Forward{forward("198.51.100.10", 8080, "10.244.1.2")}}
	six := gateway.State{Forwards: []gateway.Forward{forward("2001:db8:1::10", 8080, "fd00:244:1::2")}}
	egress := gateway.State{Egresses: []gateway.Egress{{Address: addr("2001:db8:1::10"), Uplink: 1, Sources: addrs("fd00:244:1::2")}}}
	for _, tc := range []struct {
		name   string
		before map[string]string
		state  gateway.State
		want   map[string]string
	}{
		{name: "IPv4 alone", state: four, want: map[string]string{forwarding: "0", standard: "1", eth1: "1"}},
		{name: "a Forward", state: six, want: map[string]string{forwarding: "1", all: "1", standard: "2", eth0: "2", eth1: "2", eth2: "2"}},
		{name: "an Egress", state: egress, want: map[string]string{forwarding: "1", eth1: "2"}},
		{
			name: "links that never listen, or do already", state: six, before: map[string]string{eth1: "0", eth2: "2"},
			want: map[string]string{forwarding: "1", eth0: "2", eth1: "0", eth2: "2"},
		},
		{
			name: "a router already: that is somebody else's doing", state: six, before: map[string]string{forwarding: "1"},
			want: map[string]string{forwarding: "1", standard: "1", eth1: "1"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, end := range []string{"the state needs it no more", "cleanup"} {
				k := newKernel()
				maps.Copy(k.Sysctls.Values, tc.before)
				before := maps.Clone(k.Sysctls.Values)
				d := start(k)
				apply(t, d, tc.state)
				for key, want := range tc.want {
					if got := k.Sysctls.Values[key]; got != want {
						t.Errorf("%s is %s, want %s", key, got, want)
					}
				}
				before["net/ipv4/ip_forward"] = "1"
				if end == "cleanup" {
					before["net/ipv4/ip_forward"] = "0"
					if _, err := d.Cleanup(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else {
					apply(t, d, four)
				}
				if diff := cmp.Diff(before, k.Sysctls.Values); diff != "" {
					t.Errorf("%s (-before +after):\n%s", end, diff)
				}
			}
		})
	}
	t.Run("goes on listening when a link is brought up anew", func(t *testing.T) {
		k := newKernel()
		d := start(k)
		apply(t, d, six)
		k.Sysctls.Values[eth1] = "1"
		result := apply(t, d, six)
		if k.Sysctls.Values[eth1] != "2" || !slices.Equal(result.Missing, []string{"sysctl " + eth1 + "=2: it was 1"}) {
			t.Errorf("%s is %s, missing %q", eth1, k.Sysctls.Values[eth1], result.Missing)
		}
	})
	t.Run("listens before it forwards", func(t *testing.T) {
		k := fresh(t, six)
		last := slices.IndexFunc(k.Journal, func(s string) bool { return s == "sysctl "+forwarding+"=1" })
		for i, step := range k.Journal {
			if strings.Contains(step, "accept_ra") && i > last || strings.HasPrefix(step, "IPv6 ") && i > last {
				t.Errorf("%q came after forwarding", step)
			}
		}
		if last < 0 {
			t.Error("IPv6 is not forwarded")
		}
	})
}

// Connections are held against every state, and against the whole of it after every doubt.
func TestConnections(t *testing.T) {
	broken := errors.New("broken for the test")
	k := newKernel()
	d := start(k)
	other := full()
	other.Forwards[0].Backends = other.Forwards[0].Backends[:1]
	known := func(state gateway.State) *gateway.State { return &state }
	for _, step := range []struct {
		name   string
		before func()
		state  gateway.State
		since  *gateway.State
		// failing is a step that fails.
		failing string
		// stale are as many as the kernel ends.
		stale int
	}{
		{name: "start", state: full(), stale: 3},
		{name: "no change", state: full(), since: known(full())},
		{name: "an endpoint went", state: other, since: known(full()), stale: 1},
		{name: "and came back", state: full(), since: known(other)},
		{name: "verification", before: func() { d.Invalidate() }, state: full()},
		{name: "no rules yet: what is cut may come back", state: gateway.State{}, since: known(full()), failing: "IPv4 nat"},
		{name: "with the rules", state: gateway.State{}, stale: 2},
		{name: "conntrack fails", state: full(), failing: "cut connections"},
		{name: "it is tried again", state: full()},
		{name: "restart", before: func() { d = start(k) }, state: full()},
	} {
		k.Conntrack.Cuts, k.Conntrack.Stale = nil, step.stale
		k.Fail = func(s string) error {
			if s == step.failing {
				return broken
			}
			return nil
		}
		if step.before != nil {
			step.before()
		}
		result, err := d.Apply(t.Context(), step.state)
		if step.failing != "" != errors.Is(err, broken) || step.failing == "" && err != nil {
			t.Errorf("%s: err = %v", step.name, err)
		}
		want := []dataplanetest.Cut{{Since: step.since, State: step.state}}
		if step.failing == "cut connections" {
			want = nil
		}
		if diff := cmp.Diff(want, k.Conntrack.Cuts, same...); diff != "" || result.Connections != step.stale {
			t.Errorf("%s: %d connections, want %d; asked for (-want +got):\n%s", step.name, result.Connections, step.stale, diff)
		}
	}
	k.Conntrack.Cuts, k.Conntrack.Stale = nil, 4
	result, err := d.Cleanup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]dataplanetest.Cut{{}}, k.Conntrack.Cuts); diff != "" || result.Connections != 4 {
		t.Errorf("cleanup: %s, asked for (-want +got):\n%s", result, diff)
	}
}

var same = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestAbsentUplinkBlocksNothing(t *testing.T) {
	k := newKernel()
	k.Routes.SetLink("eth2", false)
	delete(k.Sysctls.Values, "net/ipv4/conf/eth2/rp_filter")
	_, err := start(k).Apply(t.Context(), full())
	if err == nil || strings.Contains(err.Error(), "eth1") || !strings.Contains(err.Error(), "eth2") {
		t.Errorf("err = %v, want eth2 in it alone", err)
	}
	want := fresh(t, full())
	want.Routes.SetLink("eth2", false)
	delete(want.Sysctls.Values, "net/ipv4/conf/eth2/rp_filter")
	expectSame(t, want, k)
}

func TestCleanupLeavesTheRest(t *testing.T) {
	k := newKernel()
	foreign := netfilter.Rule{Foreign: "-s 10.0.0.0/8 -m comment --comment other -j DOCKER", Target: netfilter.Target{Verb: netfilter.Jump, Chain: "DOCKER"}}
	for _, family := range k.Tables.Families() {
		rs := netfilter.Ruleset{Family: family}
		for _, table := range []string{"mangle", "filter", "nat"} {
			rs.Tables = append(rs.Tables, netfilter.Table{Name: table, Chains: []netfilter.Chain{
				{Name: "DOCKER"}, {Name: "OUTPUT", Rules: []netfilter.Rule{foreign}},
			}})
		}
		k.Tables.Rulesets[family] = rs
	}
	before := map[netfilter.Family]string{}
	for family, rules := range k.Tables.Rulesets {
		before[family] = text(rules)
	}
	d := start(k)
	apply(t, d, full())
	for range 2 {
		if _, err := d.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		for family, rules := range k.Tables.Rulesets {
			if diff := cmp.Diff(before[family], text(rules)); diff != "" {
				t.Errorf("IPv%d after cleanup (-before +after):\n%s", family, diff)
			}
		}
		if set := k.Routes.Set; len(set.Rules)+len(set.Routes) > 0 {
			t.Errorf("left behind: %q", set.Commands())
		}
	}
	// What a cleaned up Dataplane knew is gone too.
	apply(t, d, full())
	again := start(k)
	if result := apply(t, again, full()); !result.Empty() {
		t.Errorf("after cleanup and apply: %s", result)
	}
}

func TestInterrupted(t *testing.T) {
	k := newKernel()
	d := start(k)
	apply(t, d, full())
	ctx, cancel := context.WithCancel(t.Context())
	k.Journal = nil
	k.Fail = func(step string) error {
		if step == "IPv4 mangle" {
			cancel()
		}
		if strings.HasPrefix(step, "IPv") {
			return ctx.Err()
		}
		return nil
	}
	if _, err := d.Apply(ctx, gateway.State{}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	if len(k.Journal) > 0 {
		t.Errorf("removed although netfilter still relies on it: %q", k.Journal)
	}
}

// Whatever happens on the way, the kernel ends as if it had been brought to the last state at once.
func TestRandomWalk(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		k := newKernel()
		d := start(k)
		var state gateway.State
		for range 15 {
			state = random(r)
			switch r.IntN(6) {
			case 0:
				d = start(k)
			case 1:
				dropTable(k, netfilter.Family(4+2*r.IntN(2)), []string{"mangle", "filter", "nat"}[r.IntN(3)])
				d.Invalidate()
			case 2:
				k.Routes.SetLink("eth1", false)
				k.Routes.SetLink("eth1", true)
			case 3:
				k.Fail = func(string) error {
					if r.IntN(5) == 0 {
						return errors.New("broken for the test")
					}
					return nil
				}
			}
			// An error is what is meant to happen here; what it leaves is the test's matter.
			_, err := d.Apply(t.Context(), state)
			if err != nil && k.Fail == nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			k.Fail = nil
			if err != nil && r.IntN(2) == 0 {
				apply(t, d, state)
			}
		}
		apply(t, d, state)
		expectSame(t, fresh(t, state), k)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		if _, err := d.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		expectSame(t, newKernel(), k)
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
