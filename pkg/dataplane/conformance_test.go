// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ipset"
	"github.com/smartnat/smartnat/pkg/iptables/program"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// backend is a Ruleset on the real kernel, with what the tests need to know about it. Every row of backends runs through all
// tests of this package that need a kernel: restarts, repairs, crashes at every write, changes by hand, refusals, random walks
// and packets. The text of a Repair is what an administrator reads in the log.
type backend interface {
	// rulesetMaker makes a Ruleset as a process has it after a start. If life is set, its writes end with that life.
	rulesetMaker
	// addForeign adds rules of other programs, which must stay. It may create tables.
	addForeign(t *testing.T)
	// addTracking adds a foreign rule that makes the host track the flows of its own programs.
	addTracking(t *testing.T)
	// dump returns all packet rules and sets, as an administrator sees them.
	dump(t *testing.T) string
	// hands are changes to our rules that another process may make while the State has one set.
	hands(t *testing.T) []hand
	// refusing makes Rulesets whose door to the kernel can refuse the rules of one Mapping.
	refusing() (refuser, rulesetMaker)
	// execs counts the transactions and complete readings so far.
	execs() int64
}

// row names the constructor of a backend for the current network namespace.
type row struct {
	name string
	new  func(t testing.TB) backend
}

var backends = []row{
	{"legacy", func(t testing.TB) backend { return newIPTables(t, "legacy") }},
	{"nft", func(t testing.TB) backend { return newIPTables(t, "nft") }},
	{"nftables", func(t testing.TB) backend { return newNFTables(t, false) }},
	{"nftables shared", func(t testing.TB) backend { return newNFTables(t, true) }},
}

// onBackends runs the test on each backend, in a new network namespace.
func onBackends(t *testing.T, test func(t *testing.T, b backend)) {
	for _, row := range backends {
		t.Run(row.name, func(t *testing.T) {
			testenv.RequireTool(t, "ip")
			testenv.NewNetNS(t)
			test(t, row.new(t))
		})
	}
}

// iptablesBackend is a variant of iptables.
type iptablesBackend struct {
	variant string
	tables  *program.Runner
	sets    *ipset.Client
}

