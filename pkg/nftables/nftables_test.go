// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/nftables/rules"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// kernel is a Kernel in memory, for failures that a real one does not produce on demand.
type kernel struct {
	tables     map[gateway.Family]ruleset.Table
	owned      bool
	generation uint32
	// reads, writes and adoptions count calls. After some more successes, a write fails with err, if that is set.
	reads, writes, adoptions int
	successes                int
	err                      error
	// missing is a link that does not exist.
	missing string
	// refusals are the reasons for which the Ruleset left out a flowtable.
	refusals []string
}

func (k *kernel) Inspect(family gateway.Family) (exists, owned bool, err error) {
	_, exists = k.tables[family]
	return exists, k.owned, nil
}

func (k *kernel) Read(family gateway.Family) (ruleset.Table, error) {
	k.reads++
	table := k.tables[family]
	table.Family = family
	return table, nil
}

// Write refuses a deletion of what does not exist, as nf_tables does.
func (k *kernel) Write(_ context.Context, family gateway.Family, batch ruleset.Batch) error {
	k.writes++
	if err := k.err; err != nil && k.successes == 0 {
		k.err = nil
		return err
	}
	k.successes = max(k.successes-1, 0)
	table := k.tables[family]
	if batch.Rewrite {
		table = ruleset.Table{}
	}
	var flowtables []ruleset.Flowtable
	for _, f := range table.Flowtables {
		if !slices.ContainsFunc(batch.DeleteFlowtables, func(d ruleset.Flowtable) bool { return d.Name == f.Name }) {
			flowtables = append(flowtables, f)
		}
	}
	for _, f := range batch.AddFlowtables {
		if slices.Contains(f.Links, k.missing) {
			return fmt.Errorf("flowtable with %s: %w", k.missing, gateway.ErrRefused)
		}
		flowtables = append(flowtables, f)
	}
	table.Flowtables = flowtables
	table.Family = family
	sets := slices.Clone(table.Sets)
	for _, s := range batch.AddSets {
		s.Elements = slices.Clone(s.Elements)
		sets = append(sets, s)
	}
	sets = slices.DeleteFunc(sets, func(s ruleset.Set) bool {
		return slices.ContainsFunc(batch.DeleteSets, func(d ruleset.Set) bool { return d.Name == s.Name })
	})
	find := func(name string) *ruleset.Set {
		return &sets[slices.IndexFunc(sets, func(s ruleset.Set) bool { return s.Name == name })]
	}
	for _, e := range batch.DeleteElements {
		set := find(e.Set)
		for _, x := range e.List {
			i := slices.IndexFunc(set.Elements, func(y ruleset.Element) bool { return x.Key == y.Key })
			if i < 0 {
				return fmt.Errorf("elements of set %s: %w", e.Set, gateway.ErrRefused)
			}
			set.Elements = slices.Delete(slices.Clone(set.Elements), i, i+1)
		}
	}
	for _, e := range batch.AddElements {
		set := find(e.Set)
		set.Elements = append(slices.Clone(set.Elements), e.List...)
		slices.SortFunc(set.Elements, ruleset.CompareElements)
	}
	chains := slices.DeleteFunc(slices.Clone(table.Chains), func(c ruleset.Chain) bool {
		return slices.ContainsFunc(slices.Concat(batch.DeleteChains, batch.ReplaceChains), func(d ruleset.Chain) bool { return d.Name == c.Name })
	})
	table.Chains, table.Sets = slices.Concat(chains, batch.AddChains, batch.ReplaceChains), sets
	slices.SortFunc(table.Chains, func(x, y ruleset.Chain) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(table.Sets, func(x, y ruleset.Set) int { return strings.Compare(x.Name, y.Name) })
	k.tables[family] = table
	k.generation++
	return nil
}

func (k *kernel) Adopt(gateway.Family) error {
	k.adoptions++
	if k.owned {
		k.generation++
	}
	return nil
}

func (k *kernel) Remove(family gateway.Family) (bool, error) {
	_, found := k.tables[family]
	delete(k.tables, family)
	return found, nil
}

func (k *kernel) Try(ruleset.Table) error {
	k.generation++
	return nil
}

func (k *kernel) Counts(gateway.Family, string) ([]ruleset.Count, bool, error) { return nil, true, nil }

func (k *kernel) Generation() (uint32, error)               { return k.generation, nil }
func (k *kernel) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }
func (k *kernel) start() *Ruleset                           { return k.startWith() }
func (k *kernel) startWith(guard ...gateway.Family) *Ruleset {
	return New(Options{Ownership: gateway.DefaultOwnership(), Kernel: k, Families: []gateway.Family{gateway.IPv4}, GuardOnly: guard,
		FlowtableRefused: func(_ gateway.Family, err error) { k.refusals = append(k.refusals, err.Error()) }})
}

