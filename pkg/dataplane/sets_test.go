// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/iptables/iptablestest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// sources returns n sorted networks. A larger n only appends to the list.
func sources(n int) []netip.Prefix {
	ps := make([]netip.Prefix, n)
	for i := range ps {
		ps[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	}
	return ps
}

// limited returns full with these sources allowed on one Forward, which has its own Mapping.
func limited(sources []netip.Prefix) gateway.State {
	state := full()
	state.Forwards[1].Owner, state.Forwards[1].Sources = "default/limited", sources
	return state
}

// oneSet returns the only set.
func oneSet(t *testing.T, k *iptablestest.Kernel) ruleset.Set {
	t.Helper()
	if len(k.Sets.Members) != 1 {
		t.Fatalf("sets %v, want one", k.Sets.Members)
	}
	for _, set := range k.Sets.Members {
		return set
	}
	return ruleset.Set{}
}

func TestSets(t *testing.T) {
	k := newKernel()
	d := start(k)
	apply(t, d, full())
	name := ""
	for _, step := range []struct {
		name  string
		state gateway.State
		// journal lists the expected writes, with NAME for the name of the set.
		journal []string
		members int
	}{
		{name: "many sources", state: limited(sources(100)), journal: []string{"put set NAME", "IPv4 nat"}, members: 100},
		{name: "no change", state: limited(sources(100)), members: 100},
		{name: "one more", state: limited(sources(101)), journal: []string{"change set NAME +1 -0"}, members: 101},
		{name: "one less", state: limited(sources(101)[1:]), journal: []string{"change set NAME +0 -1"}, members: 100},
		{name: "all others", state: limited(sources(300)[200:]), journal: []string{"put set NAME"}, members: 100},
		{name: "few sources", state: limited(sources(3)), journal: []string{"IPv4 nat", "destroy set NAME"}},
		{name: "many again", state: limited(sources(100)), journal: []string{"put set NAME", "IPv4 nat"}, members: 100},
		{name: "the Mapping disappears", state: full(), journal: []string{"IPv4 nat", "destroy set NAME"}},
	} {
		k.Journal = nil
		result := apply(t, d, step.state)
		if step.members > 0 {
			set := oneSet(t, k)
			name = set.Name
			if len(set.Members) != step.members || !strings.HasPrefix(name, "smartnat-") {
				t.Errorf("%s: the set %s has %d members, want %d", step.name, name, len(set.Members), step.members)
			}
		} else if len(k.Sets.Members) != 0 {
			t.Errorf("%s: sets %v, want none", step.name, k.Sets.Members)
		}
		want := slices.Clone(step.journal)
		for i := range want {
			want[i] = strings.ReplaceAll(want[i], "NAME", name)
		}
		if diff := cmp.Diff(want, k.Journal); diff != "" {
			t.Errorf("%s: writes (-want +got):\n%s", step.name, diff)
		}
		if len(result.Repaired) > 0 || result.Empty() != (len(step.journal) == 0) {
			t.Errorf("%s: result %q, missing %q", step.name, result, result.Repaired)
		}
		if k.Sets.Observations != 1 {
			t.Errorf("%s: the sets were read %d times, want once at the start", step.name, k.Sets.Observations)
		}
	}
}

func TestSetsAreRepaired(t *testing.T) {
	state := limited(sources(100))
	for _, tc := range []struct {
		name string
		harm func(*iptablestest.Kernel)
		// unseen means that only a verification can find the change.
		unseen  bool
		missing string
	}{
		{"flush", func(k *iptablestest.Kernel) { edit(k, nil) }, false, "100 members missing, 0 unexpected"},
		{"another member", func(k *iptablestest.Kernel) { edit(k, sources(101)) }, false, "0 members missing, 1 unexpected"},
		{"one member replaced", func(k *iptablestest.Kernel) { edit(k, sources(101)[1:]) }, true, "1 members missing, 1 unexpected"},
		{"rules and set", func(k *iptablestest.Kernel) {
			dropTable(k, gateway.IPv4, "nat")
			clear(k.Sets.Members)
		}, false, "IPv4 table nat: chains missing"},
		{"a leftover set", func(k *iptablestest.Kernel) {
			k.Sets.Members["smartnat-next"] = ruleset.Set{Name: "smartnat-next", Family: gateway.IPv4}
		}, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newKernel()
			d := start(k)
			apply(t, d, state)
			want := oneSet(t, k)
			expectChanged(t, d, false)
			tc.harm(k)
			expectChanged(t, d, !tc.unseen)
			if tc.unseen {
				d.Verify()
			}
			expectRepair(t, apply(t, d, state), []string{tc.missing})
			if diff := cmp.Diff(want, oneSet(t, k), same...); diff != "" {
				t.Errorf("the set (-want +got):\n%s", diff)
			}
			if cut := k.Conntrack.Calls[len(k.Conntrack.Calls)-1]; (cut.Since == nil) != (tc.missing != "") {
				t.Errorf("all connections were checked: %t, although %q was missing", cut.Since == nil, tc.missing)
			}
			expectQuiet(t, d, state)
		})
	}
}

