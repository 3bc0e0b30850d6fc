// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// Contribution is what a Forward adds to the table.
type Contribution struct {
	Elements []Placed
	// Units are the chains and sets that the Elements need, those that others refer to first.
	Units []Unit
}

// Placed is an element of a set.
type Placed struct {
	Set string
	ruleset.Element
}

// Unit is chains and sets that several Forwards share. Units with the same Name are equal.
type Unit struct {
	Name   string
	Chains []ruleset.Chain
	Sets   []ruleset.Set
}

// Contribute returns what a Forward adds to the table of its family.
func Contribute(f *gateway.Forward, own gateway.Ownership) Contribution {
	c := contribution{f: f, own: own, family: gateway.IPv4}
	if f.Address.Is6() {
		c.family = gateway.IPv6
	}
	switch {
	case f.SourcesDeny:
		c.frontend(f.Ports, dropChain)
	case len(f.Backends) == 0:
		c.frontend(f.Ports, c.allowed(rejectChain))
	case f.Ports.Single():
		c.single()
	default:
		c.portRange()
	}
	return c.Contribution
}

type contribution struct {
	Contribution
	f      *gateway.Forward
	own    gateway.Ownership
	family gateway.Family
}

func (c *contribution) element(set string, e ruleset.Element) {
	c.Elements = append(c.Elements, Placed{set, e})
}

// frontend leads ports to a chain.
func (c *contribution) frontend(ports gateway.PortRange, chain string) {
	e := ruleset.Element{Key: c.frontendKey(ports.First), Verdict: ruleset.Verdict{Code: ruleset.Goto, Chain: chain}}
	if ports.Single() {
		c.element(frontendsMap, e)
		return
	}
	e.Last = c.frontendKey(ports.Last)
	c.element(rangesMap, e)
}

func (c *contribution) frontendKey(p uint16) string {
	return addressKey(c.f.Address) + protocolKey(c.f.Protocol) + port(p)
}

// single translates one port.
func (c *contribution) single() {
	f := c.f
	chain, number := "", func(i int) uint32 { return uint32(i) }
	if sticky(f) {
		chain, number = c.affinity()
	} else {
		chain = c.pick(len(f.Backends))
	}
	c.frontend(f.Ports, c.allowed(chain))
	for i, backend := range f.Backends {
		c.element(backendsMap, ruleset.Element{
			Key:  c.frontendKey(f.Ports.First) + native(number(i)),
			Data: addressKey(backend.Address) + port(backend.Port),
		})
	}
}

// pick returns the chain that translates to one of n backends.
func (c *contribution) pick(n int) string {
	name := fmt.Sprintf("pick-%d", n)
	if !c.f.Masquerade {
		name += "-keep"
	}
	c.unit(Unit{Name: name, Chains: []ruleset.Chain{{Name: name, Rules: append(c.mark(), c.translate(uint32(n), 0))}}})
	return name
}

// translate returns the rule that translates to a backend by a random number.
func (c *contribution) translate(modulus, offset uint32) ruleset.Rule {
	n := words(c.family)
	return rule("", frontendKey(c.family), exprs{
		ruleset.Random{Modulus: modulus, Offset: offset, To: n + 2},
		ruleset.LookupMap{Set: backendsMap},
		ruleset.NAT{Destination: true, HasPorts: true, FirstPort: n, LastPort: n, Flags: ruleset.NATPortsSpecified},
	})
}

// mark returns the rules that mark a connection as forwarded, and to be masqueraded unless the Forward keeps the source of
// packets that come in by an uplink. Packets from pods or the host itself are masqueraded in any case: their replies would not
// pass through the host otherwise.
func (c *contribution) mark() []ruleset.Rule {
	rules := []ruleset.Rule{rule("", setConnectionMark(forwardedMark(c.own)))}
	if !c.f.Masquerade {
		rules = append(rules, rule("keeps the client's address", inLink(uplinkLinksSet),
			setConnectionMark(gateway.Mark{Mask: c.own.Masquerade().Mask})))
	}
	return rules
}

