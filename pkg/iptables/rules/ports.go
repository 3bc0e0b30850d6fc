// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// leafRules is the number of translating rules that are tried one after the other. A smaller number creates more chains, which
// slow down iptables-nft; a larger one slows down packets.
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

// splitAt splits sorted forwards at a port: those before index low end below the port, and those from index high start at it or
// above. The forward between them, if any, spans the port.
func splitAt(forwards []*gateway.Forward, at uint32) (low, high int) {
	low, _ = slices.BinarySearchFunc(forwards, at, func(f *gateway.Forward, at uint32) int { return int(f.Ports.Last) - int(at) })
	high = low
	if low < len(forwards) && uint32(forwards[low].Ports.First) < at {
		high++
	}
	return low, high
}

// spanningRule returns the rule for a range that spans the middle of a block. Every packet to the block meets it.
func (b *builder) spanningRule(forward []*gateway.Forward) ruleset.Rule {
	if !needsChain(forward[0]) {
		if rules := b.inline(nil, forward); len(rules) == 1 {
			return rules[0]
		}
	}
	return b.ownChain(forward[0])
}

// fitsLeaf reports whether the forwards are few enough for a leaf.
func fitsLeaf(forwards []*gateway.Forward) bool {
	total := 0
	for f := range merged(forwards) {
		if total += leafWeight(f); total > leafRules {
			return false
		}
	}
	return true
}

// leafWeight returns the number of rules of the forward in a leaf.
func leafWeight(f *gateway.Forward) int {
	if needsChain(f) || f.SourcesDeny {
		return 1
	}
	return max(choices(f), 1)
}

// needsChain reports whether a forward has a chain of its own.
func needsChain(f *gateway.Forward) bool { return !f.SourcesDeny && choices(f) > leafRules }

// choices returns the number of rules that select a backend, without groups.
func choices(f *gateway.Forward) int {
	if sticky(f) {
		return 2 * len(f.Backends)
	}
	return len(f.Backends)
}
