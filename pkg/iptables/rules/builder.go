// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// Builder builds the rules of one family after each change of the State, at the cost of the change. It is not safe for
// concurrent use.
type Builder struct {
	family gateway.Family
	opts   Options
	before memory
	room   room
}

// room holds memory that one run can reuse from the last one.
type room struct {
	spans spans
	// drafts and pieces hold unfinished chains and forwards.
	drafts [][]ruleset.Rule
	pieces []*gateway.Forward
}

// NewBuilder returns a Builder that has built nothing.
func NewBuilder(family gateway.Family, opts Options) *Builder {
	return &Builder{family: family, opts: opts, before: memory{sources: map[string]*shared{}}}
}

// Build returns the same as the function Build. The result shares unchanged parts with earlier results, and keeps references to
// the State. The caller must change neither.
func (b *Builder) Build(state gateway.State) ruleset.Ruleset {
	was := &b.before
	run := &builder{family: b.family, opts: b.opts, state: state, before: was, room: &b.room}
	run.forwards = ofFamily(state.Forwards, b.family)
	b.room.spans = compare(b.room.spans[:0], was.forwards, run.forwards)

	now := memory{
		forwards: run.forwards, uplinks: state.Uplinks, egresses: state.Egresses, clampMSS: state.ClampMSS,
		forwardedOnly: state.ForwardedOnly, masqueradePorts: state.MasqueradePorts, built: true, sources: was.sources,
		routes: state.ServiceRoutes, inside: state.InsideNetworks, behind: state.BackendNetworks, outside: state.Outside,
		closed: state.Closed, switched: state.Switched, insideLinks: state.InsideLinks,
	}
	var nat change
	if was.sameHost(&now) {
		now.mangle, now.filter, now.nat = was.mangle, was.filter, was.nat
	} else {
		now.mangle, now.filter = run.table("mangle", run.mangle), run.table("filter", run.filter)
		now.nat = run.collect(run.fixed)
		nat.replace(was.nat, now.nat)
	}
	if now.trees = was.trees; !b.room.spans.all(len(was.forwards), len(now.forwards)) {
		now.trees = run.trees()
	}
	if now.services = was.services; !was.built || !slices.EqualFunc(was.trees, now.trees, sameSite) {
		now.services = run.collect(func() { run.services(now.trees) })
		nat.replace(was.services, now.services)
	}
	nat.follow(was.trees, now.trees, now.sources)
	now.table = nat.apply(was.table)
	now.crowded, now.sets = run.setsOf()
	b.before = now
	return ruleset.Ruleset{
		Family: b.family,
		Tables: append([]ruleset.Table{now.mangle, now.filter, {Name: "nat", Chains: now.table}}, run.helpers()...),
		Sets:   now.sets,
	}
}

// ofFamily returns the forwards of one family. IPv4 comes first.
func ofFamily(forwards []*gateway.Forward, family gateway.Family) []*gateway.Forward {
	six, _ := slices.BinarySearchFunc(forwards, true, func(f *gateway.Forward, _ bool) int {
		if f.Address.Is4() {
			return -1
		}
		return 1
	})
	if family == gateway.IPv4 {
		return forwards[:six]
	}
	return forwards[six:]
}
