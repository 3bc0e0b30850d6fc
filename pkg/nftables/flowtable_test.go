// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// flowing returns a state whose established connections bypass the rules between the links.
func flowing(backends int, links ...string) gateway.State {
	s := state(backends)
	s.Flowtable.Families.IPv4 = true
	for i, link := range links {
		s.Flowtable.Links = append(s.Flowtable.Links, gateway.FlowLink{Name: link, Index: i})
	}
	return s
}

// TestRefusedFlowtable expects that all but the flowtable is in effect while a link of it is missing, and that it is tried again once
// other links are listed, and by a verification.
func TestRefusedFlowtable(t *testing.T) {
	k := newKernel(true)
	r := k.start()
	k.missing = "eth1"
	for _, step := range []struct {
		name   string
		do     func()
		state  gateway.State
		want   gateway.State
		writes int
		// refusals counts all until now.
		refusals int
	}{
		{name: "missing from the start", state: flowing(2, "eth0", "eth1"), want: state(2), writes: 2, refusals: 1},
		{name: "no more attempts", state: flowing(3, "eth0", "eth1"), want: state(3), writes: 2, refusals: 1},
		{name: "without it", state: flowing(3, "eth0"), want: flowing(3, "eth0"), writes: 1, refusals: 1},
		{name: "missing again", state: flowing(4, "eth0", "eth1", "eth2"), want: state(4), writes: 3, refusals: 2},
		{name: "it exists, and all is verified", do: func() { k.missing = ""; r.Verify() }, state: flowing(4, "eth0", "eth1", "eth2"), want: flowing(4, "eth0", "eth1", "eth2"), writes: 1, refusals: 2},
	} {
		if step.do != nil {
			step.do()
		}
		writes := k.writes
		apply(t, r, step.state)
		k.expect(t, step.want)
		if k.writes-writes != step.writes {
			t.Errorf("%s: %d writes, want %d", step.name, k.writes-writes, step.writes)
		}
		if len(k.refusals) != step.refusals || slices.ContainsFunc(k.refusals, func(why string) bool { return !strings.Contains(why, "eth1") }) {
			t.Errorf("%s: refusals %q, want %d that name eth1", step.name, k.refusals, step.refusals)
		}
	}
}

// TestDamagedFlowtable expects a repair that names the flowtable.
func TestDamagedFlowtable(t *testing.T) {
	k := newKernel(false)
	r := k.start()
	apply(t, r, flowing(2, "eth0", "eth1"))
	table := k.tables[gateway.IPv4]
	name := table.Flowtables[0].Name
	table.Flowtables = slices.Clone(table.Flowtables)
	table.Flowtables[0].Links = []string{"eth0"}
	k.tables[gateway.IPv4] = table
	k.generation++
	r.Verify()
	want := "IPv4 table of nf_tables: chains missing or changed: established; flowtables missing or changed: " + name
	if repaired := apply(t, r, flowing(2, "eth0", "eth1")); len(repaired) != 1 || repaired[0] != want {
		t.Errorf("repaired %q, want %q", repaired, want)
	}
	k.expect(t, flowing(2, "eth0", "eth1"))
}
