// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// checkState checks that a State has the properties that pkg/gateway defines for the data plane.
func checkState(t testing.TB, state gateway.State, cfg config.Config) {
	t.Helper()
	checkForwards(t, state.Forwards)
	checkForwards(t, state.Absent.Forwards)
	// The two lists together must not overlap either.
	everywhere := slices.Concat(state.Forwards, state.Absent.Forwards)
	slices.SortFunc(everywhere, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) })
	checkForwards(t, everywhere)
	for i, u := range state.Uplinks {
		if u.Number != i+1 || u.Number > cfg.Ownership.MaxUplinks() {
			t.Errorf("uplink %d of %d is number %d", i+1, len(state.Uplinks), u.Number)
		}
		if !sortedSet(u.Connected, comparePrefixes) || len(u.Gateways) > 2 {
			t.Errorf("uplink %+v", u)
		}
	}
	if !sortedSet(state.ServiceRoutes, func(a, b gateway.ServiceRoute) int { return comparePrefixes(a.Destination, b.Destination) }) {
		t.Errorf("service routes are not sorted or have duplicates: %v", state.ServiceRoutes)
	}
	for _, r := range state.ServiceRoutes {
		if len(r.Via) == 0 || !sortedSet(r.Via, netip.Addr.Compare) || !sameFamily(r.Destination.Addr(), r.Via) {
			t.Errorf("service route %+v", r)
		}
	}
	checkEgresses(t, state)
}

func checkForwards(t testing.TB, forwards []*gateway.Forward) {
	t.Helper()
	for i, f := range forwards {
		checkForward(t, f)
		if i == 0 {
			continue
		}
		before := forwards[i-1]
		order := cmp.Or(before.Address.Compare(f.Address), strings.Compare(string(before.Protocol), string(f.Protocol)))
		if order > 0 || order == 0 && before.Ports.Last >= f.Ports.First {
			t.Errorf("%s does not come before %s, or overlaps it", before.Frontend, f.Frontend)
		}
	}
}

func checkForward(t testing.TB, f *gateway.Forward) {
	t.Helper()
	if f.Ports.First == 0 || f.Ports.First > f.Ports.Last || !f.Address.IsGlobalUnicast() || f.Address.Is4In6() || f.Owner == "" {
		t.Errorf("frontend %+v of %q", f.Frontend, f.Owner)
	}
	if f.Protocol != gateway.TCP && f.Protocol != gateway.UDP && f.Protocol != gateway.SCTP {
		t.Errorf("%s: protocol %q", f.Frontend, f.Protocol)
	}
	masked := func(p netip.Prefix) bool { return p.IsValid() && p == p.Masked() && p.Addr().Is4() == f.Address.Is4() }
	if !sortedSet(f.Sources, comparePrefixes) || slices.ContainsFunc(f.Sources, func(p netip.Prefix) bool { return !masked(p) }) {
		t.Errorf("%s: sources %v", f.Frontend, f.Sources)
	}
	if f.SourcesDeny && len(f.Sources) > 0 {
		t.Errorf("%s: sources are both denied and allowed: %v", f.Frontend, f.Sources)
	}
	for _, list := range [][]gateway.Backend{f.Backends, f.Draining} {
		if !sortedSet(list, compareBackends) {
			t.Errorf("%s: backends are not sorted or have duplicates: %v", f.Frontend, list)
		}
		for _, b := range list {
			last := int(b.Port)
			if f.Shift {
				last += int(f.Ports.Last - f.Ports.First)
			}
			if b.Port == 0 || last > 65535 || b.Address.Is4() != f.Address.Is4() || !b.Address.IsGlobalUnicast() || b.Address.Is4In6() {
				t.Errorf("%s: backend %+v", f.Frontend, b)
			}
			if slices.Contains(f.Backends, b) && slices.Contains(f.Draining, b) {
				t.Errorf("%s: backend %+v drains and takes connections", f.Frontend, b)
			}
		}
	}
	if !f.Direct && (len(f.Draining) > 0 || f.Affinity != 0 || len(f.Backends) > 1) || f.Affinity < 0 {
		t.Errorf("%s: a ClusterIP has settings for endpoints: %+v", f.Frontend, f)
	}
}

func checkEgresses(t testing.TB, state gateway.State) {
	t.Helper()
	for _, list := range [][]gateway.Egress{state.Egresses, state.Absent.Egresses} {
		if !sortedSet(list, func(a, b gateway.Egress) int {
			return cmp.Or(strings.Compare(a.Owner, b.Owner), a.Address.Compare(b.Address))
		}) {
			t.Errorf("egresses are not sorted or have duplicates: %v", list)
		}
	}
	seen := map[netip.Addr]bool{}
	for i, e := range slices.Concat(state.Egresses, state.Absent.Egresses) {
		if absent := i >= len(state.Egresses); absent != (e.Uplink == 0) || e.Uplink > len(state.Uplinks) || len(e.Sources) == 0 || !sortedSet(e.Sources, netip.Addr.Compare) || !sameFamily(e.Address, e.Sources) {
			t.Errorf("egress %+v", e)
		}
		for _, s := range e.Sources {
			if seen[s] {
				t.Errorf("pod %s leaves with two addresses", s)
			}
			seen[s] = true
		}
	}
}

// sortedSet reports whether items are strictly ascending.
func sortedSet[T any](items []T, compare func(a, b T) int) bool {
	for i := 1; i < len(items); i++ {
		if compare(items[i-1], items[i]) >= 0 {
			return false
		}
	}
	return true
}

func sameFamily(a netip.Addr, others []netip.Addr) bool {
	return !slices.ContainsFunc(others, func(o netip.Addr) bool { return o.Is4() != a.Is4() })
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func compareBackends(a, b gateway.Backend) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
}