// allowed returns a chain that drops packets from sources that the Forward does not allow, and continues in chain.
func (c *contribution) allowed(chain string) string {
	sources := c.f.Sources
	if len(sources) == 0 || sources[0].Bits() == 0 { // The network of all addresses sorts first.
		return chain
	}
	text := make([]byte, 0, 20*len(sources))
	for _, s := range sources {
		text = append(s.AppendTo(text), ' ')
	}
	set := "sources-" + digest(text)
	c.unit(Unit{Name: set, Sets: []ruleset.Set{{Name: set, Schema: networkSchema(c.family), Elements: networkElements(sources)}}})
	name := "allow-" + digest([]byte(set+" "+chain))
	c.unit(Unit{Name: name, Chains: []ruleset.Chain{{Name: name, Rules: []ruleset.Rule{
		rule("", exprs{source(c.family), ruleset.Lookup{Set: set, Not: true}}, goTo(dropChain)),
		rule("", goTo(chain)),
	}}}})
	return name
}

func (c *contribution) unit(u Unit) { c.Units = append(c.Units, u) }

// sticky reports whether clients return to their last backend.
func sticky(f *gateway.Forward) bool { return f.Affinity > 0 && len(f.Backends) > 1 }

// affinity returns the chain that leads a client to its last backend, or else to a random one that it remembers, and the
// numbers of the backends in the map.
//
// All ports, protocols and external addresses of a Service share the set of an endpoint's clients, so that all connections of
// a client reach the same pod. The set includes the port only if endpoints of the Forward share an address.
func (c *contribution) affinity() (chain string, number func(i int) uint32) {
	f := c.f
	numbers := make([]uint32, len(f.Backends))
	taken := map[uint32]bool{}
	timeout := uint64(min(f.Affinity, ruleset.MaxTimeout) / time.Millisecond)
	var remembered []ruleset.Rule
	choices := make([]ruleset.Element, len(f.Backends))
	text := fmt.Appendf(nil, "%s %t %d", f.Service, f.Masquerade, timeout)
	for i, backend := range f.Backends {
		endpoint := c.clientsOf(backend)
		numbers[i] = numberOf(endpoint, taken)
		clients := "clients-" + digest([]byte(endpoint))
		name := fmt.Sprintf("endpoint-%s-%d-%d", digest([]byte(endpoint)), numbers[i], timeout)
		c.unit(Unit{Name: clients, Sets: []ruleset.Set{{Name: clients, Schema: ruleset.Schema{
			Key: key(addressType(c.family)), Dynamic: true, Size: maxClients,
		}}}})
		c.unit(Unit{Name: name, Chains: []ruleset.Chain{{Name: name, Rules: []ruleset.Rule{
			rule("", exprs{source(c.family), ruleset.Update{Set: clients, Milliseconds: timeout}}),
			c.translate(1, numbers[i]),
		}}}})
		remembered = append(remembered, rule("", lookup(exprs{source(c.family)}, clients), goTo(name)))
		choices[i] = ruleset.Element{Key: native(uint32(i)), Verdict: ruleset.Verdict{Code: ruleset.Goto, Chain: name}}
		text = append(append(text, ' '), name...)
	}
	chain = "affinity-" + digest(text)
	choice := ruleset.Set{Name: chain, Schema: ruleset.Schema{Key: key(ruleset.MarkType), Data: key(ruleset.VerdictType)}, Elements: choices}
	rules := append(c.mark(), remembered...)
	rules = append(rules, rule("", lookupVerdict(exprs{ruleset.Random{Modulus: uint32(len(choices))}}, chain)))
	c.unit(Unit{Name: chain, Chains: []ruleset.Chain{{Name: chain, Rules: rules}}, Sets: []ruleset.Set{choice}})
	return chain, func(i int) uint32 { return numbers[i] }
}

// maxClients is the number of clients that an endpoint remembers.
const maxClients = 1 << 16

