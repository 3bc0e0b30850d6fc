// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// Steps returns the transactions that execute a batch so that each packet meets the old or the new rules. Most batches are one.
//
// A transaction is not one instant for packets (nf_tables_commit in net/netfilter/nf_tables_api.c). The kernel switches rules and
// elements, and then publishes the elements of Interval sets, one set after the other: concatenations always, other Interval sets
// since Linux 7.0 and its backports. In between, a client is in no set of allowed sources. And a packet that found its frontend in
// the old map looks for its backend in the new one. So whatever leads to something is added after it, and deleted before it.
//
// Before Linux 6.17 and its backports, a packet can also find neither the old element of a key nor its successor. The new one is there as
// soon as the old one is gone, so the rules look twice for elements of hash tables. Ranges of ports take the place of others only while the
// map moving-ranges has them too.
//
// A batch that deletes a Flowtable stays one transaction: its successor needs its links, and new chains the successor.
func Steps(b ruleset.Batch) []ruleset.Batch {
	if b.Rewrite || len(b.DeleteFlowtables) > 0 || len(b.AddChains)+len(b.ReplaceChains)+len(b.AddSets)+len(b.AddElements) == 0 {
		return []ruleset.Batch{b}
	}
	var prepare, add, move, remove ruleset.Batch
	change := ruleset.Batch{ReplaceChains: b.ReplaceChains, ReplaceBridge: b.ReplaceBridge, Bridge: b.Bridge}
	first, second, third := &prepare, &add, &move
	if !changesIntervals(b) {
		first, second, third = &change, &change, &change
	}
	first.AddHelpers, first.AddFlowtables, first.AddSets = b.AddHelpers, b.AddFlowtables, b.AddSets
	for _, c := range b.AddChains {
		if c.Hook == nil {
			first.AddChains = append(first.AddChains, c)
		} else {
			change.AddChains = append(change.AddChains, c)
		}
	}
	remove.DeleteSets, remove.DeleteHelpers = b.DeleteSets, b.DeleteHelpers
	for _, c := range b.DeleteChains {
		if c.Hook == nil {
			remove.DeleteChains = append(remove.DeleteChains, c)
		} else {
			change.DeleteChains = append(change.DeleteChains, c)
		}
	}
	for _, c := range setChanges(b) {
		switch {
		case c.Set == movingMap: // left by a change that did not come to its end; before it is filled again
			c.move(&prepare, c.removed, nil)
		case c.Set == chainsMap:
			c.move(first, nil, c.added)
			c.move(&remove, c.removed, nil)
		case c.Set == backendsMap:
			c.move(second, nil, c.fresh)
			c.move(&change, c.old, c.replaced)
			c.move(&remove, c.gone, nil)
		case c.Set == frontendsMap:
			c.move(second, nil, c.fresh)
			c.move(&change, slices.Concat(c.old, c.gone), c.replaced)
		case !c.Schema.Interval || len(c.added) == 0:
			c.move(&change, c.removed, c.added)
		case len(c.removed) > 0 && c.Set == rangesMap: // after the new frontends of ports that leave a range
			moving := setChange{Elements: ruleset.Elements{Set: movingMap, Schema: c.Schema}}
			moving.move(second, nil, c.added)
			c.move(third, c.removed, c.added)
			moving.move(&remove, c.added, nil)
		default:
			c.move(first, c.removed, c.added)
		}
	}
	return slices.DeleteFunc([]ruleset.Batch{prepare, add, move, change, remove}, ruleset.Batch.Empty)
}

func changesIntervals(b ruleset.Batch) bool {
	return slices.ContainsFunc(b.AddSets, func(s ruleset.Set) bool { return s.Interval && len(s.Elements) > 0 }) ||
		slices.ContainsFunc(slices.Concat(b.DeleteElements, b.AddElements), func(e ruleset.Elements) bool { return e.Schema.Interval })
}

// setChange is the change of a set that stays.
type setChange struct {
	ruleset.Elements
	removed, added []ruleset.Element
	// fresh are added, gone are removed. replaced takes the place of old elements with the same keys.
	fresh, gone, old, replaced []ruleset.Element
}

// setChanges returns the changes of each set, in the order of the batch.
func setChanges(b ruleset.Batch) []setChange {
	var changes []setChange
	of := func(e ruleset.Elements) *setChange {
		i := slices.IndexFunc(changes, func(c setChange) bool { return c.Set == e.Set })
		if i < 0 {
			i = len(changes)
			changes = append(changes, setChange{Elements: ruleset.Elements{Set: e.Set, Schema: e.Schema}})
		}
		return &changes[i]
	}
	for _, e := range b.DeleteElements {
		of(e).removed = e.List
	}
	for _, e := range b.AddElements {
		of(e).added = e.List
	}
	for i := range changes {
		c := &changes[i]
		for was, is := range delta.Join(c.removed, c.added, ruleset.CompareElements) {
			switch {
			case was == nil:
				c.fresh = append(c.fresh, *is)
			case is == nil:
				c.gone = append(c.gone, *was)
			default:
				c.old, c.replaced = append(c.old, *was), append(c.replaced, *is)
			}
		}
	}
	return changes
}

// move adds a part of the change to a batch.
func (c setChange) move(to *ruleset.Batch, removed, added []ruleset.Element) {
	list := func(elements []ruleset.Element) ruleset.Elements {
		return ruleset.Elements{Set: c.Set, Schema: c.Schema, List: elements}
	}
	if len(removed) > 0 {
		to.DeleteElements = append(to.DeleteElements, list(removed))
	}
	if len(added) > 0 {
		to.AddElements = append(to.AddElements, list(added))
	}
}
