// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants

import (
	"maps"
	"net/netip"
)

// addressSet is a set of networks. The cost of a lookup grows with the number of distinct prefix lengths, not of networks.
type addressSet map[prefixLength]map[netip.Prefix]struct{}

type prefixLength struct {
	v4   bool
	bits int
}

func (s addressSet) add(networks ...netip.Prefix) {
	for _, n := range networks {
		length := prefixLength{n.Addr().Is4(), n.Bits()}
		if s[length] == nil {
			s[length] = map[netip.Prefix]struct{}{}
		}
		s[length][n.Masked()] = struct{}{}
	}
}

func (s addressSet) contains(a netip.Addr) bool {
	for length, networks := range s {
		if length.v4 != a.Is4() {
			continue
		}
		if _, found := networks[netip.PrefixFrom(a, length.bits).Masked()]; found {
			return true
		}
	}
	return false
}

func (s addressSet) equal(o addressSet) bool {
	return maps.EqualFunc(s, o, maps.Equal)
}
