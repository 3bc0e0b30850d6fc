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
	"strconv"
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

// Unit is chains, sets and elements that several Forwards share. Units with the same Name are equal.
type Unit struct {
	Name     string
	Chains   []ruleset.Chain
	Sets     []ruleset.Set
	Elements []Placed
}

// Contribute returns what a Forward adds to the table of its family. Of the Units that are known, it returns only the name: most
// Forwards share the same few. A nil known means none.
func Contribute(f *gateway.Forward, own gateway.Ownership, known func(unit string) bool) Contribution {
	c := contribution{f: f, own: own, family: gateway.IPv4, known: known}
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
	known  func(unit string) bool
}

func (c *contribution) element(set string, e ruleset.Element) {
	c.Elements = append(c.Elements, Placed{set, e})
}

// frontend leads ports to a chain.
func (c *contribution) frontend(ports gateway.PortRange, chain string) {
	id := chainID(chain)
	c.unit("to "+chain, func() Unit {
		return Unit{Elements: []Placed{{chainsMap, ruleset.Element{Key: id, Verdict: ruleset.Verdict{Code: ruleset.Goto, Chain: chain}}}}}
	})
	e := ruleset.Element{Key: c.frontendKey(ports.First), Data: native(0) + id}
	if ports.Single() {
		c.element(frontendsMap, e)
		return
	}
	e.Last = c.frontendKey(ports.Last)
	c.element(rangesMap, e)
}

// chainID identifies a chain in the maps.
func chainID(chain string) string {
	sum := sha256.Sum256([]byte(chain))
	return string(sum[:12])
}

func (c *contribution) frontendKey(p uint16) string {
	return addressKey(c.f.Address) + protocolKey(c.f.Protocol) + port(p)
}

// single translates one port.
func (c *contribution) single() {
	f := c.f
	var chain string
	backends := f.Backends
	number := func(i int) uint32 { return uint32(i) }
	switch {
	case consistent(f):
		backends = c.slots()
		chain = c.pickByHash(len(backends))
	case sticky(f):
		chain, number = c.affinity()
	default:
		chain = c.pick(len(backends))
	}
	c.Elements = make([]Placed, 0, 1+len(backends))
	c.frontend(f.Ports, c.allowed(chain))
	for i, backend := range backends {
		c.element(backendsMap, ruleset.Element{
			Key:  c.frontendKey(f.Ports.First) + native(number(i)),
			Data: addressKey(backend.Address) + port(backend.Port),
		})
	}
}

// pick returns the chain that translates to one of n backends.
func (c *contribution) pick(n int) string {
	return c.choosing(fmt.Sprintf("pick-%d", n), exprs{c.random(uint32(n), 0)})
}

// choosing returns the chain that translates to the backend of a number.
func (c *contribution) choosing(name string, number exprs) string {
	if !c.f.Masquerade {
		name += "-keep"
	}
	c.unit(name, func() Unit {
		return Unit{Chains: []ruleset.Chain{{Name: name, Rules: append(c.mark(), c.translate(number), c.translate(number))}}}
	})
	return name
}

// random loads a random number behind the key of the Frontend.
func (c *contribution) random(modulus, offset uint32) ruleset.Random {
	return ruleset.Random{Modulus: modulus, Offset: offset, To: words(c.family) + 2}
}

// translate returns the rule that translates to the backend of a number, which comes behind the key of the Frontend. Chains have it
// twice: a lookup can miss a backend that is replaced at that moment.
func (c *contribution) translate(number exprs) ruleset.Rule {
	n := words(c.family)
	return rule("", frontendKey(c.family), number, exprs{
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
	c.unit(set, func() Unit {
		return Unit{Sets: []ruleset.Set{{Name: set, Schema: networkSchema(c.family), Elements: networkElements(sources)}}}
	})
	name := "allow-" + digest([]byte(set+" "+chain))
	c.unit(name, func() Unit {
		return Unit{Chains: []ruleset.Chain{{Name: name, Rules: []ruleset.Rule{
			rule("", exprs{source(c.family), ruleset.Lookup{Set: set, Not: true}}, goTo(dropChain)),
			rule("", goTo(chain)),
		}}}}
	})
	return name
}

func (c *contribution) unit(name string, content func() Unit) {
	var u Unit
	if c.known == nil || !c.known(name) {
		u = content()
	}
	u.Name = name
	c.Units = append(c.Units, u)
}

// sticky reports whether clients return to their last backend.
func sticky(f *gateway.Forward) bool { return f.Affinity > 0 && len(f.Backends) > 1 }

// affinity returns the chain that leads a client to its last backend, and the numbers of the backends in the map.
func (c *contribution) affinity() (chain string, number func(i int) uint32) {
	numbers := make([]uint32, len(c.f.Backends))
	taken := map[uint32]bool{}
	chain = c.remember(func(i int, endpoint string) (string, ruleset.Rule) {
		numbers[i] = numberOf(endpoint, taken)
		return strconv.FormatUint(uint64(numbers[i]), 10), c.translate(exprs{c.random(1, numbers[i])})
	})
	return chain, func(i int) uint32 { return numbers[i] }
}

// remember returns the chain that leads a client to its last backend, or else to a random one that it remembers. translate
// returns the rule that translates to a backend, and a text that differs between the rules of an endpoint.
//
// All ports, protocols and external addresses of a Service share the set of an endpoint's clients, so that all connections of
// a client reach the same pod. The set includes the port only if endpoints of the Forward share an address.
func (c *contribution) remember(translate func(i int, endpoint string) (string, ruleset.Rule)) (chain string) {
	f := c.f
	timeout := uint64(min(f.Affinity, ruleset.MaxTimeout) / time.Millisecond)
	var remembered []ruleset.Rule
	choices := make([]ruleset.Element, len(f.Backends))
	text := fmt.Appendf(nil, "%s %t %d", f.Service, f.Masquerade, timeout)
	for i, backend := range f.Backends {
		endpoint := c.clientsOf(backend)
		suffix, translation := translate(i, endpoint)
		clients := "clients-" + digest([]byte(endpoint))
		name := fmt.Sprintf("endpoint-%s-%s-%d", digest([]byte(endpoint)), suffix, timeout)
		c.unit(clients, func() Unit {
			return Unit{Sets: []ruleset.Set{{Name: clients, Schema: ruleset.Schema{Key: key(addressType(c.family)), Dynamic: true, Size: maxClients}}}}
		})
		c.unit(name, func() Unit {
			return Unit{Chains: []ruleset.Chain{{Name: name, Rules: []ruleset.Rule{
				rule("", exprs{source(c.family), ruleset.Update{Set: clients, Milliseconds: timeout}}),
				translation, translation,
			}}}}
		})
		remembered = append(remembered, rule("", lookup(exprs{source(c.family)}, clients), goTo(name)))
		choices[i] = ruleset.Element{Key: native(uint32(i)), Verdict: ruleset.Verdict{Code: ruleset.Goto, Chain: name}}
		text = append(append(text, ' '), name...)
	}
	chain = "affinity-" + digest(text)
	c.unit(chain, func() Unit {
		choice := ruleset.Set{Name: chain, Schema: ruleset.Schema{Key: key(ruleset.MarkType), Data: key(ruleset.VerdictType)}, Elements: choices}
		rules := append(c.mark(), remembered...)
		rules = append(rules, rule("", lookupVerdict(exprs{ruleset.Random{Modulus: uint32(len(choices))}}, chain)))
		return Unit{Chains: []ruleset.Chain{{Name: chain, Rules: rules}}, Sets: []ruleset.Set{choice}}
	})
	return chain
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
