// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// filter lets forwarded connections pass and enforces the boundary.
func (b *builder) filter() {
	forward := append(b.acceptForwarded(), b.returnBridged()...)
	var input []ruleset.Rule
	if len(b.state.Uplinks) > 0 {
		input = append(input, rule("", inLink(uplinkLinksSet), stateIs(ruleset.StateInvalid), verdict(ruleset.Drop)))
		forward = append(forward, rule("an answer of a backend without a connection",
			outLink(uplinkLinksSet), stateIs(ruleset.StateInvalid), verdict(ruleset.Drop)))
		forward = append(forward, b.acceptEgress()...)
	}
	if input = append(append(input, b.guardSync()...), b.dropStrays()...); len(input) > 0 {
		b.base(inputFilter, ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Input, Priority: ruleset.FilterOrder}, input...)
	}
	b.base(forwardFilter, ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Forward, Priority: ruleset.FilterOrder},
		append(forward, b.boundaryJumps(boundaryChain)...)...)
	b.boundary(boundaryChain)
}

// guardSync drops packets for the sync address of a pair that come neither by its link nor from the host itself.
func (b *builder) guardSync() []ruleset.Rule {
	sync := b.state.Sync
	if !sync.Has(b.family) {
		return nil
	}
	b.linkSet(syncLinks, slices.Sorted(slices.Values([]string{"lo", sync.Link})))
	b.chain(syncChain, rule("", inLink(syncLinks), verdict(ruleset.Return)), rule("not by the sync link", verdict(ruleset.Drop)))
	var elements []ruleset.Element
	for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
		elements = append(elements, ruleset.Element{Key: addressKey(sync.Address) + protocolKey(p) + port(sync.Port)})
	}
	b.set(syncSet, ruleset.Schema{Key: key(addressType(b.family), ruleset.ProtocolType, ruleset.PortType)}, elements...)
	return []ruleset.Rule{rule("", lookup(frontendKey(b.family), syncSet), goTo(syncChain))}
}

// dropStrays drops TCP segments to masquerade addresses that begin no connection and belong to none. If the host reset them, a
// connection that another gateway hands over together with the address would end before the kernel knows it.
func (b *builder) dropStrays() []ruleset.Rule {
	addresses := gateway.AllAddresses(b.state.MasqueradeSources(b.family))
	if len(addresses) == 0 {
		return nil
	}
	elements := make([]ruleset.Element, 0, len(addresses))
	for _, a := range addresses {
		elements = append(elements, ruleset.Element{Key: addressKey(a)})
	}
	b.set(masqueradeSet, ruleset.Schema{Key: key(addressType(b.family))}, elements...)
	const flagsOffset, syn, synAck = 13, "\x02", "\x12" // RFC 9293, 3.1
	return []ruleset.Rule{rule("belongs to no connection", stateIs(ruleset.StateNew|ruleset.StateInvalid), protocolIs(gateway.TCP), exprs{
		ruleset.Payload{Base: ruleset.TransportHeader, Offset: flagsOffset, Len: 1},
		ruleset.Bitwise{Mask: synAck, Xor: "\x00"}, ruleset.Compare{Data: syn, Not: true},
	}, lookup(exprs{destination(b.family)}, masqueradeSet), verdict(ruleset.Drop))}
}

// guard adds the boundary by itself.
func (b *builder) guard() {
	b.base(guardFilter, ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Forward, Priority: ruleset.FilterOrder},
		append(b.returnBridged(), b.boundaryJumps(guardBoundary)...)...)
	b.boundary(guardBoundary)
}

// boundaryJumps sends packets from outside to the boundary.
func (b *builder) boundaryJumps(boundary string) []ruleset.Rule {
	outside := append(b.uplinkLinks(), b.state.Outside...)
	slices.Sort(outside)
	b.linkSet(outsideLinks, slices.Compact(outside))
	rules := []ruleset.Rule{rule("", inLink(b.prefix+outsideLinks), goTo(boundary))}
	if b.has(b.state.ForwardingOwned) {
		// A host that forwards only for us drops packets from every link that is not known to be inside.
		b.linkSet(insideLinks, b.state.InsideLinks)
		rules = append(rules,
			rule("", inLink(b.prefix+insideLinks), verdict(ruleset.Return)),
			rule("this host forwards only for Mappings", goTo(boundary)))
	}
	return rules
}

