// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"net/netip"
	"slices"
)

// LinkAddresses are addresses in the networks of a link.
type LinkAddresses struct {
	// Link is the name of the network interface.
	Link string
	// Addresses are sorted and unique. Their order decides nothing.
	Addresses []netip.Addr
}

// Equal reports whether both are the same.
func (l LinkAddresses) Equal(o LinkAddresses) bool {
	return l.Link == o.Link && slices.Equal(l.Addresses, o.Addresses)
}

// MasqueradeSources returns the part of MasqueradeAddresses with one family, without links that have none.
func (s *State) MasqueradeSources(family Family) []LinkAddresses {
	var sources []LinkAddresses
	for _, l := range s.MasqueradeAddresses {
		l.Addresses = slices.DeleteFunc(slices.Clone(l.Addresses), func(a netip.Addr) bool { return a.Is6() != (family == IPv6) })
		if len(l.Addresses) > 0 {
			sources = append(sources, l)
		}
	}
	return sources
}

// Hides reports whether clients of a Forward that arrive through an uplink are masqueraded towards a backend.
func (s *State) Hides(f *Forward, backend netip.Addr) bool {
	if f.Masquerade || !s.MasqueradeRemote {
		return f.Masquerade
	}
	_, local := slices.BinarySearchFunc(s.LocalBackends, backend, netip.Addr.Compare)
	return !local
}

// AllAddresses returns the addresses of all links, sorted and unique.
func AllAddresses(links []LinkAddresses) []netip.Addr {
	var all []netip.Addr
	for _, l := range links {
		all = append(all, l.Addresses...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// SyncEndpoint is where the other gateway of a pair is answered: packets for it that come by other links are dropped, because Linux takes
// packets for an address of the host by any link, and the programs there trust whatever they receive.
type SyncEndpoint struct {
	Address netip.Addr
	Link    string
	// Port is one of TCP and UDP.
	Port uint16
}

// Has reports whether there is an endpoint of the family.
func (s SyncEndpoint) Has(family Family) bool {
	return s.Address.IsValid() && s.Address.Is4() == (family == IPv4)
}