// clientsOf identifies the clients of an endpoint of the Service.
func (c *contribution) clientsOf(backend gateway.Backend) string {
	list := c.f.Backends
	first, _ := slices.BinarySearchFunc(list, backend.Address, func(b gateway.Backend, a netip.Addr) int { return b.Address.Compare(a) })
	if next := first + 1; next < len(list) && list[next].Address == backend.Address {
		return fmt.Sprintf("%s %s %d", c.f.Service, backend.Address, backend.Port)
	}
	return fmt.Sprintf("%s %s", c.f.Service, backend.Address)
}

// numberOf returns a number that the Forward has not taken for another endpoint. It is far from those of random choice.
func numberOf(endpoint string, taken map[uint32]bool) uint32 {
	sum := sha256.Sum256([]byte(endpoint))
	n := binary.BigEndian.Uint32(sum[:]) | 1<<31
	for taken[n] {
		n = n + 1 | 1<<31
	}
	taken[n] = true
	return n
}

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
	f, n := c.f, words(c.family)
	schema := ruleset.Schema{Key: key(ruleset.MarkType), Data: key(addressType(c.family))}
	nat := ruleset.NAT{Destination: true}
	switch {
	case k.shift:
		schema.Data = key(addressType(c.family), ruleset.PortType, ruleset.PortType)
		nat = ruleset.NAT{Destination: true, HasPorts: true, FirstPort: n, LastPort: n + 1, Flags: ruleset.NATPortsSpecified | ruleset.NATOffset}
	case !k.keep:
		schema.Data = key(addressType(c.family), ruleset.PortType)
		nat = ruleset.NAT{Destination: true, HasPorts: true, FirstPort: n, LastPort: n, Flags: ruleset.NATPortsSpecified}
	}
	elements := make([]ruleset.Element, 0, len(f.Backends))
	text := fmt.Appendf(nil, "%t %t %t", f.Masquerade, k.keep, k.shift)
	for i, backend := range f.Backends {
		data := addressKey(backend.Address)
		switch {
		case k.shift:
			first := backend.Port + k.ports.First - f.Ports.First
			data += port(first) + port(first+k.ports.Last-k.ports.First)
		case !k.keep:
			data += port(backend.Port)
		}
		elements = append(elements, ruleset.Element{Key: native(uint32(i)), Data: data})
		text = append(append(text, ' '), data...)
	}
	name := "range-" + digest(text)
	c.unit(Unit{
		Name: name,
		Sets: []ruleset.Set{{Name: name, Schema: schema, Elements: elements}},
		Chains: []ruleset.Chain{{Name: name, Rules: append(c.mark(), rule("", exprs{
			ruleset.Random{Modulus: uint32(len(elements))}, ruleset.LookupMap{Set: name}, nat,
		}))}},
	})
	return name
}

// networkSchema describes a set of networks.
func networkSchema(family gateway.Family) ruleset.Schema {
	return ruleset.Schema{Key: key(addressType(family)), Interval: true}
}

// networkElements returns the ranges of sorted networks. Ranges neither overlap nor touch.
func networkElements(networks []netip.Prefix) []ruleset.Element {
	var elements []ruleset.Element
	for _, network := range networks {
		first, last := addressKey(network.Masked().Addr()), lastOf(network)
		if n := len(elements); n > 0 {
			before := &elements[n-1]
			if last <= before.Last {
				continue
			}
			if next(before.Last) == first {
				before.Last = last
				continue
			}
		}
		elements = append(elements, ruleset.Element{Key: first, Last: last})
	}
	return elements
}

func lastOf(network netip.Prefix) string {
	bytes := network.Masked().Addr().AsSlice()
	for i := network.Bits(); i < 8*len(bytes); i++ {
		bytes[i/8] |= 1 << (7 - i%8)
	}
	return string(bytes)
}

// next returns the address that follows, or "" after the last one.
func next(address string) string {
	a, _ := netip.AddrFromSlice([]byte(address))
	return string(a.Next().AsSlice())
}

// digest returns 16 characters that identify a text.
func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:16])
}
