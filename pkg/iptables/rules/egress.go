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

// hasEgress reports whether any pod of this family leaves with an external address.
func (b *builder) hasEgress() bool {
	return slices.ContainsFunc(b.state.Egresses, func(e gateway.Egress) bool { return b.inFamily(e.Address) && len(e.Sources) > 0 })
}

// egress returns the rules for the pods that leave with an external address, in a tree of their addresses.
func (b *builder) egress(target func(gateway.Egress) ruleset.Target) []ruleset.Rule {
	var sites []site
	for _, e := range b.state.Egresses {
		if !b.inFamily(e.Address) {
			continue
		}
		for _, pod := range e.Sources {
			sites = append(sites, site{pod, []ruleset.Rule{{Source: hostPrefix(pod), Comment: ruleset.Comment(e.Owner), Target: target(e)}}})
		}
	}
	slices.SortFunc(sites, func(x, y site) int { return x.address.Compare(y.address) })
	return b.dispatch(sites, func(half netip.Prefix) ruleset.Rule {
		return ruleset.Rule{Source: half, Target: b.goTo(prefixChain("E", half))}
	})
}

// markEgress marks the packets of pods, so that they are routed by their uplink. Connections that pods opened earlier keep
// their path: it marks only new connections and those that were new when these rules existed. Packets that come in by an uplink
// are not from pods, unless the config lists their network as inside.
func (b *builder) markEgress() []ruleset.Rule {
	if !b.hasEgress() {
		return nil
	}
	opened := []ruleset.Rule{
		{State: packet.New, Target: b.goTo(podsChain)},
		{ConnMark: b.opts.Ownership.Forwarded(), Target: b.goTo(podsChain)},
	}
	var rules []ruleset.Rule
	if networks := b.insideNetworks(); len(networks) > 0 {
		for _, network := range networks {
			rules = append(rules, ruleset.Rule{Source: network, Target: b.goTo(insideChain)})
		}
		b.chain(insideChain, opened...)
	}
	for _, u := range b.state.Uplinks {
		rules = append(rules, ruleset.Rule{In: u.Link, Target: ruleset.Target{Verb: ruleset.Return}})
	}
	b.chain(egressChain, append(rules, opened...)...)
	b.chain(podsChain, b.egress(func(e gateway.Egress) ruleset.Target {
		uplink, flag := b.opts.Ownership.Uplink(e.Uplink), b.opts.Ownership.Egress()
		return ruleset.Target{Verb: ruleset.SetMark, Mark: gateway.Mark{Value: uplink.Value | flag.Value, Mask: uplink.Mask | flag.Mask}}
	})...)
	return []ruleset.Rule{{Target: b.jump(egressChain)}}
}

// acceptEgress lets both directions of these connections pass, whatever the host's policy.
func (b *builder) acceptEgress() []ruleset.Rule {
	if !b.hasEgress() {
		return nil
	}
	b.chain(egressChain,
		ruleset.Rule{Target: ruleset.Target{Verb: ruleset.SetConnMark, Mark: b.opts.Ownership.Forwarded()}},
		ruleset.Rule{Target: ruleset.Target{Verb: ruleset.Accept}},
	)
	return b.leaveByUplink()
}

// translateEgress gives these connections their external address on every uplink, because another uplink may be connected to
// their destination. The outside must never see the address of a pod.
func (b *builder) translateEgress() []ruleset.Rule {
	if !b.hasEgress() {
		return nil
	}
	b.chain(egressChain, b.egress(func(e gateway.Egress) ruleset.Target {
		return ruleset.Target{Verb: ruleset.SNAT, Address: e.Address, RandomFully: b.opts.RandomFully}
	})...)
	return b.leaveByUplink()
}

// leaveByUplink sends marked packets that leave by an uplink to the table's egress chain. Packets that stay inside, or were
// translated to return inside, are not affected.
func (b *builder) leaveByUplink() []ruleset.Rule {
	rules := make([]ruleset.Rule, 0, len(b.state.Uplinks))
	for _, u := range b.state.Uplinks {
		rules = append(rules, ruleset.Rule{Out: u.Link, Mark: b.opts.Ownership.Egress(), Target: b.goTo(egressChain)})
	}
	return rules
}
