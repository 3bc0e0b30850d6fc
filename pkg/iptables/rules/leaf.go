// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// leaf appends the rules of the forwards themselves, sorted by port.
func (b *builder) leaf(rules []ruleset.Rule, forwards []*gateway.Forward) []ruleset.Rule {
	b.pieces = slices.AppendSeq(b.pieces[:0], merged(forwards))
	for run := range runs(b.pieces, func(x, y *gateway.Forward) bool { return needsChain(x) == needsChain(y) }) {
		if !needsChain(run[0]) {
			rules = b.inline(rules, run)
			continue
		}
		for _, f := range run {
			rules = append(rules, b.ownChain(f))
		}
	}
	return rules
}

// ownChain gives a forward a chain of its own and returns the rule that jumps there. The chain is named after the frontend and not
// after the content, so that a change of an endpoint rewrites only this chain.
func (b *builder) ownChain(f *gateway.Forward) ruleset.Rule {
	chain := backendChain(f.Frontend)
	rules := b.inline(b.draft(), []*gateway.Forward{f})
	b.chain(chain, rules...)
	b.release(rules)
	return portRule(f, b.goTo(chain))
}

// inline appends the rules of forwards. Neighbours that allow the same sources share the check.
func (b *builder) inline(rules []ruleset.Rule, forwards []*gateway.Forward) []ruleset.Rule {
	for run := range runs(forwards, sameSources) {
		if run[0].SourcesDeny {
			rules = appendPortRules(rules, run, b.goTo(markDropChain))
			continue
		}
		rules = b.appendSourceCheck(rules, run)
		for alike := range runs(run, sameTreatment) {
			rules = b.translate(rules, alike)
		}
	}
	return rules
}

// translate appends the rules of forwards with the same treatment, for packets whose source is allowed.
func (b *builder) translate(rules []ruleset.Rule, forwards []*gateway.Forward) []ruleset.Rule {
	if len(forwards[0].Backends) == 0 {
		return appendPortRules(rules, forwards, b.goTo(markRejectChain))
	}
	if !forwards[0].Masquerade {
		rules = appendPortRules(rules, forwards, b.jump(keepSourceChain))
	}
	for _, f := range forwards {
		rules = b.backends(rules, f)
	}
	return rules
}

// portRule returns a rule for the ports of one forward, with its owner as comment.
func portRule(f *gateway.Forward, target ruleset.Target) ruleset.Rule {
	return ruleset.Rule{Protocol: f.Protocol, DestinationPorts: f.Ports, Comment: ruleset.Comment(f.Owner), Target: target}
}

// appendPortRules appends as few rules as possible for the ports of neighbours.
func appendPortRules(rules []ruleset.Rule, forwards []*gateway.Forward, target ruleset.Target) []ruleset.Rule {
	var ranges []gateway.PortRange
	rule := portRule(forwards[0], target)
	for _, f := range forwards {
		if f.Owner != forwards[0].Owner {
			rule.Comment = "several Mappings"
		}
		if n := len(ranges); n > 0 && uint32(ranges[n-1].Last)+1 == uint32(f.Ports.First) {
			ranges[n-1].Last = f.Ports.Last
			continue
		}
		ranges = append(ranges, f.Ports)
	}
	rule.DestinationPorts = ranges[0]
	if len(ranges) == 1 {
		return append(rules, rule)
	}
	rule.DestinationPorts = gateway.PortRange{}
	for _, ports := range multiports(ranges) {
		rule.Multiport = ports
		rules = append(rules, rule)
	}
	return rules
}

// multiports returns ranges as arguments of `-m multiport`, in as many lists as needed.
func multiports(ranges []gateway.PortRange) []string {
	var lists []string
	var list []string
	room := ruleset.MaxMultiport
	for _, r := range ranges {
		need := 2
		if r.Single() {
			need = 1
		}
		if need > room {
			lists = append(lists, strings.Join(list, ","))
			list, room = nil, ruleset.MaxMultiport
		}
		list = append(list, strings.Replace(r.String(), "-", ":", 1))
		room -= need
	}
	return append(lists, strings.Join(list, ","))
}

func sameTreatment(x, y *gateway.Forward) bool {
	return (len(x.Backends) == 0) == (len(y.Backends) == 0) && x.Masquerade == y.Masquerade
}
