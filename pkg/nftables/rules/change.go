// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"maps"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// Builder builds the changes of one family's table after each change of the State, at the cost of the change. It is not safe
// for concurrent use.
type Builder struct {
	family gateway.Family
	own    gateway.Ownership

	host     ruleset.Table
	forwards []*gateway.Forward
	// units counts the Forwards that need each Unit.
	units map[string]int
	// ranges counts the elements of the map of ranges.
	ranges int
}

// NewBuilder returns a Builder for an empty table.
func NewBuilder(family gateway.Family, own gateway.Ownership) *Builder {
	return &Builder{family: family, own: own, units: map[string]int{}}
}

// Start builds the whole table, and forgets what was built before.
func (b *Builder) Start(state gateway.State) ruleset.Table {
	b.forwards = gateway.ForwardsOf(state.Forwards, b.family)
	parts := b.parts()
	b.units, b.ranges = parts.uses, parts.ranges
	b.host = Host(state, b.family, b.own, b.ranges > 0)
	return b.whole(parts)
}

// Built returns the whole table as last built, which is empty at first.
func (b *Builder) Built() ruleset.Table {
	if len(b.host.Chains) == 0 {
		return ruleset.Table{Family: b.family}
	}
	return b.whole(b.parts())
}

func (b *Builder) parts() *Parts {
	parts := NewParts(b.family, b.own)
	parts.AddAll(b.forwards)
	return parts
}

func (b *Builder) whole(parts *Parts) ruleset.Table {
	table := ruleset.Table{Family: b.family, Helpers: b.host.Helpers, Flowtables: b.host.Flowtables, Bridge: b.host.Bridge, Chains: slices.Clone(b.host.Chains)}
	for _, set := range b.host.Sets {
		set.Elements = slices.Clone(set.Elements)
		table.Sets = append(table.Sets, set)
	}
	parts.addTo(&table)
	return sorted(table)
}

// Change returns the changes from the table as last built to the one that the state requires. Changes take effect in the
// Builder when the caller calls Done.
func (b *Builder) Change(state gateway.State) (batch ruleset.Batch, done func()) {
	forwards := gateway.ForwardsOf(state.Forwards, b.family)
	c := change{builder: b, units: map[string]int{}, content: map[string]Unit{}, elements: map[string]*elementChange{}}
	for was, is := range gateway.DifferingForwards(b.forwards, forwards) {
		if was != nil && is != nil && equal(was, is) {
			continue
		}
		if is != nil {
			c.count(is, 1)
		}
		if was != nil {
			c.count(was, -1)
		}
	}
	ranges := b.ranges + c.ranges
	host := Host(state, b.family, b.own, ranges > 0)
	batch = ruleset.Diff(b.host, host)
	c.addTo(&batch, host)
	return batch, func() {
		b.host, b.forwards, b.ranges = host, forwards, ranges
		for name, n := range c.units {
			if b.units[name] += n; b.units[name] == 0 {
				delete(b.units, name)
			}
		}
	}
}

// change collects the differences between two lists of Forwards.
type change struct {
	builder  *Builder
	units    map[string]int
	content  map[string]Unit
	elements map[string]*elementChange
	ranges   int
}

type elementChange struct{ removed, added []ruleset.Element }

// count adds what a Forward contributes, or removes it if n is negative.
func (c *change) count(f *gateway.Forward, n int) {
	contribution := Contribute(f, c.builder.own, nil)
	for _, u := range contribution.Units {
		c.units[u.Name] += n
		c.content[u.Name] = u
	}
	for _, e := range contribution.Elements {
		if e.Set == rangesMap {
			c.ranges += n
		}
		c.element(e, n > 0)
	}
}

func (c *change) element(e Placed, added bool) {
	if c.elements[e.Set] == nil {
		c.elements[e.Set] = &elementChange{}
	}
	if set := c.elements[e.Set]; added {
		set.added = append(set.added, e.Element)
	} else {
		set.removed = append(set.removed, e.Element)
	}
}

func (c *change) addTo(batch *ruleset.Batch, host ruleset.Table) {
	for _, name := range slices.Sorted(maps.Keys(c.units)) {
		before := c.builder.units[name]
		now, unit := before+c.units[name], c.content[name]
		switch {
		case before == 0 && now > 0:
			batch.AddChains, batch.AddSets = append(batch.AddChains, unit.Chains...), append(batch.AddSets, unit.Sets...)
		case before > 0 && now == 0:
			batch.DeleteChains, batch.DeleteSets = append(batch.DeleteChains, unit.Chains...), append(batch.DeleteSets, unit.Sets...)
		default:
			continue
		}
		for _, e := range unit.Elements {
			c.element(e, now > 0)
		}
	}
	for _, set := range host.Sets {
		found := c.elements[set.Name]
		if found == nil {
			continue
		}
		slices.SortFunc(found.removed, ruleset.CompareElements)
		slices.SortFunc(found.added, ruleset.CompareElements)
		removed, added := ruleset.DiffElements(found.removed, found.added)
		// A set that is new has no elements to delete.
		if i := slices.IndexFunc(batch.AddSets, func(s ruleset.Set) bool { return s.Name == set.Name }); i >= 0 {
			batch.AddSets[i].Elements = added
			continue
		}
		if len(removed) > 0 {
			batch.DeleteElements = append(batch.DeleteElements, ruleset.Elements{Set: set.Name, Schema: set.Schema, List: removed})
		}
		if len(added) > 0 {
			batch.AddElements = append(batch.AddElements, ruleset.Elements{Set: set.Name, Schema: set.Schema, List: added})
		}
	}
}

// equal reports whether two Forwards contribute the same. Draining backends and the Owner are no part of the table.
func equal(x, y *gateway.Forward) bool {
	return x.Frontend == y.Frontend && x.Service == y.Service && x.SourcesDeny == y.SourcesDeny && x.Shift == y.Shift &&
		x.Masquerade == y.Masquerade && x.Affinity == y.Affinity && x.Consistent == y.Consistent && slices.Equal(x.Sources, y.Sources) && slices.Equal(x.Backends, y.Backends)
}
