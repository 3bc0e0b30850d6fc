// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// portRange translates a range of ports.
func (c *contribution) portRange() {
	f := c.f
	for _, block := range blocksOf(f) {
		c.frontend(block.ports, c.allowed(c.rangeChain(block)))
	}
}

// block is a part of a range. Its ports map to the same ports if keep is set, to as many ports of the backend if shift is set,
// and to one port otherwise.
type block struct {
	ports       gateway.PortRange
	keep, shift bool
}

// blocksOf returns the parts of a range that one rule can translate.
//
// A shifted part begins at a multiple of its length, because the kernel computes the new port as first + port mod length
// (nf_nat_l4proto_unique_tuple in net/netfilter/nf_nat_core.c, with a base of 0).
func blocksOf(f *gateway.Forward) []block {
	if !f.Shift {
		return []block{{ports: f.Ports}}
	}
	if !slices.ContainsFunc(f.Backends, func(b gateway.Backend) bool { return b.Port != f.Ports.First }) {
		return []block{{ports: f.Ports, keep: true}}
	}
	length := uint32(f.Ports.Last) - uint32(f.Ports.First) + 1
	if uint32(f.Ports.First)%length == 0 {
		return []block{{ports: f.Ports, shift: true}}
	}
	var blocks []block
	for first := uint32(f.Ports.First); first <= uint32(f.Ports.Last); {
		size := uint32(1) << 15
		for first%size != 0 || first+size-1 > uint32(f.Ports.Last) {
			size /= 2
		}
		blocks = append(blocks, block{ports: gateway.PortRange{First: uint16(first), Last: uint16(first + size - 1)}, shift: true})
		first += size
	}
	return blocks
}

// rangeChain returns the chain that translates the ports of a block.
func (c *contribution) rangeChain(k block) string {
	if sticky(c.f) && !consistent(c.f) {
		return c.remember(func(i int, _ string) (string, ruleset.Rule) {
			data := c.rangeTarget(k, c.f.Backends[i])
			var loads exprs
			at := ruleset.Register(0)
			for j, d := range c.rangeType(k) {
				if d == ruleset.NoType {
					break
				}
				loads = append(loads, ruleset.Immediate{To: at, Data: data[j]})
				at += ruleset.Register(d.Padded() / 4)
			}
			return digest([]byte(fmt.Sprint(k.shift, data))), rule("", loads, exprs{c.rangeNAT(k)})
		})
	}
	backends := c.f.Backends
	number := exprs{ruleset.Random{Modulus: uint32(len(backends))}}
	text := fmt.Appendf(nil, "%t %t %t", c.f.Masquerade, k.keep, k.shift)
	if consistent(c.f) {
		backends = c.slots()
		number = c.hash(0, uint32(len(backends)))
		text = fmt.Appendf(text, " hash %t", sticky(c.f))
	}
	elements := make([]ruleset.Element, 0, len(backends))
	for i, backend := range backends {
		data := ""
		for j, part := range c.rangeTarget(k, backend) {
			data += part + strings.Repeat("\x00", c.rangeType(k)[j].Padded()-len(part))
		}
		elements = append(elements, ruleset.Element{Key: native(uint32(i)), Data: data})
		text = append(append(text, ' '), data...)
	}
	name := "range-" + digest(text)
	c.unit(name, func() Unit {
		return Unit{
			Sets:   []ruleset.Set{{Name: name, Schema: ruleset.Schema{Key: key(ruleset.MarkType), Data: c.rangeType(k)}, Elements: elements}},
			Chains: []ruleset.Chain{{Name: name, Rules: append(c.mark(), rule("", number, exprs{ruleset.LookupMap{Set: name}, c.rangeNAT(k)}))}},
		}
	})
	return name
}

// rangeType returns the types of the values that rangeTarget returns: the address, the first and the last port.
func (c *contribution) rangeType(k block) [4]ruleset.Datatype {
	address := addressType(c.family)
	switch {
	case k.keep:
		return key(address)
	case k.shift:
		return key(address, ruleset.PortType, ruleset.PortType)
	}
	return key(address, ruleset.PortType)
}

func (c *contribution) rangeTarget(k block, backend gateway.Backend) []string {
	target := []string{addressKey(backend.Address)}
	switch {
	case k.keep:
		return target
	case k.shift:
		first := backend.Port + k.ports.First - c.f.Ports.First
		return append(target, port(first)[:2], port(first + k.ports.Last - k.ports.First)[:2])
	}
	return append(target, port(backend.Port)[:2])
}

// rangeNAT translates to the values of a rangeTarget in the first registers.
func (c *contribution) rangeNAT(k block) ruleset.NAT {
	n := words(c.family)
	nat := ruleset.NAT{Destination: true}
	switch {
	case k.keep:
	case k.shift:
		nat.HasPorts, nat.FirstPort, nat.LastPort, nat.Flags = true, n, n+1, ruleset.NATPortsSpecified|ruleset.NATOffset
	default:
		nat.HasPorts, nat.FirstPort, nat.LastPort, nat.Flags = true, n, n, ruleset.NATPortsSpecified
	}
	return nat
}
