// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// filter drops and rejects the packets that nat marked, and enforces the boundary. Forwarded connections pass first: they never
// carry such a mark, because refusing a connection clears its mark.
func (b *builder) filter() {
	drop := ruleset.Target{Verb: ruleset.Drop}
	input := []ruleset.Rule{{Target: b.jump(refuseChain)}}
	forward := append(append(b.acceptForwarded(), b.returnBridged()...), ruleset.Rule{Target: b.jump(refuseChain)})
	for _, u := range b.state.Uplinks {
		input = append(input, ruleset.Rule{In: u.Link, State: packet.Invalid, Target: drop})
		// An answer of a backend that belongs to no connection would leave with the backend's own address.
		forward = append(forward, ruleset.Rule{Out: u.Link, State: packet.Invalid, Target: drop})
	}
	input = append(append(input, b.guardSync()...), b.dropStrays()...)
	forward = append(forward, b.acceptEgress()...)
	b.hook("FORWARD", forwardChain)
	b.chain(forwardChain, append(forward, b.boundaryJumps()...)...)
	b.boundary()

	unreachable := "icmp-port-unreachable"
	if b.family == gateway.IPv6 {
		unreachable = "icmp6-port-unreachable"
	}
	b.hook("INPUT", inputChain)
	b.chain(inputChain, input...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, b.refuseOutput()...)
	b.chain(refuseChain,
		ruleset.Rule{Mark: dropMark(b.opts.Ownership), Target: drop},
		ruleset.Rule{Protocol: gateway.TCP, Mark: rejectMark(b.opts.Ownership), Target: ruleset.Target{Verb: ruleset.Reject, RejectWith: "tcp-reset"}},
		ruleset.Rule{Mark: rejectMark(b.opts.Ownership), Target: ruleset.Target{Verb: ruleset.Reject, RejectWith: unreachable}},
	)
}

// boundaryJumps sends packets from outside to the boundary.
func (b *builder) boundaryJumps() []ruleset.Rule {
	rules := make([]ruleset.Rule, 0, len(b.state.Uplinks)+len(b.state.Outside))
	for _, u := range b.state.Uplinks {
		rules = append(rules, ruleset.Rule{In: u.Link, Target: b.goTo(boundaryChain)})
	}
	for _, link := range b.state.Outside {
		rules = append(rules, ruleset.Rule{In: link, Target: b.goTo(boundaryChain)})
	}
	if b.has(b.state.ForwardingOwned) {
		// A host that forwards only for us drops packets from every link that is not known to be inside.
		for _, link := range b.state.InsideLinks {
			rules = append(rules, ruleset.Rule{In: link, Target: ruleset.Target{Verb: ruleset.Return}})
		}
		rules = append(rules, ruleset.Rule{Target: b.goTo(boundaryChain)})
	}
	return rules
}

// returnBridged ignores packets that a bridge switches without routing. They meet netfilter only if another program enabled
// br_netfilter.
func (b *builder) returnBridged() []ruleset.Rule {
	if !b.has(b.state.BridgeNetfilter) {
		return nil
	}
	return []ruleset.Rule{{Bridged: true, Target: ruleset.Target{Verb: ruleset.Return}}}
}

func (b *builder) boundary() {
	back := ruleset.Target{Verb: ruleset.Return}
	rules := []ruleset.Rule{
		// Published by another program on this host, whose own rules decide.
		{State: packet.DNAT, Target: back},
		// Opened from inside.
		{State: packet.Related | packet.Established, Direction: packet.Reply, Target: back},
	}
	for _, network := range b.insideNetworks() {
		rules = append(rules, ruleset.Rule{Source: network, Target: back})
	}
	b.chain(boundaryChain, append(rules, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.Drop}})...)
}

// acceptForwarded lets both directions of forwarded connections pass. A packet of the client never leaves by an uplink, even if
// its backend is routed there: otherwise the host would be an open proxy. A packet of a pod that leaves with an external
// address may leave, and so may a connection that a helper expects, such as the data connection of active FTP, which the
// backend opens. Replies carry most bytes, so they meet only one rule.
func (b *builder) acceptForwarded() []ruleset.Rule {
	ours, accept := b.opts.Ownership.Forwarded(), ruleset.Target{Verb: ruleset.Accept}
	links := b.state.LeavingLinks()
	if len(links) == 0 {
		return []ruleset.Rule{{ConnMark: ours, Target: accept}}
	}
	rules := []ruleset.Rule{{ConnMark: ours, Direction: packet.Reply, Target: accept}}
	for _, link := range links {
		rules = append(rules, ruleset.Rule{Out: link, ConnMark: ours, Target: b.goTo(leavingChain)})
	}
	leaving := []ruleset.Rule{
		{Mark: b.opts.Ownership.Egress(), Target: accept},
		{Expected: true, Target: accept},
	}
	for _, network := range b.state.ClusterNetworks(b.family) {
		leaving = append(leaving, ruleset.Rule{Destination: network, Target: accept})
	}
	b.chain(leavingChain, append(leaving, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.Drop}})...)
	return append(rules, ruleset.Rule{ConnMark: ours, Target: accept})
}

func (b *builder) insideNetworks() []netip.Prefix {
	return gateway.NetworksOf(b.state.InsideNetworks, b.family)
}

// refuseOutput drops and rejects packets of the host itself that nat marked. It checks only the protocols that nat marks: in
// the kernel's reports of multicast groups (IGMP, MLD), the mark has another value, because it shares its memory with
// reserved_tailroom.
func (b *builder) refuseOutput() []ruleset.Rule {
	protocols := []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP}
	rules := make([]ruleset.Rule, 0, len(protocols))
	for _, p := range protocols {
		rules = append(rules, ruleset.Rule{Protocol: p, Target: b.jump(refuseChain)})
	}
	return rules
}

// guardSync drops packets for the sync address of a pair that come neither by its link nor from the host itself.
func (b *builder) guardSync() []ruleset.Rule {
	sync := b.state.Sync
	if !sync.Has(b.family) {
		return nil
	}
	back := ruleset.Target{Verb: ruleset.Return}
	b.chain(syncChain, ruleset.Rule{In: sync.Link, Target: back}, ruleset.Rule{In: "lo", Target: back}, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.Drop}})
	var rules []ruleset.Rule
	for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
		rules = append(rules, ruleset.Rule{
			Protocol: p, Destination: hostPrefix(sync.Address), DestinationPorts: gateway.Port(sync.Port), Target: b.goTo(syncChain),
		})
	}
	return rules
}

// dropStrays drops TCP segments to masquerade addresses that begin no connection and belong to none. If the host reset them, a
// connection that another gateway hands over together with the address would end before the kernel knows it.
func (b *builder) dropStrays() []ruleset.Rule {
	addresses := gateway.AllAddresses(b.state.MasqueradeSources(b.family))
	if len(addresses) == 0 {
		return nil
	}
	rules := []ruleset.Rule{{Protocol: gateway.TCP, SYN: true, State: packet.New, Target: ruleset.Target{Verb: ruleset.Return}}}
	for _, a := range addresses {
		rules = append(rules, ruleset.Rule{Destination: hostPrefix(a), Target: ruleset.Target{Verb: ruleset.Drop}})
	}
	b.chain(straysChain, rules...)
	return []ruleset.Rule{{Protocol: gateway.TCP, State: packet.New | packet.Invalid, Target: b.goTo(straysChain)}}
}
