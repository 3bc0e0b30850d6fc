// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// leafAddresses is how many addresses are tried one after the other.
const leafAddresses = 8

// site is an address and its rules.
type site struct {
	address netip.Addr
	rules   []netfilter.Rule
}

// services builds the tree of ports of each address and protocol, and returns the addresses, sorted, with a jump for each
// protocol.
func (b *builder) services(forwards []gateway.Forward) []site {
	var services []site
	for len(forwards) > 0 {
		first := forwards[0]
		end := slices.IndexFunc(forwards, func(f gateway.Forward) bool {
			return f.Address != first.Address || f.Protocol != first.Protocol
		})
		if end < 0 {
			end = len(forwards)
		}
		same := forwards[:end]
		forwards = forwards[end:]
		if !b.ours(first.Address) {
			continue
		}
		if n := len(services); n == 0 || services[n-1].address != first.Address {
			services = append(services, site{address: first.Address})
		}
		s := &services[len(services)-1]
		s.rules = append(s.rules, netfilter.Rule{
			Destination: only(first.Address),
			Protocol:    first.Protocol,
			Target:      b.jump(b.ports(same)),
		})
	}
	return services
}

// ours tells whether an address is of the family that is built.
func (b *builder) ours(a netip.Addr) bool { return a.Is4() == (b.family == netfilter.IPv4) }

func only(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// dispatch returns the rules of sorted sites. Beyond a few, they stand in a tree of prefixes, to whose chains way leads.
func (b *builder) dispatch(sites []site, way func(netip.Prefix) netfilter.Rule) []netfilter.Rule {
	var rules []netfilter.Rule
	for len(sites) > leafAddresses {
		first, last := sites[0].address, sites[len(sites)-1].address
		half := netip.PrefixFrom(first, commonBits(first, last)+1).Masked()
		middle, _ := slices.BinarySearchFunc(sites, half, func(s site, half netip.Prefix) int {
			if half.Contains(s.address) {
				return -1
			}
			return 1
		})
		rule := way(half)
		rules = append(rules, rule)
		child := netfilter.Chain{Name: rule.Target.Chain, Rules: b.dispatch(sites[:middle], way)}
		b.chains = append(b.chains, child)
		sites = sites[middle:]
	}
	for _, s := range sites {
		rules = append(rules, s.rules...)
	}
	return rules
}

// toServices leads to the services of a prefix and back, so that a packet that is not ours meets the end of the first chain.
func (b *builder) toServices(half netip.Prefix) netfilter.Rule {
	return netfilter.Rule{Destination: half, Target: b.jump(prefixChain("A", half))}
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
