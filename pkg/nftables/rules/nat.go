// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
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

	post := []ruleset.Rule{rule("", connectionMark(b.own.Masquerade()), goTo(masqueradeChain))}
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

// services returns the rules that lead the first packet of a connection to the chain of its Frontend.
func (b *builder) services() []ruleset.Rule {
	rules := []ruleset.Rule{rule("", b.frontend(frontendsMap))}
	if b.ranges {
		rules = append(rules, rule("", b.frontend(rangesMap)))
	}
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

// masquerade adds the chain that masquerades. The kernel accepts a range of source ports only together with a protocol.
func (b *builder) masquerade() {
	var rules []ruleset.Rule
	if ports := b.state.MasqueradePorts; ports != (gateway.PortRange{}) {
		for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP} {
			rules = append(rules, rule("", protocolIs(p), exprs{
				ruleset.Immediate{To: 0, Data: port(ports.First)[:2]}, ruleset.Immediate{To: 1, Data: port(ports.Last)[:2]},
				ruleset.Masquerade{HasPorts: true, FirstPort: 0, LastPort: 1, Flags: ruleset.NATPortsSpecified | ruleset.NATRandomFully},
			}))
		}
	}
	b.chain(masqueradeChain, append(slices.Clip(rules), rule("", exprs{ruleset.Masquerade{Flags: ruleset.NATRandomFully}}))...)
}
