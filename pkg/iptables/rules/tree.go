// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// tree is the tree of ports of one address and protocol.
type tree struct {
	address  netip.Addr
	protocol gateway.Protocol
	root     *node
}

// node is the part of a tree for a block of ports: a chain, the chains that only this chain uses, and the nodes below it.
type node struct {
	block
	// name is the name of its chain.
	name string
	// forwards counts the forwards of the node and of all nodes below.
	forwards int
	chains   []*ruleset.Chain
	// sources are the chains that check sources for it. Other nodes may share them.
	sources []*ruleset.Chain
	below   []*node
}

func (t tree) compare(o tree) int {
	return cmp.Or(t.address.Compare(o.address), strings.Compare(string(t.protocol), string(o.protocol)))
}

func sameKey(x, y tree) bool { return x.compare(y) == 0 }

// rootNode returns the root, or nil for no tree.
func (t *tree) rootNode() *node {
	if t == nil {
		return nil
	}
	return t.root
}

// child returns the node of a block below, or nil.
func (n *node) child(k block) *node {
	if n != nil {
		for _, c := range n.below {
			if c.block == k {
				return c
			}
		}
	}
	return nil
}

// trees builds the tree of each address and protocol. All chains below the first are reached by goto and not by jump, so a
// packet that matches no port or is refused returns at once to where the address was found.
func (b *builder) trees() []tree {
	before := b.last.trees
	trees := make([]tree, 0, len(before))
	mark := []ruleset.Rule{{Target: ruleset.Target{Verb: ruleset.SetConnMark, Mark: b.forwarded()}}}
	for start := 0; start < len(b.forwards); {
		first, end := b.forwards[start], start+countTogether(b.forwards[start:])
		t := tree{address: first.Address, protocol: first.Protocol}
		for len(before) > 0 && before[0].compare(t) < 0 {
			before = before[1:]
		}
		var was *node
		if len(before) > 0 && sameKey(before[0], t) {
			was = before[0].root
		}
		t.root = b.node(was, mark, allPorts, start, end)
		trees = append(trees, t)
		start = end
	}
	return trees
}

// countTogether returns how many forwards at the start share an address and protocol. It uses a binary search.
func countTogether(forwards []*gateway.Forward) int {
	first := forwards[0]
	matches := func(f *gateway.Forward) bool { return f.Address == first.Address && f.Protocol == first.Protocol }
	n := 1
	for n < len(forwards) && matches(forwards[n]) {
		n *= 2
	}
	from := n / 2
	more, _ := slices.BinarySearchFunc(forwards[from:min(n, len(forwards))], true, func(f *gateway.Forward, _ bool) int {
		if matches(f) {
			return -1
		}
		return 1
	})
	return from + more
}

// node builds the node of a block of ports. Its chain starts with rules and jumps to the forwards from start to end. The chain
// itself contains the upper halves, so only lower halves need a chain. If the block has the same forwards as before, node
// returns the node from before.
func (b *builder) node(before *node, rules []ruleset.Rule, k block, start, end int) *node {
	if before != nil && before.forwards == end-start && b.last.unchanged.Contain(start, end-start) {
		return before
	}
	n := &node{block: k, forwards: end - start}
	if before != nil {
		n.name = before.name
	} else {
		n.name = portChain(b.forwards[start].Frontend, k)
	}
	outer, earlier := b.sources, b.earlier
	b.sources, b.earlier = nil, before.ownChains()
	n.chains = b.collect(func() {
		rules := append(b.draft(), rules...)
		low, high := start, end
		for k.bits > 0 && !fitsLeaf(b.forwards[low:high]) {
			lower, upper := k.halves()
			lowEnd, highStart := splitAt(b.forwards[low:high], upper.start)
			lowEnd, highStart = low+lowEnd, low+highStart
			if lowEnd < highStart {
				rules = append(rules, b.spanningRule(b.forwards[lowEnd:highStart]))
			}
			switch {
			case low == lowEnd:
				k, low = upper, highStart
			case highStart == high:
				k, high = lower, lowEnd
			default:
				child := b.node(before.child(lower), nil, lower, low, lowEnd)
				n.below = append(n.below, child)
				rules = append(rules, ruleset.Rule{Protocol: b.forwards[low].Protocol, DestinationPorts: lower.ports(), Target: b.goTo(child.name)})
				k, low = upper, highStart
			}
		}
		rules = b.leaf(rules, b.forwards[low:high])
		b.chain(n.name, rules...)
		b.release(rules)
	})
	n.sources = b.sources
	b.sources, b.earlier = outer, earlier
	return n
}

// ownChains returns the chains of the node, or nil.
func (n *node) ownChains() []*ruleset.Chain {
	if n == nil {
		return nil
	}
	return n.chains
}
