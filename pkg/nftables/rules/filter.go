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
	if len(b.state.Uplinks) > 0 {
		b.base(inputFilter, ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Input, Priority: ruleset.FilterOrder},
			rule("", inLink(uplinkLinksSet), stateIs(ruleset.StateInvalid), verdict(ruleset.Drop)))
		forward = append(forward, rule("an answer of a backend without a connection",
			outLink(uplinkLinksSet), stateIs(ruleset.StateInvalid), verdict(ruleset.Drop)))
		forward = append(forward, b.acceptEgress()...)
	}
	b.base(forwardFilter, ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Forward, Priority: ruleset.FilterOrder},
		append(forward, b.boundaryJumps(boundaryChain)...)...)
	b.boundary(boundaryChain)
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
