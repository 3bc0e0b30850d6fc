// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Batch holds the changes from one table to another.
type Batch struct {
	AddHelpers []gateway.Helper
	// AddSets have their elements.
	AddSets []Set
	// AddChains are new, ReplaceChains have other rules.
	AddChains, ReplaceChains []Chain
	DeleteElements           []Elements
	AddElements              []Elements
	DeleteChains             []Chain
	DeleteSets               []Set
	DeleteHelpers            []gateway.Helper
	// DeleteFlowtables are deleted before AddFlowtables are added, because a link can be in only one of a table. A Flowtable that
	// differs is in both, and the chains that add to it are in ReplaceChains.
	DeleteFlowtables, AddFlowtables []Flowtable
	// Rewrite means that the table is deleted first, within the same transaction: a set or base chain has the same name and
	// another shape.
	Rewrite bool
	// ReplaceBridge means that the table BridgeTable is deleted, and created again with the chains in Bridge, if any.
	ReplaceBridge bool
	Bridge        []Chain
}

// Elements are elements of one set. They are sorted by key.
type Elements struct {
	Set    string
	Schema Schema
	List   []Element
}

// Empty reports whether nothing changes.
func (b Batch) Empty() bool {
	return b.Chains()+b.Sets()+len(b.AddHelpers)+len(b.DeleteHelpers)+len(b.AddFlowtables)+len(b.DeleteFlowtables) == 0 &&
		!b.Rewrite && !b.ReplaceBridge
}

// Chains counts the chains that are created, rewritten or deleted.
func (b Batch) Chains() int {
	return len(b.AddChains) + len(b.ReplaceChains) + len(b.DeleteChains) + len(b.Bridge)
}

// Sets counts the sets that are created, changed or deleted.
func (b Batch) Sets() int {
	changed := map[string]bool{}
	for _, elements := range [][]Elements{b.DeleteElements, b.AddElements} {
		for _, e := range elements {
			changed[e.Set] = true
		}
	}
	return len(b.AddSets) + len(b.DeleteSets) + len(changed)
}

// Members counts the elements that are added or deleted. An element with another value is both.
func (b Batch) Members() int {
	n := 0
	for _, s := range b.AddSets {
		n += len(s.Elements)
	}
	for _, elements := range [][]Elements{b.DeleteElements, b.AddElements} {
		for _, e := range elements {
			n += len(e.List)
		}
	}
	return n
}

// Diff returns the changes from one table to another.
func Diff(have, want Table) Batch {
	var b Batch
	for was, is := range delta.Join(have.Sets, want.Sets, func(x, y Set) int { return strings.Compare(x.Name, y.Name) }) {
		b.diffSet(was, is)
	}
	for was, is := range delta.Join(have.Chains, want.Chains, func(x, y Chain) int { return strings.Compare(x.Name, y.Name) }) {
		b.diffChain(was, is)
	}
	for was, is := range delta.Join(have.Helpers, want.Helpers, func(x, y gateway.Helper) int { return strings.Compare(x.Name, y.Name) }) {
		switch {
		case was == nil:
			b.AddHelpers = append(b.AddHelpers, *is)
		case is == nil:
			b.DeleteHelpers = append(b.DeleteHelpers, *was)
		}
	}
	b.diffFlowtables(have, want)
	if b.Rewrite {
		b = Batch{Rewrite: true, AddHelpers: want.Helpers, AddFlowtables: want.Flowtables, AddSets: want.Sets, AddChains: want.Chains}
	}
	if !slices.EqualFunc(have.Bridge, want.Bridge, Chain.Equal) {
		b.ReplaceBridge, b.Bridge = true, want.Bridge
	}
	return b
}

func (b *Batch) diffSet(was, is *Set) {
	switch {
	case was == nil:
		b.AddSets = append(b.AddSets, *is)
	case is == nil:
		b.DeleteSets = append(b.DeleteSets, *was)
	case was.Schema != is.Schema:
		b.Rewrite = true
	case !is.Dynamic:
		removed, added := DiffElements(was.Elements, is.Elements)
		if len(removed) > 0 {
			b.DeleteElements = append(b.DeleteElements, Elements{is.Name, is.Schema, removed})
		}
		if len(added) > 0 {
			b.AddElements = append(b.AddElements, Elements{is.Name, is.Schema, added})
		}
	}
}

func (b *Batch) diffChain(was, is *Chain) {
	switch {
	case was == nil:
		b.AddChains = append(b.AddChains, *is)
	case is == nil:
		b.DeleteChains = append(b.DeleteChains, *was)
	case !was.sameHook(*is):
		b.Rewrite = true
	case !slices.EqualFunc(was.Rules, is.Rules, Rule.Equal):
		b.ReplaceChains = append(b.ReplaceChains, *is)
	}
}

func (b *Batch) diffFlowtables(have, want Table) {
	for was, is := range delta.Join(have.Flowtables, want.Flowtables, func(x, y Flowtable) int { return strings.Compare(x.Name, y.Name) }) {
		if was != nil && is != nil && was.Equal(*is) {
			continue
		}
		if was != nil {
			b.DeleteFlowtables = append(b.DeleteFlowtables, *was)
		}
		if is != nil {
			b.AddFlowtables = append(b.AddFlowtables, *is)
		}
		if was == nil || is == nil {
			continue
		}
		for before, now := range delta.Join(have.Chains, want.Chains, func(x, y Chain) int { return strings.Compare(x.Name, y.Name) }) {
			// Chains that differ are replaced anyway.
			if before != nil && now != nil && before.Equal(*now) && now.flowsTo(is.Name) {
				b.ReplaceChains = append(b.ReplaceChains, *now)
			}
		}
	}
}

// DiffElements returns the elements to delete and to add. Both lists are sorted by key.
func DiffElements(have, want []Element) (removed, added []Element) {
	for was, is := range delta.Join(have, want, CompareElements) {
		if was != nil && is != nil && *was == *is {
			continue
		}
		if was != nil {
			removed = append(removed, *was)
		}
		if is != nil {
			added = append(added, *is)
		}
	}
	return removed, added
}

// CompareElements orders elements by key.
func CompareElements(x, y Element) int {
	if x.Key != y.Key {
		return strings.Compare(x.Key, y.Key)
	}
	return strings.Compare(x.Last, y.Last)
}