func newKernel(owned bool) *kernel {
	return &kernel{tables: map[gateway.Family]ruleset.Table{}, owned: owned}
}

// state returns a state with one port that has this number of backends.
func state(backends int) gateway.State {
	f := gatewaytest.Forward(gatewaytest.Addrs("198.51.100.10")[0], gateway.TCP, 80, 80)
	for i := range backends {
		f.Backends = append(f.Backends, gatewaytest.Backends(fmt.Sprintf("10.244.1.%d:8080", i+1))...)
	}
	return gateway.State{Forwards: []*gateway.Forward{f}}
}

func (k *kernel) expect(t *testing.T, want gateway.State) {
	t.Helper()
	if diff := cmp.Diff(rules.Build(want, gateway.IPv4, gateway.DefaultOwnership()), k.tables[gateway.IPv4]); diff != "" {
		t.Errorf("the kernel (-want +got):\n%s", diff)
	}
}

func apply(t *testing.T, r *Ruleset, s gateway.State) []string {
	t.Helper()
	changes, err := r.Apply(t.Context(), gateway.IPv4, s)
	if err != nil || !changes.InPlace {
		t.Fatalf("in place %t: %v", changes.InPlace, err)
	}
	var repaired []string
	for _, repair := range changes.Repaired {
		repaired = append(repaired, repair.Missing)
	}
	return repaired
}

// TestReadings counts complete readings of the table.
func TestReadings(t *testing.T) {
	for _, owned := range []bool{true, false} {
		k := newKernel(owned)
		r := k.start()
		for _, step := range []struct {
			name   string
			do     func()
			state  gateway.State
			reads  int
			writes int
		}{
			{name: "the first one", state: state(2), reads: 1, writes: 1},
			{name: "no change", state: state(2)},
			{name: "another backend, and no port with two", state: state(3), writes: 2},
			{name: "after a trial", do: func() { _ = r.Try(t.Context(), state(4)) }, state: state(4), writes: 2},
			{name: "a verification of what nothing changed", do: r.Verify, state: state(4)},
			{name: "a failed write", do: func() { k.err = errors.New("no buffer space") }, state: state(4)},
		} {
			if step.do != nil {
				step.do()
			}
			reads, writes := k.reads, k.writes
			apply(t, r, step.state)
			if k.reads-reads != step.reads || k.writes-writes != step.writes {
				t.Errorf("owned %t, %s: %d readings, %d writes; want %d, %d", owned, step.name, k.reads-reads, k.writes-writes, step.reads, step.writes)
			}
			k.expect(t, step.state)
		}
	}
}

// TestAdoption expects that a start which finds the rules in place writes nothing and becomes their owner.
func TestAdoption(t *testing.T) {
	for _, owned := range []bool{true, false} {
		k := newKernel(owned)
		apply(t, k.start(), state(2))
		r := k.start()
		for i, step := range []struct {
			name              string
			do                func()
			writes, adoptions int
		}{
			{"the boundary of a start", func() {
				if changes, err := r.Guard(t.Context(), gateway.IPv4, gateway.State{}); err != nil || changes.Writes > 0 {
					t.Errorf("%d writes, %v", changes.Writes, err)
				}
			}, 0, 1},
			{"what the earlier process wrote", func() { apply(t, r, state(2)) }, 0, 1},
			{"the same again", func() { apply(t, r, state(2)) }, 0, 0},
			{"a change", func() { apply(t, r, state(3)) }, 2, 0},
		} {
			writes, adoptions, reads := k.writes, k.adoptions, k.reads
			step.do()
			if k.writes-writes != step.writes || k.adoptions-adoptions != step.adoptions || i > 1 && k.reads > reads {
				t.Errorf("owned %t, %s: %d writes, %d adoptions, %d readings; want %d, %d",
					owned, step.name, k.writes-writes, k.adoptions-adoptions, k.reads-reads, step.writes, step.adoptions)
			}
		}
		k.expect(t, state(3))
	}
}

