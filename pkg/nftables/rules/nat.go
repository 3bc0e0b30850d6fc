// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// forwardMaps adds the maps that Forwards fill, and the set that they need even if it is empty.
func (b *builder) forwardMaps() {
	address := addressType(b.family)
	frontend := key(address, ruleset.ProtocolType, ruleset.PortType)
	// The value of a map is an id behind four unused bytes.
	value := key(ruleset.MarkType, ruleset.MarkType, ruleset.MarkType, ruleset.MarkType)
	id := key(ruleset.MarkType, ruleset.MarkType, ruleset.MarkType)
	b.set(frontendsMap, ruleset.Schema{Key: frontend, Data: value})
	b.set(rangesMap, ruleset.Schema{Key: frontend, Data: value, Interval: true})
	b.set(movingMap, ruleset.Schema{Key: frontend, Data: value, Interval: true})
	b.set(chainsMap, ruleset.Schema{Key: id, Data: key(ruleset.VerdictType)})
	b.set(backendsMap, ruleset.Schema{
		Key:  key(address, ruleset.ProtocolType, ruleset.PortType, ruleset.MarkType),
		Data: key(address, ruleset.PortType),
	})
	b.linkSet(uplinkLinksSet, b.uplinkLinks())
}

// nat finds the verdict for a packet by address, protocol and port, and hides the client's address at the end.
func (b *builder) nat() {
	services := b.services()
	b.base(preroutingNAT, ruleset.Hook{Type: ruleset.NATType, Point: ruleset.Prerouting, Priority: ruleset.DNATOrder},
		append(b.assignHelpers(), services...)...)
	if !b.state.ForwardedOnly {
		b.base(outputNAT, ruleset.Hook{Type: ruleset.NATType, Point: ruleset.Output, Priority: ruleset.DNATOrder}, services...)
	}
	b.chain(dropChain, b.countRefused(droppedSet), rule("", exprs{ruleset.Counter{}}, verdict(ruleset.Drop)))
	code := ruleset.PortUnreachable4
	if b.family == gateway.IPv6 {
		code = ruleset.PortUnreachable6
	}
	b.chain(rejectChain, b.countRefused(rejectedSet),
		rule("", protocolIs(gateway.TCP), exprs{ruleset.Reject{Type: ruleset.RejectTCPReset}}),
		rule("", exprs{ruleset.Reject{Type: ruleset.RejectICMP, Code: code}}))

	post := append(b.masqueradeRemote(), rule("", connectionMark(b.own.Masquerade()), goTo(masqueradeChain)))
	if b.hasEgress() && len(b.state.Uplinks) > 0 {
		post = append(post, rule("", packetMark(b.own.Egress()), outLink(uplinkLinksSet), goTo(egressSNAT)))
		// On every uplink, because another uplink may be connected to the destination. The outside must never see the address of
		// a pod.
		b.chain(egressSNAT, rule("", exprs{
			source(b.family), ruleset.LookupMap{Set: egressMap}, ruleset.NAT{Flags: ruleset.NATRandomFully},
		}))
	}
	b.base(postroutingNAT, ruleset.Hook{Type: ruleset.NATType, Point: ruleset.Postrouting, Priority: ruleset.SNATOrder}, post...)
	b.masquerade()
}

// services returns the rules that lead the first packet of a connection to the chain of its Frontend. The first lookup can miss a
// Frontend that changes at that moment.
func (b *builder) services() []ruleset.Rule {
	rules := []ruleset.Rule{rule("", b.frontend(frontendsMap))}
	if b.ranges {
		rules = append(rules, rule("", b.frontend(rangesMap)), rule("", b.frontend(movingMap)))
	}
	rules = append(rules, rules[0])
	// A connection that a helper expects begins with the mark of its parent.
	return append(rules, rule("not for a Mapping", connectionMark(b.own.Forwarded()),
		setConnectionMark(gateway.Mark{Mask: forwardedMark(b.own).Mask})))
}

// frontend continues in the chain of the Frontend. The map holds the identifier of the chain instead of the verdict: the kernel
// walks all elements of verdict maps before it commits a verdict.
//
// nft(8) aborts if the key of a lookup begins in the register to which a map wrote, even in `nft list ruleset`: the value of a map
// has no length there (netlink_parse_concat_expr). So the identifier begins one register later, where nft(8) saw the destination.
func (b *builder) frontend(set string) exprs {
	const first = 1
	return append(frontendKeyAt(b.family, first), ruleset.LookupMap{Set: set, From: first}, ruleset.Lookup{Set: chainsMap, From: first, Verdict: true})
}

// forwardedMark marks a translated connection that is masqueraded.
func forwardedMark(own gateway.Ownership) gateway.Mark {
	bits := own.Forwarded().Mask | own.Masquerade().Mask
	return gateway.Mark{Value: bits, Mask: bits}
}