func newIPTables(t testing.TB, variant string) *iptablesBackend {
	t.Helper()
	testenv.RequireTool(t, "iptables-"+variant)
	tables, err := program.New(program.Options{Variant: map[string]string{"legacy": program.Legacy, "nft": program.NFTables}[variant], LockTimeout: 5 * time.Second, IPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	sets, err := ipset.New(gateway.DefaultOwnership())
	if err != nil || !tables.Sets() {
		t.Fatalf("iptables knows sets: %t, the kernel: %v", tables.Sets(), err)
	}
	return &iptablesBackend{variant, tables, sets}
}

func (b *iptablesBackend) ruleset(guardOnly []gateway.Family, life *life) dataplane.Ruleset {
	return parts{
		own: gateway.DefaultOwnership(), guardOnly: guardOnly, randomFully: b.tables.RandomFully(), Program: b.tables, Sets: b.sets,
	}.ruleset(life)
}

// programs are the names of iptables for both families.
func (b *iptablesBackend) programs() []string {
	return []string{"iptables-" + b.variant, "ip6tables-" + b.variant}
}

func (b *iptablesBackend) addForeign(t *testing.T) {
	t.Helper()
	for _, program := range b.programs() {
		// A rule in each table also ensures that all tables exist before the test.
		for _, args := range []string{
			"-t mangle -A PREROUTING -i eth9 -j ACCEPT", "-t filter -N DOCKER-USER", "-t filter -A FORWARD -j DOCKER-USER",
			"-t filter -A DOCKER-USER -p tcp --dport 22 -m comment --comment other -j ACCEPT", "-t filter -P FORWARD DROP",
			"-t nat -A POSTROUTING -o docker0 -j MASQUERADE",
		} {
			run(t, program, args)
		}
	}
}

func (b *iptablesBackend) addTracking(t *testing.T) {
	t.Helper()
	for _, program := range b.programs() {
		run(t, program, "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
	}
}

func (b *iptablesBackend) dump(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, program := range b.programs() {
		text.WriteString(volatile.ReplaceAllString(run(t, program+"-save", ""), ""))
	}
	for _, set := range b.observeSets(t) {
		fmt.Fprintln(&text, "set", set.Name, set.Family, set.Members)
	}
	return text.String()
}

func (b *iptablesBackend) observeSets(t *testing.T) []ruleset.Set {
	t.Helper()
	sets, err := b.sets.Observe()
	if err != nil {
		t.Fatal(err)
	}
	return sets
}

func (b *iptablesBackend) execs() int64 { return b.tables.Execs() }

const flushTables = "for t in mangle filter nat; do IPTABLES -t $t -F && IPTABLES -t $t -X && IP6TABLES -t $t -F && IP6TABLES -t $t -X || exit 1; done"

func (b *iptablesBackend) hands(t *testing.T) []hand {
	t.Helper()
	rules, sets := []dataplane.Kind{dataplane.KindIPTables}, []dataplane.Kind{dataplane.KindIPSet}
	hands := []hand{
		{name: "iptables -F", script: "IPTABLES -F && IPTABLES -t nat -F", kinds: rules, missing: "IPv4 table nat: chains missing or changed"},
		{name: "iptables -F and -X everywhere", script: flushTables, kinds: rules, missing: "IPv6 table nat: chains missing or changed"},
		{
			name: "everything destroyed, including sets", script: flushTables + "\nipset destroy",
			kinds: append(sets, rules...), missing: "set smartnat-",
		},
		{name: "ipset flush", script: "ipset flush SET", kinds: sets, missing: "200 members missing"},
		{
			name:   "jumps moved below another program's",
			script: "IPTABLES -A FORWARD -i eth9 -j ACCEPT && IPTABLES -D FORWARD -j SMARTNAT-FORWARD && IPTABLES -A FORWARD -j SMARTNAT-FORWARD",
			kinds:  rules, missing: "jumps missing or not first: FORWARD",
		},
		{ // The size of the tables does not change.
			name: "jumps moved", script: "IPTABLES -D FORWARD -j SMARTNAT-FORWARD && IPTABLES -A FORWARD -j SMARTNAT-FORWARD",
			kinds: rules, missing: "jumps missing or not first: FORWARD",
		},
		{
			name: "one of our rules replaced", script: "IPTABLES -t nat -R SMARTNAT-SERVICES 1 -d 192.0.2.200 -j ACCEPT",
			kinds: rules, missing: "chains missing or changed: SMARTNAT-SERVICES",
		},
		{name: "one of our chains flushed", script: "IPTABLES -t nat -F SMARTNAT-SERVICES", kinds: rules, missing: "IPv4 table nat: chains missing or changed: SMARTNAT-SERVICES"},
		{name: "a jump deleted", script: "IP6TABLES -t filter -D FORWARD -j SMARTNAT-FORWARD", kinds: rules, missing: "IPv6 table filter: jumps missing or not first: FORWARD"},
		{name: "another jump deleted", script: "IPTABLES -t mangle -D PREROUTING -j SMARTNAT-PREROUTING", kinds: rules, missing: "IPv4 table mangle: jumps missing or not first: PREROUTING"},
	}
	if b.variant == "nft" {
		testenv.RequireTool(t, "nft")
		hands = append(hands, hand{name: "nft flush ruleset", script: "nft flush ruleset", kinds: rules, missing: "IPv4 table filter: chains missing or changed"})
	}
	testenv.RequireTool(t, "ipset")
	present := b.observeSets(t)
	if len(present) != 1 {
		t.Fatalf("sets %v, want one", present)
	}
	names := strings.NewReplacer("IP6TABLES", "ip6tables-"+b.variant, "IPTABLES", "iptables-"+b.variant, "SET", present[0].Name)
	for i := range hands {
		hands[i].script = names.Replace(hands[i].script)
	}
	return hands
}

// onIPTables runs a test about iptables alone on a host for each variant.
func onIPTables(t *testing.T, test func(t *testing.T, h *host, b *iptablesBackend)) {
	for _, variant := range []string{"legacy", "nft"} {
		t.Run(variant, func(t *testing.T) {
			testenv.RequireTool(t, "ip")
			testenv.NewNetNS(t)
			b := newIPTables(t, variant)
			h := newHost(t, b)
			h.prepare(t)
			test(t, h, b)
		})
	}
}

// TestKernelPlan expects that Plan changes nothing, and predicts what Apply writes.
func TestKernelPlan(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		before := h.dump(t)
		d, guardOnly := h.start(), h.options()
		guardOnly.guardOnly = []gateway.Family{gateway.IPv6}
		for _, step := range []struct {
			name    string
			parts   parts
			state   gateway.State
			nothing bool
		}{
			{"the first start", h.options(), full(), false},
			{"nothing to do", h.options(), full(), true},
			{"many sources", h.options(), limited(sources(100)), false},
			{"other sources", h.options(), limited(sources(300)[200:]), false},
			{"few sources", h.options(), full(), false},
			{"many sources again", h.options(), limited(sources(300)[200:]), false},
			{"IPv6 is only guarded", guardOnly, limited(sources(300)[200:]), false},
		} {
			planner, held := step.parts.ruleset(nil), h.dump(t)
			var planned dataplane.Changes
			for _, family := range planner.Families() {
				changes, err := planner.Plan(t.Context(), family, step.state)
				if err != nil {
					t.Fatal(err)
				}
				planned.Writes += changes.Writes
				planned.Chains += changes.Chains
				planned.Rules += changes.Rules
				planned.Sets += changes.Sets
				planned.Members += changes.Members
				if changes.Empty() != (changes.Total == 0) || len(changes.Differences) > changes.Total {
					t.Errorf("%s: IPv%d: %d of %d differences, with %+v", step.name, family, len(changes.Differences), changes.Total, changes.Changes)
				}
			}
			if diff := cmp.Diff(held, h.dump(t)); diff != "" {
				t.Errorf("%s: Plan changes the kernel (-before +after):\n%s", step.name, diff)
			}
			d = step.parts.dataplane()
			applied := apply(t, d, step.state)
			applied.Took, applied.InPlace = dataplane.Took{}, false
			if diff := cmp.Diff(planned, applied.Changes); diff != "" || step.nothing != planned.Empty() {
				t.Errorf("%s (-planned +applied):\n%s", step.name, diff)
			}
		}
		h.cleanup(t, d, before)
	})
}
