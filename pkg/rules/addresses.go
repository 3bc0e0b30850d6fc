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

// service is the rules of one address: a jump for each protocol.
type service struct {
	address netip.Addr
	rules   []netfilter.Rule
}

// services builds the tree of ports of each address and protocol, and returns the addresses, sorted.
func (b *builder) services(forwards []gateway.Forward) []service {
	var services []service
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
		if first.Address.Is4() != (b.family == netfilter.IPv4) {
			continue
		}
		if n := len(services); n == 0 || services[n-1].address != first.Address {
			services = append(services, service{address: first.Address})
		}
		s := &services[len(services)-1]
		s.rules = append(s.rules, netfilter.Rule{
			Destination: netip.PrefixFrom(first.Address, first.Address.BitLen()),
			Protocol:    first.Protocol,
			Target:      b.jump(b.ports(same)),
		})
	}
	return services
}

// dispatch returns the rules that lead to the services. Beyond a few, they stand in a tree of prefixes, whose chains are
// jumped to and not gone to, so that a packet that is not ours comes back and meets the end of the first chain.
func (b *builder) dispatch(services []service) []netfilter.Rule {
	var rules []netfilter.Rule
	for len(services) > leafAddresses {
		first, last := services[0].address, services[len(services)-1].address
		half := netip.PrefixFrom(first, commonBits(first, last)+1).Masked()
		middle, _ := slices.BinarySearchFunc(services, half, func(s service, half netip.Prefix) int {
			if half.Contains(s.address) {
				return -1
			}
			return 1
		})
		child := addressChain(half)
		rules = append(rules, netfilter.Rule{Destination: half, Target: b.jump(child)})
		b.chain(child, b.dispatch(services[:middle])...)
		services = services[middle:]
	}
	for _, s := range services {
		rules = append(rules, s.rules...)
	}
	return rules
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