// TestFailedWrite expects that the next Apply reads the table.
func TestFailedWrite(t *testing.T) {
	k := newKernel(true)
	r := k.start()
	apply(t, r, state(2))
	k.err = errors.New("no buffer space")
	if changes, err := r.Apply(t.Context(), gateway.IPv4, state(3)); err == nil || changes.InPlace || !strings.Contains(err.Error(), "writing the IPv4 rules: no buffer space") {
		t.Errorf("in place %t: %v", changes.InPlace, err)
	}
	k.expect(t, state(2))
	reads := k.reads
	if repaired := apply(t, r, state(3)); len(repaired) > 0 || k.reads != reads+1 {
		t.Errorf("%d readings, repaired %q", k.reads-reads, repaired)
	}
	k.expect(t, state(3))
}

// TestFailedStep expects that what the first steps of a change wrote does not look like the work of another process.
func TestFailedStep(t *testing.T) {
	for _, failure := range []error{errors.New("no buffer space"), gateway.ErrRefused} {
		limited := state(2)
		limited.Forwards[0].Sources = gatewaytest.Prefixes("192.0.2.0/24")
		k := newKernel(true)
		r := k.start()
		apply(t, r, state(2))
		k.successes, k.err = 1, failure
		changes, err := r.Apply(t.Context(), gateway.IPv4, limited)
		if changes.InPlace != (err == nil) || len(changes.Repaired) > 0 || changes.Damaged {
			t.Errorf("%v: in place %t: %v, repaired %v, damaged %t", failure, changes.InPlace, err, changes.Repaired, changes.Damaged)
		}
		if repaired := apply(t, r, state(2)); len(repaired) > 0 {
			t.Errorf("%v: repaired %q", failure, repaired)
		}
		k.expect(t, state(2))
	}
}

// TestRefusedDifference has another process change a shared table while readings have used up their budget. The difference to
// the table as it was is refused, which must not look like a mistake in the State.
func TestRefusedDifference(t *testing.T) {
	k := newKernel(false)
	r := k.start()
	apply(t, r, state(3))
	r.readings.Spend(time.Now(), time.Hour)
	table := k.tables[gateway.IPv4]
	table.Sets = slices.Clone(table.Sets)
	for i := range table.Sets {
		if table.Sets[i].Name == "backends" {
			table.Sets[i].Elements = nil
		}
	}
	k.tables[gateway.IPv4] = table
	k.generation++
	if changed, err := r.Drift(); changed || err != nil {
		t.Errorf("changed %t before readings are permitted: %v", changed, err)
	}
	if repaired := apply(t, r, state(2)); len(repaired) != 1 || !strings.Contains(repaired[0], "sets missing or changed: backends") {
		t.Errorf("repaired %q", repaired)
	}
	k.expect(t, state(2))
}

// TestRewrite expects that a table of an earlier version is replaced at once.
func TestRewrite(t *testing.T) {
	k := newKernel(true)
	old := rules.Build(state(2), gateway.IPv4, gateway.DefaultOwnership())
	old.Sets = slices.Clone(old.Sets)
	old.Sets[0].Counters = !old.Sets[0].Counters
	k.tables[gateway.IPv4] = old
	apply(t, k.start(), state(2))
	k.expect(t, state(2))
	if k.writes != 1 {
		t.Errorf("%d writes, want 1", k.writes)
	}
}

// TestGuardOnly expects that a family which is not served has the boundary alone, and is written once.
func TestGuardOnly(t *testing.T) {
	k := newKernel(true)
	r := k.startWith(gateway.IPv4)
	for range 2 {
		apply(t, r, state(2))
	}
	want := rules.Guard(state(2), gateway.IPv4, gateway.DefaultOwnership())
	if diff := cmp.Diff(want, k.tables[gateway.IPv4]); diff != "" || k.writes != 1 {
		t.Errorf("%d writes (-want +got):\n%s", k.writes, diff)
	}
}
