// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// Builder builds the rules of one family again and again as the State changes, and at the cost of what changed. It is not safe
// for several goroutines.
type Builder struct {
	family netfilter.Family
	opts   Options
	before memory
}

// NewBuilder returns a Builder that has built nothing yet.
func NewBuilder(family netfilter.Family, opts Options) *Builder {
	return &Builder{family: family, opts: opts}
}

// Build returns what the function Build would. It shares what did not change with what it returned before: neither must be
// changed, nor the State.
func (b *Builder) Build(state gateway.State) netfilter.Ruleset {
	run := &builder{family: b.family, opts: b.opts, state: state, before: &b.before, known: map[string][]netfilter.Rule{}}
	run.forwards = ofFamily(state.Forwards, b.family)
	b.before.compare(run.forwards)

	now := memory{
		forwards: run.forwards, uplinks: state.Uplinks, egresses: state.Egresses, clampMSS: state.ClampMSS,
		forwardedOnly: state.ForwardedOnly, built: true,
	}
	if b.before.sameHost(&now) {
		now.mangle, now.filter, now.nat = b.before.mangle, b.before.filter, b.before.nat
	} else {
		now.mangle, now.filter = run.table("mangle", run.mangle), run.table("filter", run.filter)
		now.nat = run.collect(run.fixed)
	}
	now.trees = run.trees()
	if now.services = b.before.services; !b.before.built || !slices.EqualFunc(b.before.trees, now.trees, sameSite) {
		now.services = run.collect(func() { run.services(now.trees) })
	}
	nat := netfilter.Table{Name: "nat", Chains: b.before.table}
	if !b.before.all(len(run.forwards)) || !b.before.sameHost(&now) {
		nat = run.table("nat", func() {
			run.chains = append(make([]netfilter.Chain, 0, len(b.before.table)+leafRules), now.nat...)
			run.chains = append(run.chains, now.services...)
			for _, t := range now.trees {
				run.walk(t.root.node)
			}
		})
		now.sources = run.known
	} else {
		now.sources = b.before.sources
	}
	now.table = nat.Chains
	now.from, now.run = b.before.from, b.before.run
	b.before = now
	return netfilter.Ruleset{
		Family: b.family,
		Tables: []netfilter.Table{now.mangle, now.filter, nat},
		Sets:   run.setsOf(run.forwards),
	}
}

// ofFamily returns the forwards of one family; those of IPv4 come first.
func ofFamily(forwards []*gateway.Forward, family netfilter.Family) []*gateway.Forward {
	six, _ := slices.BinarySearchFunc(forwards, true, func(f *gateway.Forward, _ bool) int {
		if f.Address.Is4() {
			return -1
		}
		return 1
	})
	if family == netfilter.IPv4 {
		return forwards[:six]
	}
	return forwards[six:]
}
