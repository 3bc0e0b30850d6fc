// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// mangle keeps replies on the uplink by which the connection came in. It restores the mark of the packet only for replies: in
// the other direction, the mark would route packets for a backend out of the uplink.
//
// A connection has the uplink of its first packet. A UDP flow that never pauses has no other first packet, so its uplink
// follows each packet: if a router in front of the host moves the path of the flow, the replies move too. TCP and SCTP do not
// follow. They time out and connect again by the new path. If they followed, one forged segment that conntrack accepts (any
// segment, with nf_conntrack_tcp_be_liberal) would move the replies. With UDP, a sender who forges the client's address and
// port on another uplink gets the replies until the next packet of the client. If UDP did not follow, one forged packet before
// the first reply would get all replies, until the end of the flow.
//
// Replies and first packets meet two rules. Only UDP packets check their uplink again, so the number of rules for established
// TCP packets does not grow with the number of uplinks.
func (b *builder) mangle() {
	restore := ruleset.Rule{
		Direction: packet.Reply,
		Target:    ruleset.Target{Verb: ruleset.RestoreMark, Mark: gateway.Mark{Mask: b.opts.Ownership.UplinkMask()}},
	}
	rules := []ruleset.Rule{restore}
	if len(b.state.Uplinks) > 0 {
		rules = []ruleset.Rule{{Direction: packet.Original, Target: b.goTo(originalChain)}, restore}
		b.chain(originalChain, append(b.markEgress(),
			ruleset.Rule{State: packet.New, Target: b.goTo(uplinksChain)},
			ruleset.Rule{Protocol: gateway.UDP, Target: b.goTo(uplinksChain)},
		)...)
		b.chain(uplinksChain, b.markUplinks()...)
	}
	b.hook("PREROUTING", preroutingChain)
	b.chain(preroutingChain, rules...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, restore)
	if b.state.ClampMSS {
		// In POSTROUTING, because the first packet of a pod's connection is not known as ours earlier.
		b.hook("POSTROUTING", postroutingChain)
		b.chain(postroutingChain, ruleset.Rule{
			Protocol: gateway.TCP, SYN: true, ConnMark: b.opts.Ownership.Forwarded(), Target: ruleset.Target{Verb: ruleset.ClampMSS},
		})
	}
}

// markUplinks marks a connection with the uplink by which the packet comes in. Nodes and pods behind an uplink are where the main table
// says, not at a next hop outside.
func (b *builder) markUplinks() []ruleset.Rule {
	inside := b.insideNetworks()
	rules := make([]ruleset.Rule, 0, len(b.state.Uplinks)+len(inside))
	for _, network := range inside {
		rules = append(rules, ruleset.Rule{Source: network, Target: ruleset.Target{Verb: ruleset.Return}})
	}
	for _, u := range b.state.Uplinks {
		rules = append(rules, ruleset.Rule{
			In:     u.Link,
			Target: ruleset.Target{Verb: ruleset.SetConnMark, Mark: b.opts.Ownership.Uplink(u.Number)},
		})
	}
	return rules
}
