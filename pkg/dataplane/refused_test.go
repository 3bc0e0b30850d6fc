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

// refuser is a door to the kernel that refuses the rules of one Mapping on demand.
type refuser interface {
	// refuse starts or stops it.
	refuse(bool)
	// forget forgets what was written, including what was refused. wrote reports whether anything was, wroteGood whether something
	// of the good Mapping at 198.51.100.10 was.
	forget()
	wrote() bool
	wroteGood() bool
}

func (p *poisoned) refuse(refuse bool) { p.poison = refuse }
func (p *poisoned) forget()            { p.written = nil }
func (p *poisoned) wrote() bool        { return len(p.written) > 0 }

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

func (p *poisoned) wroteGood() bool {
	text := strings.Join(p.written, "")
	return slices.ContainsFunc([]string{":", "-A ", "-I ", "-D ", "-X "}, func(command string) bool { return strings.Contains(text, "\n"+command+goodChain) })
}

// refusedMapping takes a host with a Mapping that becomes refused through all cases. expect compares the rules of the host with
// those that the state alone would have.
func refusedMapping(t *testing.T, door refuser, start func() *dataplane.Dataplane, expect func(name string, want gateway.State)) {
	t.Helper()
	q := quarantine.New(start())
	now := time.Now()
	step := func(name string, want, inEffect gateway.State, refusals int) dataplane.Result {
		t.Helper()
		door.forget()
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
	if !door.wroteGood() {
		t.Error("nothing of the good Mapping is written at the start")
	}
	untouched := func() {
		t.Helper()
		if door.wroteGood() {
			t.Error("something of the good Mapping is written again")
		}
	}

	door.refuse(true)
	changed := bad("10.244.1.2", "10.244.2.2")
	step("it and others change", and(true, changed), and(true, bad("10.244.1.2")), 1)
	untouched()
	if result := step("nothing changes", and(true, changed), and(true, bad("10.244.1.2")), 1); !result.Empty() || door.wrote() {
		t.Errorf("nothing changes: result %s, anything written: %t", result, door.wrote())
	}
	step("others change back", and(false, changed), and(false, bad("10.244.1.2")), 1)
	limited := bad("10.244.1.2", "10.244.2.2")
	limited.Sources = prefixes("192.0.2.0/24")
	// Its remaining rule would be another one, which is refused as well.
	step("it loses sources", and(true, limited), and(true), 1)

	now = now.Add(time.Hour)
	step("a retry fails", and(true, limited), and(true), 1)
	untouched()

	q = quarantine.New(start())
	step("smartnatd starts", and(false, limited), and(false), 1)
	untouched()

	door.refuse(false)
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

// rulesetOf makes a Ruleset without a life.
type rulesetOf func() dataplane.Ruleset

func (r rulesetOf) ruleset([]gateway.Family, *life) dataplane.Ruleset { return r() }

func (b *iptablesBackend) refusing() (refuser, rulesetMaker) {
	door := &poisoned{Program: b.tables}
	p := parts{own: gateway.DefaultOwnership(), randomFully: b.tables.RandomFully(), Program: door, Sets: b.sets}
	return door, rulesetOf(func() dataplane.Ruleset { return p.ruleset(nil) })
}

func TestKernelRefusedMapping(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		before := h.dump(t)
		opts := h.options()
		var door refuser
		door, opts.backend = h.refusing()
		refusedMapping(t, door, opts.dataplane, func(name string, want gateway.State) { h.expect(t, name, want) })
		h.cleanup(t, h.start(), before)
	})
}

// expect expects that the kernel holds a state and no trial.
func (h *host) expect(t *testing.T, name string, want gateway.State) {
	t.Helper()
	dump := h.dump(t)
	for _, trial := range []string{"SMARTNAT-TRY-", "smartnat-try", poisonous.Name} {
		if strings.Contains(dump, trial) {
			t.Errorf("%s: a trial is left behind:\n%s", name, dump)
		}
	}
	if result := apply(t, h.start(), want); !result.Empty() {
		t.Errorf("%s: the kernel differs from the state by %s\nit holds %s", name, result, dump)
	}
}

// TestKernelMissingHelper has a Mapping whose port needs a conntrack helper that the kernel lacks. Only that Mapping is refused,
// until the helper is not wanted any more.
func TestKernelMissingHelper(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		q := quarantine.New(h.start())
		now := time.Now()
		helped := and(true, bad("10.244.1.2"))
		helped.Helpers = []gateway.Helper{{Name: "lacking", Protocol: gateway.TCP, Port: 80}}
		rest := and(true)
		rest.Helpers = helped.Helpers
		_, result, err := q.Apply(t.Context(), now, helped)
		refusals := q.Refusals()
		if err != nil || !result.InPlace || len(refusals) != 1 || refusals[0].Owner != badOwner || refusals[0].Family != 4 || refusals[0].Suspected {
			t.Fatalf("in place %t: %v; refusals %+v, want only %s", result.InPlace, err, refusals, badOwner)
		}
		if _, iptables := h.backend.(*iptablesBackend); !iptables && !strings.Contains(refusals[0].Why, "helper lacking") { // iptables says only which line failed
			t.Errorf("the refusal does not name the helper: %s", refusals[0].Why)
		}
		h.expect(t, "a helper is missing", rest)

		all := and(true, bad("10.244.1.2"))
		if _, result, err := q.Apply(t.Context(), now.Add(time.Hour), all); err != nil || !result.InPlace || len(q.Refusals()) > 0 {
			t.Errorf("in place %t: %v; refusals %+v without the helper", result.InPlace, err, q.Refusals())
		}
		h.expect(t, "without the helper", all)
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
