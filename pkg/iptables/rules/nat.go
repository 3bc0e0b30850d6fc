// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// nat returns the table that finds the forward of a packet by address, then protocol, then port, and translates it.
func (b *builder) nat() ruleset.Table {
	host := b.reuse(b.last.sameHost, b.last.natHost, b.natHost)
	trees := b.reuseTrees(b.trees)
	services := b.reuse(b.last.built && slices.EqualFunc(b.last.trees, trees, sameKey), b.last.services, func() { b.services(trees) })
	return ruleset.Table{Name: "nat", Chains: b.last.replaceNAT(host, services, trees)}
}

// natHost adds the chains of the nat table that do not depend on forwards.
func (b *builder) natHost() {
	b.hook("PREROUTING", servicesChain)
	if !b.state.ForwardedOnly {
		b.hook("OUTPUT", servicesChain)
	}
	b.hook("POSTROUTING", postroutingChain)
	masquerade := ruleset.Rule{ConnMark: b.opts.Ownership.Masquerade(), Target: b.masquerade()}
	b.chain(postroutingChain, slices.Concat(b.masqueradeRemote(), []ruleset.Rule{masquerade}, b.translateEgress())...)
	b.chain(markDropChain, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.SetMark, Mark: dropMark(b.opts.Ownership)}})
	b.chain(markRejectChain, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.SetMark, Mark: rejectMark(b.opts.Ownership)}})
	b.keepSource()
}

// masqueradeRemote marks connections that keep the client's address to be masqueraded, unless they lead to a pod of this node.
func (b *builder) masqueradeRemote() []ruleset.Rule {
	if !b.state.MasqueradeRemote {
		return nil
	}
	mark := b.opts.Ownership.Masquerade()
	var rules []ruleset.Rule
	for _, a := range b.state.LocalBackends {
		if b.inFamily(a) {
			rules = append(rules, ruleset.Rule{Destination: hostPrefix(a), Target: ruleset.Target{Verb: ruleset.Return}})
		}
	}
	b.chain(remoteChain, append(rules, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.SetConnMark, Mark: mark}})...)
	kept := gateway.Mark{Value: b.opts.Ownership.Forwarded().Value, Mask: b.opts.Ownership.Forwarded().Mask | mark.Mask}
	// Egress has the same mark, but its destination is as it was.
	return []ruleset.Rule{{ConnMark: kept, State: packet.DNAT, Target: b.jump(remoteChain)}}
}

// masquerade returns the target that masquerades. Links with masquerade addresses come first.
func (b *builder) masquerade() ruleset.Target {
	rules := b.masqueradeAddresses()
	toHost := ruleset.Target{Verb: ruleset.Masquerade, RandomFully: b.opts.RandomFully}
	if len(rules) == 0 && b.state.MasqueradePorts == (gateway.PortRange{}) {
		return toHost
	}
	b.chain(masqueradeChain, append(rules, b.withPorts(toHost)...)...)
	return b.goTo(masqueradeChain)
}

// withPorts returns the rules that hide a source behind the range of source ports. The kernel accepts one only together with a
// protocol.
func (b *builder) withPorts(anyPort ruleset.Target) []ruleset.Rule {
	var rules []ruleset.Rule
	if b.state.MasqueradePorts != (gateway.PortRange{}) {
		inRange := anyPort
		inRange.Ports = b.state.MasqueradePorts
		for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP} {
			rules = append(rules, ruleset.Rule{Protocol: p, Target: inRange})
		}
	}
	return append(rules, ruleset.Rule{Target: anyPort})
}

// masqueradeAddresses returns the rules that share the connections by a link evenly among its addresses. Which one a connection
// gets matters only for its first packet: the kernel remembers it.
func (b *builder) masqueradeAddresses() []ruleset.Rule {
	var rules []ruleset.Rule
	built := map[netip.Addr]bool{}
	for _, l := range b.state.MasqueradeSources(b.family) {
		for i, a := range l.Addresses {
			chain := masqueradeTo(a)
			if !built[a] {
				b.chain(chain, b.withPorts(ruleset.Target{Verb: ruleset.SNAT, Address: a, RandomFully: b.opts.RandomFully})...)
			}
			built[a] = true
			rules = append(rules, ruleset.Rule{Out: l.Link, Probability: probability(1, len(l.Addresses)-i), Target: b.goTo(chain)})
		}
	}
	return rules
}

// services adds the chain that jumps to the trees of ports.
func (b *builder) services(trees []tree) {
	rules := b.dispatch(b.sites(trees), b.toServices)
	// The packet was not translated: no port matched, or the packet must be refused.
	rules = append(rules, ruleset.Rule{
		ConnMark: b.opts.Ownership.Forwarded(),
		Target:   ruleset.Target{Verb: ruleset.SetConnMark, Mark: gateway.Mark{Mask: b.forwarded().Mask}},
	})
	b.chain(servicesChain, rules...)
}

// keepSource keeps the source address of packets that come in by an uplink. It still masquerades packets from pods or the host
// itself: their replies would not pass through the host otherwise.
func (b *builder) keepSource() {
	rules := make([]ruleset.Rule, 0, len(b.state.Uplinks))
	for _, u := range b.state.Uplinks {
		rules = append(rules, ruleset.Rule{
			In:     u.Link,
			Target: ruleset.Target{Verb: ruleset.SetConnMark, Mark: gateway.Mark{Mask: b.opts.Ownership.Masquerade().Mask}},
		})
	}
	b.chain(keepSourceChain, rules...)
}

// forwarded returns the marks of a translated connection, unless its Forward keeps the source.
func (b *builder) forwarded() gateway.Mark {
	bits := b.opts.Ownership.Forwarded().Mask | b.opts.Ownership.Masquerade().Mask
	return gateway.Mark{Value: bits, Mask: bits}
}
