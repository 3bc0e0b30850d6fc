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
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/quarantine"
)

const badOwner = "default/bad"

// bad is a forward of a Mapping whose rules are refused, at an address of its own.
func bad(backends ...string) *gateway.Forward {
	f := forward("203.0.113.11", 80, backends...)
	f.Owner = badOwner
	return f
}

// and is full with more at the end, and with another port of a good Mapping where others change too.
func and(others bool, more ...*gateway.Forward) gateway.State {
	state := full()
	if others {
		more = append(more, forward("203.0.113.12", 81, "10.244.1.2"))
	}
	state.Forwards = append(state.Forwards, more...)
	slices.SortFunc(state.Forwards, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) })
	return state
}

// poisoned is a door to netfilter where rules of one Mapping come to say what the kernel refuses.
type poisoned struct {
	dataplane.IPTables
	// poison has rules refused, in place of the kernel, where it is no rule.
	poison, fake bool
	// written are the batches that were taken or refused, as text.
	written []string
}

// tooMany is what xt_recent refuses, as it remembers at most 255 packets of a client: the program takes it, the kernel does not.
const tooMany = "-m recent --rcheck --hitcount 70000 --name too-many -j RETURN"

func (p *poisoned) Restore(ctx context.Context, batch netfilter.Batch) error {
	p.written = append(p.written, string(batch.Text()))
	if !p.poison {
		return p.IPTables.Restore(ctx, batch)
	}
	for _, table := range batch.Tables {
		table.Write = slices.Clone(table.Write)
		for i, chain := range table.Write {
			if !slices.ContainsFunc(chain.Rules, func(r netfilter.Rule) bool { return r.Comment == badOwner }) {
				continue
			}
			if p.fake {
				return fmt.Errorf("%s: %w", chain.Name, gateway.ErrRefused)
			}
			table.Write[i].Rules = append(slices.Clip(chain.Rules), netfilter.Rule{Foreign: tooMany})
		}
		if err := p.IPTables.Restore(ctx, netfilter.Batch{Family: batch.Family, Tables: []netfilter.TableBatch{table}}); err != nil {
			return err
		}
	}
	return nil
}

// goodChain is where the ports of the good Mapping's address are, 198.51.100.10.
const goodChain = "SMARTNAT-TC633640A"

// expectUntouched wants nothing written to the chain of a good Mapping, not even for a moment.
func (p *poisoned) expectUntouched(t *testing.T) {
	t.Helper()
	text := strings.Join(p.written, "")
	for _, command := range []string{":", "-A ", "-I ", "-D ", "-X "} {
		if strings.Contains(text, "\n"+command+goodChain) {
			t.Errorf("written to %s:\n%s", goodChain, text)
		}
	}
}

// refusedMapping brings a host with a Mapping that comes to be refused through all that may happen to it. expect compares what
// the host holds with what it would hold if just the state had been asked for.
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
			t.Errorf("%s: somebody else is said to have changed %q", name, result.Repaired)
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
	step("it changes, and others do", and(true, changed), and(true, bad("10.244.1.2")), 1)
	door.expectUntouched(t)
	if result := step("nothing changes", and(true, changed), and(true, bad("10.244.1.2")), 1); !result.Empty() || len(door.written) > 0 {
		t.Errorf("nothing changes: %s by %q", result, door.written)
	}
	step("others change back", and(false, changed), and(false, bad("10.244.1.2")), 1)
	limited := bad("10.244.1.2", "10.244.2.2")
	limited.Sources = prefixes("192.0.2.0/24")
	// What stays of it would be another rule of it, and that is refused too here.
	step("sources are taken away from it", and(true, limited), and(true), 1)

	now = now.Add(time.Hour)
	step("it is tried again, in vain", and(true, limited), and(true), 1)
	door.expectUntouched(t)

	q = quarantine.New(start())
	step("smartnatd starts", and(false, limited), and(false), 1)
	door.expectUntouched(t)

	door.poison = false
	now = now.Add(time.Hour)
	step("it is taken at last", and(true, limited), and(true, limited), 0)
}

func TestARefusedMappingHoldsUpNobody(t *testing.T) {
	k := newKernel()
	door := &poisoned{IPTables: k.Tables, fake: true}
	start := func() *dataplane.Dataplane {
		opts := options(k)
		opts.IPTables = door
		return dataplane.New(opts)
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
	onHosts(t, func(t *testing.T, h *host) {
		before := h.dump(t)
		door := &poisoned{IPTables: h.tables}
		opts := h.options()
		opts.IPTables = door
		start := func() *dataplane.Dataplane { return dataplane.New(opts) }
		refusedMapping(t, door, start, func(name string, want gateway.State) {
			t.Helper()
			dump := h.dump(t)
			if strings.Contains(dump, "SMARTNAT-TRY-") {
				t.Errorf("%s: what was tried is still there", name)
			}
			if result := apply(t, h.start(), want); !result.Empty() {
				t.Errorf("%s: what is in effect is not what is wanted; to get there: %s\nfrom %s", name, result, dump)
			}
		})
		h.cleanup(t, h.start(), before)
	})
}

// TestTryIsMetByNoPacket: whatever is tried, no rule that was there leads to it or is another one, and the next Apply leaves
// nothing of it behind.
func TestTryIsMetByNoPacket(t *testing.T) {
	const tried = "SMARTNAT-TRY-"
	k := newKernel()
	d := start(k)
	apply(t, d, full())
	before := map[netfilter.Family]string{}
	for family, rs := range k.Tables.Rulesets {
		before[family] = text(rs)
	}
	restores := k.Tables.Restores
	other := and(true, bad("10.244.1.2"), forward("2001:db8:1::10", 81, "fd00:244:1::2"))
	if err := d.Try(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if n := k.Tables.Restores - restores; n != 2 {
		t.Errorf("%d runs of iptables-restore, want one a family", n)
	}
	for family, rs := range k.Tables.Rulesets {
		var chains int
		for i, table := range rs.Tables {
			rs.Tables[i].Chains = slices.DeleteFunc(slices.Clone(table.Chains), func(c *netfilter.Chain) bool { return strings.HasPrefix(c.Name, tried) })
			chains += len(table.Chains) - len(rs.Tables[i].Chains)
			for _, c := range rs.Tables[i].Chains {
				if slices.ContainsFunc(c.Rules, func(r netfilter.Rule) bool { return strings.HasPrefix(r.Target.Chain, tried) }) {
					t.Errorf("IPv%d: %s %s leads to what is tried", family, table.Name, c.Name)
				}
			}
		}
		if diff := cmp.Diff(before[family], text(rs)); diff != "" || chains == 0 {
			t.Errorf("IPv%d: %d chains were tried; beside them (-before +after):\n%s", family, chains, diff)
		}
	}

	k = newKernel()
	d = start(k)
	apply(t, d, full())
	restores = k.Tables.Restores
	only4 := gateway.State{Forwards: []*gateway.Forward{bad("10.244.1.2")}}
	if err := d.Try(t.Context(), only4); err != nil || k.Tables.Restores != restores+1 {
		t.Errorf("IPv4 alone: error %v, %d runs of iptables-restore", err, k.Tables.Restores-restores)
	}
	if result := apply(t, d, full()); len(result.Repaired) > 0 {
		t.Errorf("somebody else is said to have changed %q", result.Repaired)
	}
	expectSame(t, fresh(t, full()), k)
}
