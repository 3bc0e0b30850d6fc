// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// Boundary returns the rules that hold the boundary and do nothing else: what a host needs where no Mapping is known yet,
// or none of the family is served.
func Boundary(state gateway.State, family netfilter.Family, opts Options) netfilter.Ruleset {
	b := &builder{family: family, opts: opts, state: state, room: &room{}}
	filter := b.table("filter", func() {
		b.hook("FORWARD", forwardChain)
		b.chain(forwardChain, append(b.letSwitched(), b.guards()...)...)
		b.boundary()
	})
	return netfilter.Ruleset{Family: family, Tables: []netfilter.Table{filter}}
}

// Guard returns what puts up the boundary on a host that may hold rules of ours already. It takes nothing away: what is
// forwarded for Mappings that are not known yet goes on.
func Guard(have netfilter.Ruleset, state gateway.State, opts Options) netfilter.Batch {
	want := Boundary(state, have.Family, opts)
	wanted := want.Tables[0].Chains
	seen := netfilter.Table{Name: "filter"}
	for _, table := range have.Tables {
		if table.Name != "filter" {
			continue
		}
		for _, c := range table.Chains {
			if slices.ContainsFunc(wanted, func(w *netfilter.Chain) bool { return w.Name == c.Name }) {
				seen.Chains = append(seen.Chains, c)
			}
		}
	}
	forward := opts.Ownership.ChainPrefix + forwardChain
	for i, w := range wanted {
		j := slices.IndexFunc(seen.Chains, func(c *netfilter.Chain) bool { return c.Name == w.Name })
		if w.Name != forward || j < 0 {
			continue
		}
		merged := slices.Clone(seen.Chains[j].Rules)
		for _, guard := range w.Rules {
			// What a bridge switches goes before what is dropped.
			if at := len(merged); !slices.Contains(merged, guard) {
				if guard.Bridged {
					at = 0
				}
				merged = slices.Insert(merged, at, guard)
			}
		}
		wanted[i] = &netfilter.Chain{Name: w.Name, Rules: merged}
	}
	seenOnly := netfilter.Ruleset{Family: have.Family, Tables: []netfilter.Table{seen}}
	return netfilter.Diff(seenOnly, want, opts.Ownership.ChainPrefix)
}