// assignHelpers assigns the kernel's helpers to connections to ports of Mappings. A helper opens ports according to the content
// of a connection, so connections of other programs get none.
func (b *builder) assignHelpers() []ruleset.Rule {
	frontends := map[gateway.Helper][]ruleset.Element{}
	for _, h := range b.state.Helpers {
		for _, f := range gateway.ForwardsOf(b.state.Forwards, b.family) {
			if f.Protocol == h.Protocol && f.Ports.Contains(h.Port) && len(f.Backends) > 0 {
				object := gateway.Helper{Name: h.Name, Protocol: h.Protocol}
				frontends[object] = append(frontends[object], ruleset.Element{Key: addressKey(f.Address) + protocolKey(h.Protocol) + port(h.Port)})
			}
		}
	}
	var rules []ruleset.Rule
	for _, object := range slices.SortedFunc(maps.Keys(frontends), func(x, y gateway.Helper) int { return strings.Compare(x.Name, y.Name) }) {
		set := "helper-" + object.Name
		b.set(set, ruleset.Schema{Key: key(addressType(b.family), ruleset.ProtocolType, ruleset.PortType)}, frontends[object]...)
		b.table.Helpers = append(b.table.Helpers, object)
		rules = append(rules, rule("", lookup(frontendKey(b.family), set), exprs{ruleset.AssignHelper{Name: object.Name}}))
	}
	return rules
}

// masqueradeRemote marks connections that keep the client's address to be masqueraded, unless they lead to a pod of this node.
func (b *builder) masqueradeRemote() []ruleset.Rule {
	if !b.state.MasqueradeRemote {
		return nil
	}
	var elements []ruleset.Element
	for _, a := range b.state.LocalBackends {
		if b.inFamily(a) {
			elements = append(elements, ruleset.Element{Key: addressKey(a)})
		}
	}
	b.set(localSet, ruleset.Schema{Key: key(addressType(b.family))}, elements...)
	kept := gateway.Mark{Value: b.own.Forwarded().Value, Mask: b.own.Forwarded().Mask | b.own.Masquerade().Mask}
	// Egress has the same mark, but its destination is as it was.
	return []ruleset.Rule{rule("replies of pods on other nodes do not pass this one", connectionMark(kept), statusIs(ruleset.StatusDNAT),
		exprs{destination(b.family), ruleset.Lookup{Set: localSet, Not: true}}, setConnectionMark(b.own.Masquerade()))}
}

// masquerade adds the chain that masquerades. Links with masquerade addresses leave it for their own.
func (b *builder) masquerade() {
	rules := b.withPorts(nil, 0, func(ports bool, first, last ruleset.Register, flags uint32) ruleset.Expr {
		return ruleset.Masquerade{HasPorts: ports, FirstPort: first, LastPort: last, Flags: flags}
	})
	if sources := b.state.MasqueradeSources(b.family); len(sources) > 0 {
		b.masqueradeAddresses(sources)
		rules = append([]ruleset.Rule{rule("", lookupVerdict(exprs{ruleset.Meta{Key: ruleset.MetaOIFName}}, masqueradeLinks))}, rules...)
	}
	b.chain(masqueradeChain, rules...)
}

// withPorts returns the rules that choose a source and translate to it, with the range of source ports in the registers from free
// on. The kernel accepts a range only together with a protocol.
func (b *builder) withPorts(choose exprs, free ruleset.Register, translate func(ports bool, first, last ruleset.Register, flags uint32) ruleset.Expr) []ruleset.Rule {
	var rules []ruleset.Rule
	if ports := b.state.MasqueradePorts; ports != (gateway.PortRange{}) {
		for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP} {
			rules = append(rules, rule("", protocolIs(p), choose, exprs{
				ruleset.Immediate{To: free, Data: port(ports.First)[:2]}, ruleset.Immediate{To: free + 1, Data: port(ports.Last)[:2]},
				translate(true, free, free+1, ruleset.NATPortsSpecified|ruleset.NATRandomFully),
			}))
		}
	}
	return append(rules, rule("", choose, exprs{translate(false, 0, 0, ruleset.NATRandomFully)}))
}

// masqueradeAddresses adds a chain for each number of addresses that a link has. It shares the connections evenly among them. Which
// one a connection gets matters only for its first packet: the kernel remembers it.
func (b *builder) masqueradeAddresses(sources []gateway.LinkAddresses) {
	var links, addresses []ruleset.Element
	chains := map[string]bool{}
	for _, l := range sources {
		n := len(l.Addresses)
		name := fmt.Sprintf("%s-%d", masqueradeTo, n)
		links = append(links, ruleset.Element{Key: linkKey(l.Link), Verdict: ruleset.Verdict{Code: ruleset.Goto, Chain: name}})
		for i, a := range l.Addresses {
			addresses = append(addresses, ruleset.Element{Key: linkKey(l.Link) + native(uint32(i)), Data: addressKey(a)})
		}
		if !chains[name] {
			b.chain(name, b.toAddresses(uint32(n))...)
		}
		chains[name] = true
	}
	b.set(masqueradeLinks, ruleset.Schema{Key: key(ruleset.LinkType), Data: key(ruleset.VerdictType)}, links...)
	b.set(masqueradeMap, ruleset.Schema{Key: key(ruleset.LinkType, ruleset.MarkType), Data: key(addressType(b.family))}, addresses...)
}

// toAddresses returns the rules that give a connection one of n sources of its link by a random number.
func (b *builder) toAddresses(n uint32) []ruleset.Rule {
	const linkWords = 4 // registers of a name
	choose := exprs{
		ruleset.Meta{Key: ruleset.MetaOIFName}, ruleset.Random{Modulus: n, To: linkWords}, ruleset.LookupMap{Set: masqueradeMap},
	}
	return b.withPorts(choose, words(b.family), func(ports bool, first, last ruleset.Register, flags uint32) ruleset.Expr {
		return ruleset.NAT{HasPorts: ports, FirstPort: first, LastPort: last, Flags: flags}
	})
}
