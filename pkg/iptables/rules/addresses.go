// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// leafAddresses is the number of addresses that are checked one after the other.
const leafAddresses = 8

// site is an address and its rules.
type site struct {
	address netip.Addr
	rules   []ruleset.Rule
}

// sites returns the addresses, sorted, with a jump for each protocol.
func (b *builder) sites(trees []tree) []site {
	var sites []site
	for _, t := range trees {
		if n := len(sites); n == 0 || sites[n-1].address != t.address {
			sites = append(sites, site{address: t.address})
		}
		s := &sites[len(sites)-1]
		s.rules = append(s.rules, ruleset.Rule{
			Destination: hostPrefix(t.address),
			Protocol:    t.protocol,
			Target:      b.jump(t.root.name),
		})
	}
	return sites
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// dispatch returns the rules of sorted sites. If there are more than leafAddresses, they are in a tree of prefixes, and way
// returns the rule that jumps to the chain of a prefix.
func (b *builder) dispatch(sites []site, jumpTo func(netip.Prefix) ruleset.Rule) []ruleset.Rule {
	var rules []ruleset.Rule
	for len(sites) > leafAddresses {
		first, last := sites[0].address, sites[len(sites)-1].address
		half := netip.PrefixFrom(first, commonBits(first, last)+1).Masked()
		middle, _ := slices.BinarySearchFunc(sites, half, func(s site, half netip.Prefix) int {
			if half.Contains(s.address) {
				return -1
			}
			return 1
		})
		rule := jumpTo(half)
		rules = append(rules, rule)
		child := &ruleset.Chain{Name: rule.Target.Chain, Rules: b.dispatch(sites[:middle], jumpTo)}
		commentOnce(child.Rules)
		b.chains = append(b.chains, child)
		sites = sites[middle:]
	}
	for _, s := range sites {
		rules = append(rules, s.rules...)
	}
	return rules
}

// toServices jumps to the services of a prefix, and returns, so that packets for other services reach the end of the first
// chain.
func (b *builder) toServices(half netip.Prefix) ruleset.Rule {
	return ruleset.Rule{Destination: half, Target: b.jump(prefixChain("A", half))}
}

// commonBits returns the length of the longest prefix that holds both.
func commonBits(x, y netip.Addr) int {
	for n := range x.BitLen() {
		if !netip.PrefixFrom(x, n+1).Masked().Contains(y) {
			return n
		}
	}
	return x.BitLen()
}
