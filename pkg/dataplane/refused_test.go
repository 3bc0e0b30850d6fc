// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/quarantine"
)

const badOwner = "default/bad"

// bad returns a forward of the Mapping whose rules are refused, at an address of its own.
func bad(backends ...string) *gateway.Forward {
	f := forward("203.0.113.11", 80, backends...)
	f.Owner = badOwner
	return f
}

// and returns full with more forwards. If others is set, it also adds a port of a good Mapping.
func and(others bool, more ...*gateway.Forward) gateway.State {
	state := full()
	if others {
		more = append(more, forward("203.0.113.12", 81, "10.244.1.2"))
	}
	state.Forwards = append(state.Forwards, more...)
	slices.SortFunc(state.Forwards, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) })
	return state
}

// poisoned is a door to netfilter that adds a rule to one Mapping which the kernel refuses.
type poisoned struct {
	iptables.Program
	// poison makes the rules of the Mapping refused: by the kernel, or without one if fake is set.
	poison, fake bool
	// written holds all batches as text, including refused ones.
	written []string
}

// tooMany is a rule that the program accepts and the kernel refuses: xt_recent remembers at most 255 packets of a client.
const tooMany = "-m recent --rcheck --hitcount 70000 --name too-many -j RETURN"

func (p *poisoned) Restore(ctx context.Context, batch ruleset.Batch) error {
	p.written = append(p.written, string(batch.Text()))
	if !p.poison {
		return p.Program.Restore(ctx, batch)
	}
	for _, table := range batch.Tables {
		table.Write = slices.Clone(table.Write)
		for i, chain := range table.Write {
			if !slices.ContainsFunc(chain.Rules, func(r ruleset.Rule) bool { return r.Comment == badOwner }) {
				continue
			}
			if p.fake {
				return fmt.Errorf("%s: %w", chain.Name, gateway.ErrRefused)
			}
			table.Write[i].Rules = append(slices.Clip(chain.Rules), ruleset.Rule{Foreign: tooMany})
		}
		if err := p.Program.Restore(ctx, ruleset.Batch{Family: batch.Family, Tables: []ruleset.TableBatch{table}}); err != nil {
			return err
		}
	}
	return nil
}

// goodChain is the chain of 198.51.100.10, the address of the good Mapping.
const goodChain = "SMARTNAT-TC633640A"

// expectUntouched checks that the chain of a good Mapping was never written.
func (p *poisoned) expectUntouched(t *testing.T) {
	t.Helper()
	text := strings.Join(p.written, "")
	for _, command := range []string{":", "-A ", "-I ", "-D ", "-X "} {
		if strings.Contains(text, "\n"+command+goodChain) {
			t.Errorf("written to %s:\n%s", goodChain, text)
		}
	}
}

