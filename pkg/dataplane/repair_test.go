// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/iptablestest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

func TestRepair(t *testing.T) {
	for _, tc := range []struct {
		name string
		harm func(k *iptablestest.Kernel)
		// event means that the kernel reports the change as an event. Check finds all others.
		event   bool
		missing []string
	}{
		{
			name:    "iptables -t nat -F; iptables -t nat -X",
			harm:    func(k *iptablestest.Kernel) { dropTable(k, gateway.IPv4, "nat") },
			missing: []string{"IPv4 table nat: chains missing or changed: SMARTNAT-", "jumps missing or not first: OUTPUT POSTROUTING PREROUTING"},
		},
		{
			name: "another program's rule above ours",
			harm: func(k *iptablestest.Kernel) {
				insert(k, "filter", "FORWARD", ruleset.Rule{In: "eth9", Target: ruleset.Target{Verb: ruleset.Accept}})
			},
			missing: []string{"IPv4 table filter: jumps missing or not first: FORWARD"},
		},
		{
			name:    "ip rule flush",
			event:   true,
			harm:    func(k *iptablestest.Kernel) { k.Routes.Set.Rules = nil },
			missing: []string{"ip rule: ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380", "ip rule: ip -6 rule add", "lookup 7381"},
		},
		{
			name:  "a link that flapped",
			event: true,
			harm: func(k *iptablestest.Kernel) {
				k.Routes.SetLink("eth1", false)
				k.Routes.SetLink("eth1", true)
			},
			missing: []string{"route: ip route add default via 198.51.100.1 dev eth1 table 7380", "route: ip -6 route add default via 2001:db8:1::1"},
		},
		{
			name:    "a gateway changed by hand",
			event:   true,
			harm:    func(k *iptablestest.Kernel) { k.Routes.Set.Routes[1].Gateways = addrs("10.10.0.99") },
			missing: []string{"route: "},
		},
		{
			name:    "a sysctl reset",
			harm:    func(k *iptablestest.Kernel) { k.Sysctls.Values["net/ipv4/ip_forward"] = "0" },
			missing: []string{"sysctl net/ipv4/ip_forward=1: it was 0"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := fresh(t, full())
			d := start(k)
			apply(t, d, full())
			expectChanged(t, d, false)
			tc.harm(k)
			expectChanged(t, d, !tc.event)
			if tc.event {
				if result := apply(t, d, full()); !result.Empty() {
					t.Fatalf("noticed without an event: %s", result)
				}
				d.HostChanged()
			}
			expectRepair(t, apply(t, d, full()), tc.missing)
			expectQuiet(t, d, full())
			d.Verify()
			if result := apply(t, d, full()); !result.Empty() || len(result.Repaired) > 0 {
				t.Errorf("repaired again: %s, %q", result, result.Repaired)
			}
		})
	}
}

// TestAHandThatIsNotDone has another process do damage in several steps. An Apply repairs it in between, and another one at the
// end.
func TestAHandThatIsNotDone(t *testing.T) {
	for _, counting := range []bool{false, true} {
		t.Run(fmt.Sprintf("counting %t", counting), func(t *testing.T) {
			k := fresh(t, full())
			k.Tables.Counting = counting
			d := start(k)
			apply(t, d, full())
			harm := func(family gateway.Family, table string) {
				dropTable(k, family, table)
				k.Tables.Writes++
			}
			harm(gateway.IPv4, "filter")
			k.Fail = func(step string) error {
				if step == "IPv4 filter" { // the tables have been read, and are about to be written
					k.Fail = nil
					harm(gateway.IPv4, "nat")
					harm(gateway.IPv6, "nat")
				}
				return nil
			}
			expectChanged(t, d, true)
			expectRepair(t, apply(t, d, full()), []string{"IPv4 table filter: chains missing"})
			expectChanged(t, d, true)
			expectRepair(t, apply(t, d, full()), []string{"IPv4 table nat: chains missing"})
			expectQuiet(t, d, full())
			expectSame(t, fresh(t, full()), k)
		})
	}
}

func expectChanged(t *testing.T, d *dataplane.Dataplane, want bool) {
	t.Helper()
	changed, err := d.Check()
	if err != nil {
		t.Fatal(err)
	}
	if changed != want {
		t.Fatalf("Check reports a write of another process: %t, want %t", changed, want)
	}
}

