// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// leafRules is how many translating rules are tried one after the other. Fewer cost chains, which iptables-nft minds, and
// more cost packets.
const leafRules = 16

// block is an aligned block of 1<<bits ports.
type block struct {
	start uint32
	bits  int
}

var allPorts = block{bits: 16}

func (k block) halves() (low, high block) {
	low = block{start: k.start, bits: k.bits - 1}
	return low, block{start: k.start + 1<<low.bits, bits: low.bits}
}

func (k block) ports() gateway.PortRange {
	return gateway.PortRange{First: uint16(k.start), Last: uint16(k.start + 1<<k.bits - 1)}
}

// index numbers the blocks as a heap does: 1 is all ports, the halves of n are 2n and 2n+1.
func (k block) index() uint32 { return 1<<(allPorts.bits-k.bits) + k.start>>k.bits }

// ports builds the tree of ports of one address and protocol, and returns its first chain. From there on chains are gone to
// and not jumped to, so that a packet that finds no port, or is refused, is back at once where the address was found.
func (b *builder) ports(forwards []gateway.Forward) string {
	root := portChain(forwards[0].Frontend, allPorts)
	mark := netfilter.Rule{Target: netfilter.Target{Verb: netfilter.SetConnMark, Mark: b.forwarded()}}
	b.tree(root, []netfilter.Rule{mark}, allPorts, forwards)
	return root
}

// tree adds a chain that begins with rules and leads to the forwards within the block. The upper halves stand in the chain
// itself, so that there is one chain for each lower half.
func (b *builder) tree(chain string, rules []netfilter.Rule, k block, forwards []gateway.Forward) {
	for k.bits > 0 && weigh(forwards) > leafRules {
		low, high := k.halves()
		lower, astride, upper := cut(forwards, high.start)
		if len(astride) > 0 {
			rules = append(rules, b.astride(astride))
		}
		switch {
		case len(lower) == 0:
			k, forwards = high, upper
		case len(upper) == 0:
			k, forwards = low, lower
		default:
			child := portChain(lower[0].Frontend, low)
			rules = append(rules, netfilter.Rule{Protocol: lower[0].Protocol, DestinationPorts: low.ports(), Target: b.goTo(child)})
			b.tree(child, nil, low, lower)
			k, forwards = high, upper
		}
	}
	b.chain(chain, b.leaf(slices.Grow(rules, leafRules), forwards)...)
}

// cut parts sorted forwards at a port: those below, the one that reaches over it if any, those from it on.
func cut(forwards []gateway.Forward, at uint32) (lower, astride, upper []gateway.Forward) {
	end := slices.IndexFunc(forwards, func(f gateway.Forward) bool { return uint32(f.Ports.Last) >= at })
	if end < 0 {
		return forwards, nil, nil
	}
	start := end
	if uint32(forwards[end].Ports.First) < at {
		start++
	}
	return forwards[:end], forwards[end:start], forwards[start:]
}

// astride returns the one rule for a range that reaches over the middle of a block; every packet to the block meets it.
func (b *builder) astride(forward []gateway.Forward) netfilter.Rule {
	if !heavy(forward[0]) {
		if rules := b.inline(nil, forward); len(rules) == 1 {
			return rules[0]
		}
	}
	return b.apart(forward[0])
}

func weigh(forwards []gateway.Forward) int {
	total := 0
	for _, f := range forwards {
		total += weight(f)
	}
	return total
}

// weight is how many rules of a leaf the forward makes up.
func weight(f gateway.Forward) int {
	if heavy(f) || f.SourcesDeny {
		return 1
	}
	return max(choices(f), 1)
}

// heavy forwards have a chain of their own.
func heavy(f gateway.Forward) bool { return !f.SourcesDeny && choices(f) > leafRules }

// choices is how many rules choose a backend where there are few.
func choices(f gateway.Forward) int {
	if sticky(f) {
		return 2 * len(f.Backends)
	}
	return len(f.Backends)
}
