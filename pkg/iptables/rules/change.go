// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// change holds the names of the chains that leave a table and the chains that enter it. A rewritten chain is in both lists.
type change struct {
	gone []string
	come []*ruleset.Chain
}

// shared is a chain to which several nodes jump, and the number of these nodes.
type shared struct {
	*ruleset.Chain
	uses int
}

// replace replaces chains with others.
func (c *change) replace(before, now []*ruleset.Chain) {
	for _, chain := range before {
		c.gone = append(c.gone, chain.Name)
	}
	c.come = append(c.come, now...)
}

// follow replaces the chains of trees with those of other trees. Both lists are sorted. It counts the uses of the chains that
// check sources.
func (c *change) follow(before, now []tree, sources map[string]*shared) {
	var t turnover
	for len(before)+len(now) > 0 {
		order := 1
		switch {
		case len(now) == 0:
			order = -1
		case len(before) > 0:
			order = before[0].compare(now[0])
		}
		var was, is *node
		if order <= 0 {
			was, before = before[0].root, before[1:]
		}
		if order >= 0 {
			is, now = now[0].root, now[1:]
		}
		t.replace(was, is)
	}
	// Count the new nodes first, so that chains which they share with old nodes stay.
	for _, n := range t.come {
		c.come = append(c.come, n.chains...)
		for _, s := range n.sources {
			if sources[s.Name] == nil {
				sources[s.Name] = &shared{Chain: s}
				c.come = append(c.come, s)
			}
			sources[s.Name].uses++
		}
	}
	for _, n := range t.gone {
		c.replace(n.chains, nil)
		for _, s := range n.sources {
			if sources[s.Name].uses--; sources[s.Name].uses == 0 {
				delete(sources, s.Name)
				c.gone = append(c.gone, s.Name)
			}
		}
	}
}

// apply returns the chains after the change. Both lists are sorted by name.
func (c *change) apply(chains []*ruleset.Chain) []*ruleset.Chain {
	gone, come := c.gone, byName(c.come)
	if len(gone)+len(come) == 0 {
		return chains
	}
	slices.Sort(gone)
	all := make([]*ruleset.Chain, 0, len(chains)-len(gone)+len(come))
	upTo := func(name string) {
		i, _ := slices.BinarySearchFunc(chains, name, func(c *ruleset.Chain, name string) int { return strings.Compare(c.Name, name) })
		all, chains = append(all, chains[:i]...), chains[i:]
	}
	for len(gone)+len(come) > 0 {
		if len(come) == 0 || len(gone) > 0 && gone[0] <= come[0].Name {
			upTo(gone[0])
			chains, gone = chains[1:], gone[1:]
		} else {
			upTo(come[0].Name)
			all, come = append(all, come[0]), come[1:]
		}
	}
	return append(all, chains...)
}

// turnover holds the nodes that leave a tree and those that enter it.
type turnover struct{ gone, come []*node }

// replace replaces a node with another one for the same block. Either may be nil. Unchanged nodes below stay.
func (t *turnover) replace(before, now *node) {
	if before == now {
		return
	}
	if before != nil {
		t.gone = append(t.gone, before)
		for _, c := range before.below {
			t.replace(c, now.child(c.block))
		}
	}
	if now != nil {
		t.come = append(t.come, now)
		for _, c := range now.below {
			if before.child(c.block) == nil {
				t.replace(nil, c)
			}
		}
	}
}