// refusedMapping takes a host with a Mapping that becomes refused through all cases. expect compares the rules of the host with
// those that the state alone would have.
func refusedMapping(t *testing.T, door *poisoned, start func() *dataplane.Dataplane, expect func(name string, want gateway.State)) {
	t.Helper()
	q := quarantine.New(start())
	now := time.Now()
	step := func(name string, want, inEffect gateway.State, refusals int) dataplane.Result {
		t.Helper()
		door.written = nil
		_, result, err := q.Apply(t.Context(), now, want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := q.Refusals(); len(got) != refusals || refusals > 0 && (got[0].Owner != badOwner || got[0].Family != 4 || got[0].Suspected) {
			t.Errorf("%s: %+v, want %d refusals", name, got, refusals)
		}
		if len(result.Repaired) > 0 {
			t.Errorf("%s: reported as changed by another process: %q", name, result.Repaired)
		}
		expect(name, inEffect)
		return result
	}
	step("nothing is refused", and(false, bad("10.244.1.2")), and(false, bad("10.244.1.2")), 0)
	if !strings.Contains(strings.Join(door.written, ""), "\n:"+goodChain) {
		t.Errorf("there is no chain %s", goodChain)
	}

	door.poison = true
	changed := bad("10.244.1.2", "10.244.2.2")
	step("it and others change", and(true, changed), and(true, bad("10.244.1.2")), 1)
	door.expectUntouched(t)
	if result := step("nothing changes", and(true, changed), and(true, bad("10.244.1.2")), 1); !result.Empty() || len(door.written) > 0 {
		t.Errorf("nothing changes: result %s, written %q", result, door.written)
	}
	step("others change back", and(false, changed), and(false, bad("10.244.1.2")), 1)
	limited := bad("10.244.1.2", "10.244.2.2")
	limited.Sources = prefixes("192.0.2.0/24")
	// Its remaining rule would be another one, which is refused as well.
	step("it loses sources", and(true, limited), and(true), 1)

	now = now.Add(time.Hour)
	step("a retry fails", and(true, limited), and(true), 1)
	door.expectUntouched(t)

	q = quarantine.New(start())
	step("smartnatd starts", and(false, limited), and(false), 1)
	door.expectUntouched(t)

	door.poison = false
	now = now.Add(time.Hour)
	step("it is accepted", and(true, limited), and(true, limited), 0)
}

func TestARefusedMappingHoldsUpNobody(t *testing.T) {
	k := newKernel()
	door := &poisoned{Program: k.Tables, fake: true}
	start := func() *dataplane.Dataplane {
		opts := options(k)
		opts.Program = door
		return opts.dataplane()
	}
	refusedMapping(t, door, start, func(name string, want gateway.State) {
		t.Helper()
		if t.Failed() {
			t.Fatal(name)
		}
		expectSame(t, fresh(t, want), k)
	})
}

func TestKernelRefusedMapping(t *testing.T) {
	onIPTables(t, func(t *testing.T, h *host, b *iptablesBackend) {
		before := h.dump(t)
		door := &poisoned{Program: b.tables}
		opts := h.options()
		opts.backend, opts.Program, opts.Sets, opts.randomFully = nil, door, b.sets, b.tables.RandomFully()
		start := opts.dataplane
		refusedMapping(t, door, start, func(name string, want gateway.State) {
			t.Helper()
			dump := h.dump(t)
			if strings.Contains(dump, "SMARTNAT-TRY-") {
				t.Errorf("%s: trial chains are left behind", name)
			}
			if result := apply(t, h.start(), want); !result.Empty() {
				t.Errorf("%s: the kernel differs from the state by %s\nit holds %s", name, result, dump)
			}
		})
		h.cleanup(t, h.start(), before)
	})
}

// TestTryIsMetByNoPacket expects that Try does not change any existing rule, that no existing rule jumps to the trial chains,
// and that the next Apply removes them.
func TestTryIsMetByNoPacket(t *testing.T) {
	const tried = "SMARTNAT-TRY-"
	k := newKernel()
	d := start(k)
	apply(t, d, full())
	before := map[gateway.Family]string{}
	for family, rs := range k.Tables.Rulesets {
		before[family] = text(rs)
	}
	restores := k.Tables.Restores
	other := and(true, bad("10.244.1.2"), forward("2001:db8:1::10", 81, "fd00:244:1::2"))
	if err := d.Try(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if n := k.Tables.Restores - restores; n != 2 {
		t.Errorf("%d runs of iptables-restore, want one for each family", n)
	}
	for family, rs := range k.Tables.Rulesets {
		var chains int
		for i, table := range rs.Tables {
			rs.Tables[i].Chains = slices.DeleteFunc(slices.Clone(table.Chains), func(c *ruleset.Chain) bool { return strings.HasPrefix(c.Name, tried) })
			chains += len(table.Chains) - len(rs.Tables[i].Chains)
			for _, c := range rs.Tables[i].Chains {
				if slices.ContainsFunc(c.Rules, func(r ruleset.Rule) bool { return strings.HasPrefix(r.Target.Chain, tried) }) {
					t.Errorf("IPv%d: %s %s jumps to a trial chain", family, table.Name, c.Name)
				}
			}
		}
		if diff := cmp.Diff(before[family], text(rs)); diff != "" || chains == 0 {
			t.Errorf("IPv%d: %d trial chains; the other chains (-before +after):\n%s", family, chains, diff)
		}
	}

	k = newKernel()
	d = start(k)
	apply(t, d, full())
	restores = k.Tables.Restores
	only4 := gateway.State{Forwards: []*gateway.Forward{bad("10.244.1.2")}}
	if err := d.Try(t.Context(), only4); err != nil || k.Tables.Restores != restores+1 {
		t.Errorf("IPv4 only: error %v, %d runs of iptables-restore", err, k.Tables.Restores-restores)
	}
	if result := apply(t, d, full()); len(result.Repaired) > 0 {
		t.Errorf("reported as changed by another process: %q", result.Repaired)
	}
	expectSame(t, fresh(t, full()), k)
}