// expectQuiet checks that nothing is left to repair. If writes are not counted, the tables are read once more, because the
// other process may still be writing.
func expectQuiet(t *testing.T, d *dataplane.Dataplane, state gateway.State) {
	t.Helper()
	changed, err := d.Check()
	if err != nil {
		t.Fatal(err)
	}
	if changed {
		if result := apply(t, d, state); !result.Empty() || len(result.Repaired) > 0 {
			t.Fatalf("repaired again: %s, %q", result, result.Repaired)
		}
	}
	expectChanged(t, d, false)
}

func expectRepair(t *testing.T, result dataplane.Result, missing []string) {
	t.Helper()
	said := fmt.Sprint(result.Repaired)
	for _, want := range missing {
		if !strings.Contains(said, want) {
			t.Errorf("missing %q in:\n%s", want, said)
		}
	}
	if result.Empty() {
		t.Error("nothing was repaired")
	}
}

func dropTable(k *iptablestest.Kernel, family gateway.Family, name string) {
	rs := k.Tables.Rulesets[family]
	rs.Tables = slices.DeleteFunc(slices.Clone(rs.Tables), func(t ruleset.Table) bool { return t.Name == name })
	k.Tables.Rulesets[family] = rs
}

func insert(k *iptablestest.Kernel, table, chain string, rule ruleset.Rule) {
	k.Tables.Rulesets[gateway.IPv4] = ruleset.Apply(k.Tables.Rulesets[gateway.IPv4], ruleset.Batch{
		Family: gateway.IPv4,
		Tables: []ruleset.TableBatch{{Name: table, Insert: []ruleset.ChainRule{{Chain: chain, Rule: rule}}}},
	})
}

// TestRepairsAreSaidWhenTheyAreMade expects that a repair is reported once, when it succeeds, and not for failed attempts.
func TestRepairsAreSaidWhenTheyAreMade(t *testing.T) {
	state := limited(sources(100))
	for _, tc := range []struct {
		name, failing string
		missing       string
		harm          func(k *iptablestest.Kernel)
	}{
		{"rules", "IPv4 nat", "IPv4 table nat", func(k *iptablestest.Kernel) { dropTable(k, gateway.IPv4, "nat") }},
		{"a set", "put set ", "set smartnat-", func(k *iptablestest.Kernel) { edit(k, nil) }},
		{"a rule of policy routing", "ip rule add priority 7381 fwmark 0x100", "ip rule: ip rule add priority 7381 fwmark 0x100", func(k *iptablestest.Kernel) { k.Routes.Set.Rules = nil }},
		{"a parameter", "sysctl net/ipv4/ip_forward=1", "sysctl net/ipv4/ip_forward=1", func(k *iptablestest.Kernel) { k.Sysctls.Values["net/ipv4/ip_forward"] = "0" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := fresh(t, state)
			d := start(k)
			apply(t, d, state)
			count := func(result dataplane.Result) (n int) {
				for _, r := range result.Repaired {
					if strings.HasPrefix(r.Missing, tc.missing) {
						n++
					}
				}
				return n
			}
			tc.harm(k)
			k.Fail = func(step string) error {
				if strings.HasPrefix(step, tc.failing) {
					return errors.New("broken for the test")
				}
				return nil
			}
			d.HostChanged()
			for range 2 {
				if _, err := d.Check(); err != nil {
					t.Fatal(err)
				}
				result, err := d.Apply(t.Context(), state)
				if n := count(result); err == nil || n != 0 {
					t.Errorf("err = %v, %d repairs reported: %q", err, n, result.Repaired)
				}
				if changed, err := d.Check(); changed || err != nil {
					t.Errorf("Check reports damage that is known and not repaired yet: %t, %v", changed, err)
				}
			}
			k.Fail = nil
			result := apply(t, d, state)
			if n := count(result); n != 1 {
				t.Errorf("%d repairs reported: %q, want 1", n, result.Repaired)
			}
			expectSame(t, fresh(t, state), k)
			if result := apply(t, d, limited(sources(101))); len(result.Repaired) > 0 {
				t.Errorf("reported again: %q", result.Repaired)
			}
		})
	}
}

// TestSetsAreLookedForBeforeRulesNameThem expects that a destroyed set is created again before rules name it, also without a
// Check.
func TestSetsAreLookedForBeforeRulesNameThem(t *testing.T) {
	state := limited(sources(100))
	k := fresh(t, state)
	d := start(k)
	apply(t, d, state)
	dropTable(k, gateway.IPv4, "nat")
	clear(k.Sets.Members)
	other := limited(sources(100))
	other.Forwards[0].Backends = other.Forwards[0].Backends[:1]
	result := apply(t, d, other)
	expectRepair(t, result, []string{"IPv4 table nat: chains missing", "set smartnat-"})
	expectSame(t, fresh(t, other), k)
}
