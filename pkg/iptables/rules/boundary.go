// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// Boundary returns the rules that enforce the boundary and nothing else, for a host whose Mappings are not known yet and for a
// family that is not served.
func Boundary(state gateway.State, family gateway.Family, opts Options) ruleset.Ruleset {
	b := &builder{family: family, opts: opts, state: state, last: &cache{}, buffers: &buffers{}}
	filter := b.table("filter", func() {
		b.hook("FORWARD", forwardChain)
		b.chain(forwardChain, append(b.returnBridged(), b.boundaryJumps()...)...)
		b.boundary()
	})
	return ruleset.Ruleset{Family: family, Tables: []ruleset.Table{filter}}
}

// Guard returns a batch that adds the boundary to a host that may already hold our rules. It removes nothing: the host
// continues to forward for Mappings that are not known yet.
func Guard(have ruleset.Ruleset, state gateway.State, opts Options) ruleset.Batch {
	want := Boundary(state, have.Family, opts)
	wanted := want.Tables[0].Chains
	seen := ruleset.Table{Name: "filter"}
	for _, table := range have.Tables {
		if table.Name != "filter" {
			continue
		}
		for _, c := range table.Chains {
			if slices.ContainsFunc(wanted, func(w *ruleset.Chain) bool { return w.Name == c.Name }) {
				seen.Chains = append(seen.Chains, c)
			}
		}
	}
	forward := opts.Ownership.ChainPrefix + forwardChain
	for i, w := range wanted {
		j := slices.IndexFunc(seen.Chains, func(c *ruleset.Chain) bool { return c.Name == w.Name })
		if w.Name != forward || j < 0 {
			continue
		}
		merged := slices.Clone(seen.Chains[j].Rules)
		for _, guard := range w.Rules {
			// The exception for bridged packets goes before the rules that drop.
			if at := len(merged); !slices.Contains(merged, guard) {
				if guard.Bridged {
					at = 0
				}
				merged = slices.Insert(merged, at, guard)
			}
		}
		wanted[i] = &ruleset.Chain{Name: w.Name, Rules: merged}
	}
	seenOnly := ruleset.Ruleset{Family: have.Family, Tables: []ruleset.Table{seen}}
	return ruleset.Diff(seenOnly, want, opts.Ownership.ChainPrefix)
}
