// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// tree is the tree of ports of one address and protocol.
type tree struct {
	address  netip.Addr
	protocol gateway.Protocol
	root     branch
}

// node is a part of a tree: a chain, those that belong to it alone, and the nodes below it.
type node struct {
	// name is that of its chain within the tree.
	name string
	// forwards is how many it leads to, with all below.
	forwards int
	chains   []netfilter.Chain
	// sources are the chains that check sources for it; others may lead to them too.
	sources []netfilter.Chain
	below   []branch
}

// branch is a node and where its forwards begin: those of the first one of a tree among all, those of another among those of
// the node above.
type branch struct {
	offset int
	*node
}

// child returns the node of this name below, with its offset among all forwards where the branch has that.
func (b branch) child(name string) branch {
	if b.node != nil {
		for _, c := range b.below {
			if c.name == name {
				return branch{b.offset + c.offset, c.node}
			}
		}
	}
	return branch{}
}

// trees builds the tree of each address and protocol. From their first chains on, chains are gone to and not jumped to, so
// that a packet that finds no port, or is refused, is back at once where the address was found.
func (b *builder) trees() []tree {
	var trees []tree
	mark := []netfilter.Rule{{Target: netfilter.Target{Verb: netfilter.SetConnMark, Mark: b.forwarded()}}}
	for start, end := 0, 0; start < len(b.forwards); start = end {
		first := b.forwards[start]
		for end < len(b.forwards) && b.forwards[end].Address == first.Address && b.forwards[end].Protocol == first.Protocol {
			end++
		}
		before := b.before.root(first.Address, first.Protocol)
		root := b.node(before, portChain(first.Frontend, allPorts), mark, allPorts, start, end)
		trees = append(trees, tree{first.Address, first.Protocol, branch{start, root}})
	}
	return trees
}

// node builds the node of a block of ports, whose chain begins with rules and leads to the forwards from start to end. The
// upper halves stand in the chain itself, so that there is one chain for each lower half. A node that would be the same as
// before is the one from before.
func (b *builder) node(before branch, name string, rules []netfilter.Rule, k block, start, end int) *node {
	if before.node != nil && before.forwards == end-start && b.before.unchanged(before.offset, start, end-start) {
		return before.node
	}
	n := &node{name: name, forwards: end - start}
	outer := b.sources
	b.sources = nil
	n.chains = b.collect(func() {
		rules := append(b.draft(), rules...)
		low, high := start, end
		for k.bits > 0 && !light(b.forwards[low:high]) {
			lower, upper := k.halves()
			lowEnd, highStart := cut(b.forwards[low:high], upper.start)
			lowEnd, highStart = low+lowEnd, low+highStart
			if lowEnd < highStart {
				rules = append(rules, b.astride(b.forwards[lowEnd:highStart]))
			}
			switch {
			case low == lowEnd:
				k, low = upper, highStart
			case highStart == high:
				k, high = lower, lowEnd
			default:
				n.below = append(n.below, b.lower(before, lower, low, lowEnd, start))
				child := n.below[len(n.below)-1]
				rules = append(rules, netfilter.Rule{Protocol: b.forwards[low].Protocol, DestinationPorts: lower.ports(), Target: b.goTo(child.name)})
				k, low = upper, highStart
			}
		}
		rules = b.leaf(rules, b.forwards[low:high])
		b.chain(name, rules...)
		b.done(rules)
	})
	n.sources, b.sources = b.sources, outer
	return n
}

// lower builds the node of a lower half, below one whose forwards begin at start.
func (b *builder) lower(before branch, k block, low, high, start int) branch {
	name := portChain(b.forwards[low].Frontend, k)
	return branch{low - start, b.node(before.child(name), name, nil, k, low, high)}
}

// walk adds the chains of the node and of all below.
func (b *builder) walk(n *node) {
	b.chains = append(b.chains, n.chains...)
	for _, s := range n.sources {
		if _, known := b.known[s.Name]; !known {
			b.known[s.Name] = s.Rules
			b.chains = append(b.chains, s)
		}
	}
	for _, c := range n.below {
		b.walk(c.node)
	}
}
