// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// A Consistent Forward has a table of slots for its Backends (Maglev, section 3.4 of the paper by Eisenbud et al., NSDI 2016). The
// hash of a client leads to a slot. All gateways compute the same table and the same hash without talking to each other, and a
// Backend that comes or goes moves few other slots.

// hashSeed is the same on all gateways, of all versions.
const hashSeed = 0x534d5254

// consistent reports whether the client's address decides which of several Backends it gets.
func consistent(f *gateway.Forward) bool { return f.Consistent && len(f.Backends) > 1 }

// slots returns the Backend of each slot. Each Backend takes slots in an order of its own, one after the other in turn.
func (c *contribution) slots() []gateway.Backend {
	backends := c.f.Backends
	size := uint64(gateway.MaglevSlots(len(backends)))
	type order struct{ next, skip uint64 }
	orders := make([]order, len(backends))
	for i, b := range backends {
		sum := sha256.Sum256([]byte(c.clientsOf(b)))
		orders[i] = order{binary.BigEndian.Uint64(sum[:]) % size, binary.BigEndian.Uint64(sum[8:])%(size-1) + 1}
	}
	slots, taken := make([]gateway.Backend, size), make([]bool, size)
	for filled := range size {
		i := filled % uint64(len(backends))
		o := &orders[i]
		for taken[o.next] {
			o.next = (o.next + o.skip) % size
		}
		slots[o.next], taken[o.next] = backends[i], true
	}
	return slots
}

// pickByHash returns the chain that translates to the backend in one of n slots.
func (c *contribution) pickByHash(n int) string {
	name := fmt.Sprintf("maglev-%d", n)
	if sticky(c.f) {
		name += "-client"
	}
	return c.choosing(name, c.hash(words(c.family)+2, uint32(n)))
}

// hash loads the slot of a client to a register, and uses those that follow.
func (c *contribution) hash(to ruleset.Register, modulus uint32) exprs {
	from, n := to+1, words(c.family)
	address := source(c.family)
	address.To = from
	load := exprs{address}
	length := 4 * uint32(n)
	if !sticky(c.f) {
		load = append(load, ruleset.Payload{Base: ruleset.TransportHeader, Offset: 0, Len: 2, To: from + n})
		length += 4
	}
	return append(load, ruleset.Hash{From: from, To: to, Len: length, Modulus: modulus, Seed: hashSeed})
}
