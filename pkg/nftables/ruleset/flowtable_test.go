// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// flowing returns a table with a chain that adds flows to its Flowtable.
func flowing(name string, links ...string) Table {
	return Table{
		Family:     gateway.IPv4,
		Flowtables: []Flowtable{{Name: name, Counters: true, Links: links}},
		Chains:     []Chain{base("forward", forward, []Expr{AddFlow{Flowtable: name}}), {Name: "other"}},
	}
}

func TestDiffOfFlowtables(t *testing.T) {
	none := flowing("a", "eth0")
	none.Flowtables, none.Chains[0].Rules = nil, nil
	for _, tc := range []struct {
		name       string
		have, want Table
		batch      Batch
	}{
		{"the same", flowing("a", "eth0"), flowing("a", "eth0"), Batch{}},
		{"begins", none, flowing("a", "eth0"), Batch{AddFlowtables: flowing("a", "eth0").Flowtables, ReplaceChains: flowing("a").Chains[:1]}},
		{"ends", flowing("a", "eth0"), none, Batch{DeleteFlowtables: flowing("a", "eth0").Flowtables, ReplaceChains: none.Chains[:1]}},
		{"another name", flowing("a", "eth0"), flowing("b", "eth0"), Batch{
			DeleteFlowtables: flowing("a", "eth0").Flowtables, AddFlowtables: flowing("b", "eth0").Flowtables, ReplaceChains: flowing("b").Chains[:1]}},
		{"a link is gone", flowing("a"), flowing("a", "eth0"), Batch{
			DeleteFlowtables: flowing("a").Flowtables, AddFlowtables: flowing("a", "eth0").Flowtables, ReplaceChains: flowing("a").Chains[:1]}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Diff(tc.have, tc.want)
			if diff := cmp.Diff(tc.batch, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.Empty() != (tc.name == "the same") {
				t.Errorf("empty = %t", got.Empty())
			}
		})
	}
}

// TestRewriteKeepsFlowtables expects a table that is deleted first to get its Flowtables again.
func TestRewriteKeepsFlowtables(t *testing.T) {
	want := flowing("a", "eth0")
	have := flowing("a", "eth0")
	have.Chains[0].Hook = &Hook{Type: FilterType, Point: Forward, Priority: 7}
	got := Diff(have, want)
	if diff := cmp.Diff(Batch{Rewrite: true, AddFlowtables: want.Flowtables, AddChains: want.Chains}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestReversePath expects the lookup to use the mark of the packet.
func TestReversePath(t *testing.T) {
	p := first()
	p.Route = func(to netip.Addr, mark uint32) string {
		if to == p.Source.Addr() && mark == 1 {
			return p.In
		}
		return "eth0"
	}
	for mark, want := range map[uint32]packet.Verdict{0: packet.Accept, 1: packet.Drop} {
		p.Mark = mark
		table := Table{Family: gateway.IPv4, Chains: []Chain{base("a", forward, []Expr{ReversePath{}, Compare{Data: "\x01"}, AddFlow{Flowtable: "f"}, drop})}}
		if got := NewTracer(table, "t", gateway.Mark{}).Trace(p).Verdict; got != want {
			t.Errorf("mark %d: %v, want %v", mark, got, want)
		}
	}
}