// TestSetsFlushedDuringAWrite expects that a flush of all sets is found although it happens while smartnatd writes or destroys one.
func TestSetsFlushedDuringAWrite(t *testing.T) {
	state := limited(sources(100))
	both := limited(sources(100))
	both.Forwards[0].Owner, both.Forwards[0].Sources = "default/other", sources(90)
	for _, tc := range []struct {
		name, during  string
		before, after gateway.State
	}{
		{"a set is added", "put set ", state, both},
		{"a set is destroyed", "destroy set ", both, state},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := fresh(t, tc.before)
			d := start(k)
			apply(t, d, tc.before)
			met := false
			k.Fail = func(step string) error {
				if strings.HasPrefix(step, tc.during) {
					met = true
					edit(k, nil)
				}
				return nil
			}
			apply(t, d, tc.after)
			k.Fail = nil
			if !met {
				t.Fatalf("no step %q", tc.during)
			}
			expectChanged(t, d, true)
			expectRepair(t, apply(t, d, tc.after), []string{"100 members missing"})
			expectSame(t, fresh(t, tc.after), k)
			expectQuiet(t, d, tc.after)
		})
	}
}

// TestSetsFlushedBetweenFamilies expects that the sets of both families are repaired at once if they are flushed after the turn of the first.
func TestSetsFlushedBetweenFamilies(t *testing.T) {
	state := limited(sources(100))
	for i := range uint8(90) {
		state.Forwards[3].Sources = append(state.Forwards[3].Sources, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, i}), 16))
	}
	state.Forwards[3].Owner = "default/limited6"
	next := state
	next.Forwards = gatewaytest.Copies(state.Forwards)
	next.Forwards[0].Backends = next.Forwards[0].Backends[:1]
	k := fresh(t, state)
	d := start(k)
	apply(t, d, state)
	if n := len(k.Sets.Members); n != 2 {
		t.Fatalf("%d sets, want one of each family", n)
	}
	met := false
	k.Fail = func(step string) error {
		if step == "IPv4 nat" {
			met = true
			edit(k, nil)
		}
		return nil
	}
	result := apply(t, d, next)
	k.Fail = nil
	if !met {
		t.Fatal("the rules of IPv4 were not written")
	}
	expectRepair(t, result, []string{"100 members missing", "90 members missing"})
	expectSame(t, fresh(t, next), k)
	expectQuiet(t, d, next)
}

// edit replaces the members of all sets.
func edit(k *iptablestest.Kernel, members []netip.Prefix) {
	for name, set := range k.Sets.Members {
		set.Members = members
		k.Sets.Members[name] = set
	}
}

// TestRulesDoWithoutSets expects that rules replace a set that cannot be written, and that all other writes succeed.
func TestRulesDoWithoutSets(t *testing.T) {
	state := limited(sources(100))
	k := newKernel()
	broken := errors.New("broken for the test")
	k.Fail = func(step string) error {
		if strings.HasPrefix(step, "put set") {
			return broken
		}
		return nil
	}
	d := start(k)
	if _, err := d.Apply(t.Context(), state); !errors.Is(err, broken) {
		t.Errorf("err = %v, want the injected one", err)
	}
	without := newKernel()
	opts := options(without)
	opts.Sets = nil
	none := opts.dataplane()
	apply(t, none, state)
	expectSame(t, without, k)
	k.Fail = nil
	if result := apply(t, d, state); len(result.Repaired) > 0 {
		t.Errorf("a failed write is reported as a repair: %q", result.Repaired)
	}
	expectSame(t, fresh(t, state), k)
	k.Fail = func(step string) error {
		if strings.HasPrefix(step, "change set") {
			edit(k, sources(101)[:50]) // half done
			return broken
		}
		return nil
	}
	if result, err := d.Apply(t.Context(), limited(sources(101))); !errors.Is(err, broken) || len(result.Repaired) > 0 {
		t.Errorf("err = %v, want the injected one; repairs reported: %q", err, result.Repaired)
	}
	k.Fail = nil
	apply(t, d, limited(sources(101)))
	expectSame(t, fresh(t, limited(sources(101))), k)
	if _, err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(k.Sets.Members) > 0 {
		t.Errorf("left behind: %v", k.Sets.Members)
	}
}
