// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// flowtable adds the flowtable, and the chains that add connections to it and accept.
//
// The kernel takes the route of one direction from the packet, and looks up that of the other one with the packet's mark, by the
// link by which the packet came in (nft_flow_route in net/netfilter/nft_flow_offload.c). So connections are added by packets of the
// direction that leads to the cluster, whose route may be one of several next hops, with the mark that leads answers out of the
// uplink. If that lookup would lead out of another link, the connection is not added: the kernel would look for the client on
// the link itself.
//
// Packets that a bridge switches have no route, and answers to connections that a helper expects may leave by another uplink: these
// are not added.
func (b *builder) flowtable() {
	if !b.flows() {
		return
	}
	links := make([]string, 0, len(b.state.Flowtable.Links))
	for _, l := range b.state.Flowtable.Links {
		links = append(links, l.Name)
	}
	b.table.Flowtables = []ruleset.Flowtable{{Name: b.flowtableName(), Counters: true, Links: links}}

	add := exprs{ruleset.ReversePath{}, ruleset.Compare{Data: "\x01"}, ruleset.AddFlow{Flowtable: b.flowtableName()}}
	accept := rule("", verdict(ruleset.Accept))
	var tcp exprs
	if len(b.state.Uplinks) > 1 {
		// The uplink of a UDP flow follows each packet, and the kernel would not see that of its replies any more.
		tcp = protocolIs(gateway.TCP)
	}
	if len(b.state.Uplinks) == 0 {
		b.chain(flowChain, rule("", b.canFlow(), add), accept)
		return
	}
	b.chain(replyMark, b.markReply())
	b.chain(addFlow, rule("", jump(replyMark)), rule("", add), rule("", setPacketMark(gateway.Mark{Mask: b.own.UplinkMask()})))
	b.chain(flowChain, rule("", b.canFlow(), tcp, jump(addFlow)), accept)
	if b.hasEgress() {
		// Here the packet leaves by the uplink, and replies have no mark.
		marks := gateway.Mark{Mask: b.own.UplinkMask() | b.own.Egress().Mask}
		b.chain(egressFlow, rule("", b.canFlow(), setPacketMark(marks), add), accept)
	}
}

// flows reports whether established connections of the family bypass the rules.
func (b *builder) flows() bool {
	return b.has(b.state.Flowtable.Families) && len(b.state.Flowtable.Links) > 0
}

// canFlow continues if the connection of the packet may bypass the rules. Errors of ICMP belong to a connection and come from others.
func (b *builder) canFlow() exprs {
	var match exprs
	if b.has(b.state.BridgeNetfilter) {
		match = packetMark(gateway.Mark{Mask: BridgedMark(b.own).Mask})
	}
	const bits = ruleset.StatusExpected | ruleset.StatusAssured
	return append(append(match, stateIs(ruleset.StateEstablished)...),
		ruleset.Ct{Key: ruleset.CtStatus}, masked(bits), ruleset.Compare{Data: native(ruleset.StatusAssured)})
}

// flowtableName returns a name that changes with the links. A flowtable with other links is another one: the kernel forgets links
// that are removed, and cannot be asked to remove them.
func (b *builder) flowtableName() string {
	var text []byte
	for _, l := range b.state.Flowtable.Links {
		text = fmt.Appendf(text, "%s %d ", l.Name, l.Index)
	}
	return "flows-" + digest(text)
}

// accepted accepts packets of our connections that lead to the cluster, and lets the connections bypass the rules.
func (b *builder) accepted() exprs {
	if b.flows() {
		return goTo(flowChain)
	}
	return verdict(ruleset.Accept)
}

// acceptedEgress does the same for packets of pods that leave with an external address.
func (b *builder) acceptedEgress() exprs {
	if b.flows() && b.hasEgress() && len(b.state.Uplinks) > 0 {
		return goTo(egressFlow)
	}
	return verdict(ruleset.Accept)
}