// BridgedMark marks packets that a bridge switches without routing: rules for a family cannot distinguish them.
func BridgedMark(own gateway.Ownership) gateway.Mark { return own.Flag(2) }

// bridge marks frames that a bridge switches while br_netfilter passes them to the chains of the family. The mark does not
// stay: the port may lead to another link of the host, by which the packet comes in again to be routed.
func (b *builder) bridge() {
	if !b.has(b.state.BridgeNetfilter) {
		return
	}
	mark := BridgedMark(b.own)
	add := func(name string, priority int32, m gateway.Mark) {
		b.table.Bridge = append(b.table.Bridge, ruleset.Chain{
			Name:  name,
			Hook:  &ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Forward, Priority: priority},
			Rules: []ruleset.Rule{rule("", setPacketMark(m))},
		})
	}
	add(markSwitched, ruleset.BeforeBridgeNetfilter, mark)
	add(unmarkSwitched, ruleset.AfterBridgeNetfilter, gateway.Mark{Mask: mark.Mask})
}

// returnBridged ignores packets that a bridge switches. They meet rules of the family only if another program enabled
// br_netfilter.
func (b *builder) returnBridged() []ruleset.Rule {
	if !b.has(b.state.BridgeNetfilter) {
		return nil
	}
	return []ruleset.Rule{rule("switched by a bridge", packetMark(BridgedMark(b.own)), verdict(ruleset.Return))}
}

func (b *builder) boundary(name string) {
	b.networkSet(insideNetworks, b.insideNetworks())
	b.chain(name,
		rule("published by another program, whose own rules decide", statusIs(ruleset.StatusDNAT), verdict(ruleset.Return)),
		rule("opened from inside", stateIs(ruleset.StateRelated|ruleset.StateEstablished), direction(ruleset.DirectionReply), verdict(ruleset.Return)),
		rule("", lookup(exprs{source(b.family)}, b.prefix+insideNetworks), verdict(ruleset.Return)),
		rule("", exprs{ruleset.Counter{}}, verdict(ruleset.Drop)),
	)
}

// acceptForwarded lets both directions of forwarded connections pass. A packet of the client never leaves by an uplink, even if
// its backend is routed there: otherwise the host would be an open proxy. A packet of a pod that leaves with an external
// address may leave, and so may a connection that a helper expects. Replies carry most bytes, so they meet only one rule.
func (b *builder) acceptForwarded() []ruleset.Rule {
	ours, accept := connectionMark(b.own.Forwarded()), verdict(ruleset.Accept)
	replies := rule("", direction(ruleset.DirectionReply), ours, accept)
	links := b.state.LeavingLinks()
	switch {
	case len(links) == 0 && b.flows():
		return []ruleset.Rule{replies, rule("", ours, b.accepted())}
	case len(links) == 0:
		return []ruleset.Rule{rule("", ours, accept)}
	}
	b.linkSet(leavingLinks, links)
	b.networkSet(clusterNetsSet, b.state.ClusterNetworks(b.family))
	b.chain(leavingChain,
		rule("", packetMark(b.own.Egress()), b.acceptedEgress()),
		rule("expected by a helper", statusIs(ruleset.StatusExpected), accept),
		rule("", lookup(exprs{destination(b.family)}, clusterNetsSet), b.accepted()),
		rule("the host is no open proxy", exprs{ruleset.Counter{}}, verdict(ruleset.Drop)),
	)
	return []ruleset.Rule{
		replies,
		rule("", outLink(leavingLinks), ours, goTo(leavingChain)),
		rule("", ours, b.accepted()),
	}
}

// acceptEgress lets both directions of connections that pods opened pass, whatever the host's policy.
func (b *builder) acceptEgress() []ruleset.Rule {
	if !b.hasEgress() {
		return nil
	}
	b.chain(egressAccept, rule("", setConnectionMark(b.own.Forwarded()), verdict(ruleset.Accept)))
	return []ruleset.Rule{rule("", outLink(uplinkLinksSet), packetMark(b.own.Egress()), goTo(egressAccept))}
}
