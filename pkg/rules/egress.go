// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// leaves reports whether any pod of this family leaves with an external address.
func (b *builder) leaves() bool {
	return slices.ContainsFunc(b.state.Egresses, func(e gateway.Egress) bool { return b.ours(e.Address) && len(e.Sources) > 0 })
}

// egress returns the rules for the pods that leave with an external address, in a tree of their addresses.
func (b *builder) egress(target func(gateway.Egress) netfilter.Target) []netfilter.Rule {
	var sites []site
	for _, e := range b.state.Egresses {
		if !b.ours(e.Address) {
			continue
		}
		for _, pod := range e.Sources {
			sites = append(sites, site{pod, []netfilter.Rule{{Source: only(pod), Comment: netfilter.Comment(e.Owner), Target: target(e)}}})
		}
	}
	slices.SortFunc(sites, func(x, y site) int { return x.address.Compare(y.address) })
	return b.dispatch(sites, func(half netip.Prefix) netfilter.Rule {
		return netfilter.Rule{Source: half, Target: b.goTo(prefixChain("E", half))}
	})
}

// markEgress marks the packets of pods, so that they are routed by their uplink. Connections that pods opened earlier keep
// their path: it marks only new connections and those that were new when these rules existed. Packets that come in by an uplink
// are not from pods, unless the config lists their network as inside.
func (b *builder) markEgress() []netfilter.Rule {
	if !b.leaves() {
		return nil
	}
	opened := []netfilter.Rule{
		{State: netfilter.New, Target: b.goTo(podsChain)},
		{ConnMark: b.opts.Ownership.Forwarded(), Target: b.goTo(podsChain)},
	}
	var rules []netfilter.Rule
	if networks := b.insideNetworks(); len(networks) > 0 {
		for _, network := range networks {
			rules = append(rules, netfilter.Rule{Source: network, Target: b.goTo(insideChain)})
		}
		b.chain(insideChain, opened...)
	}
	for _, u := range b.state.Uplinks {
		rules = append(rules, netfilter.Rule{In: u.Link, Target: netfilter.Target{Verb: netfilter.Return}})
	}
	b.chain(egressChain, append(rules, opened...)...)
	b.chain(podsChain, b.egress(func(e gateway.Egress) netfilter.Target {
		uplink, flag := b.opts.Ownership.Uplink(e.Uplink), b.opts.Ownership.Egress()
		return netfilter.Target{Verb: netfilter.SetMark, Mark: gateway.Mark{Value: uplink.Value | flag.Value, Mask: uplink.Mask | flag.Mask}}
	})...)
	return []netfilter.Rule{{Target: b.jump(egressChain)}}
}

// acceptEgress lets both directions of these connections pass, whatever the host's policy.
func (b *builder) acceptEgress() []netfilter.Rule {
	if !b.leaves() {
		return nil
	}
	b.chain(egressChain,
		netfilter.Rule{Target: netfilter.Target{Verb: netfilter.SetConnMark, Mark: b.opts.Ownership.Forwarded()}},
		netfilter.Rule{Target: netfilter.Target{Verb: netfilter.Accept}},
	)
	return b.outward()
}

// translateEgress gives these connections their external address on every uplink, because another uplink may be connected to
// their destination. The outside must never see the address of a pod.
func (b *builder) translateEgress() []netfilter.Rule {
	if !b.leaves() {
		return nil
	}
	b.chain(egressChain, b.egress(func(e gateway.Egress) netfilter.Target {
		return netfilter.Target{Verb: netfilter.TranslateSource, Address: e.Address, RandomFully: b.opts.RandomFully}
	})...)
	return b.outward()
}

// outward sends marked packets that leave by an uplink to the table's egress chain. Packets that stay inside, or were
// translated to return inside, are not affected.
func (b *builder) outward() []netfilter.Rule {
	rules := make([]netfilter.Rule, 0, len(b.state.Uplinks))
	for _, u := range b.state.Uplinks {
		rules = append(rules, netfilter.Rule{Out: u.Link, Mark: b.opts.Ownership.Egress(), Target: b.goTo(egressChain)})
	}
	return rules
}
