// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// Guarded reports whether the chains that Build returns already enforce in a table exactly the boundary that Guard would.
func Guarded(have ruleset.Table, state gateway.State, family gateway.Family, own gateway.Ownership) bool {
	b := &builder{family: family, own: own, state: state}
	b.table.Family = family
	bridged, jumps := b.returnBridged(), b.boundaryJumps(boundaryChain)
	b.base(forwardFilter, ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Forward, Priority: ruleset.FilterOrder}, append(bridged, jumps...)...)
	b.boundary(boundaryChain)
	b.bridge()
	want := sorted(b.table)
	seen := ruleset.Table{Family: family, Bridge: have.Bridge}
	if len(want.Bridge) == 0 {
		seen.Bridge = nil
	}
	for _, c := range have.Chains {
		if !slices.ContainsFunc(want.Chains, func(w ruleset.Chain) bool { return w.Name == c.Name }) {
			continue
		}
		if c.Name == forwardFilter { // the rules that accept packets of Mappings come first
			end := max(0, len(c.Rules)-len(jumps))
			before := slices.DeleteFunc(slices.Clone(c.Rules[:end]), func(r ruleset.Rule) bool { return !slices.ContainsFunc(bridged, r.Equal) })
			c.Rules = append(before, c.Rules[end:]...)
		}
		seen.Chains = append(seen.Chains, c)
	}
	for _, s := range have.Sets {
		if slices.ContainsFunc(want.Sets, func(w ruleset.Set) bool { return w.Name == s.Name }) {
			seen.Sets = append(seen.Sets, s)
		}
	}
	return ruleset.Diff(seen, want).Empty()
}
