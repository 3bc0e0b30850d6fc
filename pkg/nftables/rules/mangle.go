// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// mangle keeps replies on the uplink by which the connection came in. Only replies get the mark of the packet: in the other
// direction, it would route packets for a backend out of the uplink.
//
// A connection has the uplink of its first packet. The uplink of a UDP flow follows each packet, because a flow that never
// pauses has no other first packet. That of TCP and SCTP does not: one forged segment would move the replies.
func (b *builder) mangle() {
	if len(b.state.Uplinks) > 0 {
		b.uplinks()
	}
	if b.state.ClampMSS {
		// In postrouting, because the first packet of a pod's connection is not known as ours earlier.
		b.base(postroutingMangle, ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Postrouting, Priority: ruleset.MangleOrder},
			rule("", connectionMark(b.own.Forwarded()), protocolIs(gateway.TCP), synOnly(), clampMSS()))
	}
}

func (b *builder) uplinks() {
	replies := rule("replies leave by the uplink of their connection", direction(ruleset.DirectionReply), b.markReply().Exprs)
	b.base(preroutingMangle, ruleset.Hook{Type: ruleset.FilterType, Point: ruleset.Prerouting, Priority: ruleset.MangleOrder},
		rule("", direction(ruleset.DirectionOriginal), goTo(originalChain)), replies)
	b.base(outputMangle, ruleset.Hook{Type: ruleset.RouteType, Point: ruleset.Output, Priority: ruleset.MangleOrder}, replies)
	b.chain(originalChain, append(b.markEgress(),
		rule("", stateIs(ruleset.StateNew), goTo(uplinksChain)),
		rule("", protocolIs(gateway.UDP), goTo(uplinksChain)),
	)...)
	var rules []ruleset.Rule
	if len(b.insideNetworks()) > 0 {
		// Nodes and pods behind an uplink are where the main table says, not at a next hop outside.
		rules = append(rules, rule("", lookup(exprs{source(b.family)}, insideNetworks), verdict(ruleset.Return)))
	}
	b.chain(uplinksChain, append(rules, rule("", lookupVerdict(exprs{ruleset.Meta{Key: ruleset.MetaIIFName}}, uplinksMap)))...)

	var arrivals, replied []ruleset.Element
	for _, u := range b.state.Uplinks {
		mark := b.own.Uplink(u.Number)
		from, reply := fmt.Sprintf("uplink-%d", u.Number), fmt.Sprintf("reply-%d", u.Number)
		b.chain(from, rule("", setConnectionMark(mark)))
		b.chain(reply, rule("", setPacketMark(mark)))
		arrivals = append(arrivals, ruleset.Element{Key: linkKey(u.Link), Verdict: ruleset.Verdict{Code: ruleset.Goto, Chain: from}})
		replied = append(replied, ruleset.Element{Key: native(mark.Value), Verdict: ruleset.Verdict{Code: ruleset.Goto, Chain: reply}})
	}
	b.set(uplinksMap, ruleset.Schema{Key: key(ruleset.LinkType), Data: key(ruleset.VerdictType)}, arrivals...)
	b.set(repliesMap, ruleset.Schema{Key: key(ruleset.MarkType), Data: key(ruleset.VerdictType)}, replied...)
}

// markReply marks a packet as a reply: it leaves by the uplink of its connection.
func (b *builder) markReply() ruleset.Rule {
	return rule("", exprs{ruleset.Ct{Key: ruleset.CtMark}, masked(b.own.UplinkMask()), ruleset.Lookup{Set: repliesMap, Verdict: true}})
}

// hasEgress reports whether any pod of this family leaves with an external address.
func (b *builder) hasEgress() bool {
	return slices.ContainsFunc(b.state.Egresses, func(e gateway.Egress) bool { return b.inFamily(e.Address) && len(e.Sources) > 0 })
}

// markEgress marks the packets of pods, so that they are routed by their uplink. Connections that pods opened earlier keep
// their path: it marks only new connections and those that were new when these rules existed. Packets that come in by an uplink
// are not from pods, unless the config lists their network as inside.
func (b *builder) markEgress() []ruleset.Rule {
	if !b.hasEgress() {
		return nil
	}
	pod := lookupVerdict(exprs{source(b.family)}, podsMap)
	opened := []ruleset.Rule{
		rule("", stateIs(ruleset.StateNew), pod),
		rule("", connectionMark(b.own.Forwarded()), pod),
	}
	var rules []ruleset.Rule
	if networks := b.insideNetworks(); len(networks) > 0 {
		b.chain(openedChain, opened...)
		rules = append(rules, rule("", lookup(exprs{source(b.family)}, insideNetworks), goTo(openedChain)))
	}
	rules = append(rules, rule("", inLink(uplinkLinksSet), verdict(ruleset.Return)))
	b.chain(egressChain, append(rules, opened...)...)

	var pods, addresses []ruleset.Element
	marked := map[int]bool{}
	for _, e := range b.state.Egresses {
		if !b.inFamily(e.Address) || len(e.Sources) == 0 {
			continue
		}
		chain := fmt.Sprintf("egress-%d", e.Uplink)
		if !marked[e.Uplink] {
			marked[e.Uplink] = true
			uplink, flag := b.own.Uplink(e.Uplink), b.own.Egress()
			b.chain(chain, rule("", setPacketMark(gateway.Mark{Value: uplink.Value | flag.Value, Mask: uplink.Mask | flag.Mask})))
		}
		for _, pod := range e.Sources {
			pods = append(pods, ruleset.Element{Key: addressKey(pod), Verdict: ruleset.Verdict{Code: ruleset.Goto, Chain: chain}})
			addresses = append(addresses, ruleset.Element{Key: addressKey(pod), Data: addressKey(e.Address)})
		}
	}
	address := key(addressType(b.family))
	b.set(podsMap, ruleset.Schema{Key: address, Data: key(ruleset.VerdictType)}, pods...)
	b.set(egressMap, ruleset.Schema{Key: address, Data: address}, addresses...)
	return []ruleset.Rule{rule("", jump(egressChain))}
}

// Flags of the TCP header (RFC 9293, 3.1), at offset 13.
const (
	tcpSYN = 0x02
	tcpRST = 0x04
)

func synOnly() exprs {
	return exprs{
		ruleset.Payload{Base: ruleset.TransportHeader, Offset: 13, Len: 1},
		ruleset.Bitwise{Mask: string([]byte{tcpSYN | tcpRST}), Xor: "\x00"},
		ruleset.Compare{Data: string([]byte{tcpSYN})},
	}
}

func clampMSS() exprs {
	return exprs{ruleset.PathMSS{}, ruleset.SwapPort{}, ruleset.LowerMSS{}}
}
