// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// maxHops bounds the next hops that are asked, and maxNamed those in a text.
const maxHops, maxNamed = 256, 3

// table finds next hops by the longest prefix.
type table struct {
	hops map[netip.Prefix][]netip.Addr
	// bits are the lengths of the prefixes of each family, longest first.
	bits map[bool][]int
}

// newTable keeps the routes with the lowest metric to each destination. A destination on a link itself has no next hops.
func newTable(routes []gateway.Route) table {
	t := table{hops: map[netip.Prefix][]netip.Addr{}, bits: map[bool][]int{}}
	metrics := map[netip.Prefix]int{}
	for _, r := range routes {
		metric, known := metrics[r.Destination]
		if known && metric < r.Metric {
			continue
		}
		if !known || r.Metric < metric {
			metrics[r.Destination], t.hops[r.Destination] = r.Metric, nil
		}
		if r.Gateway.IsValid() {
			t.hops[r.Destination] = append(t.hops[r.Destination], nextHop(r))
		}
		four := r.Destination.Addr().Is4()
		t.bits[four] = append(t.bits[four], r.Destination.Bits())
	}
	for four, bits := range t.bits {
		slices.SortFunc(bits, func(a, b int) int { return b - a })
		t.bits[four] = slices.Compact(bits)
	}
	return t
}

// nextHop returns the gateway of a route. Only its link has a link-local one.
func nextHop(r gateway.Route) netip.Addr {
	if r.Gateway.IsLinkLocalUnicast() {
		return r.Gateway.WithZone(r.Link)
	}
	return r.Gateway
}

// to returns the next hops to an address; none if it is on a link, or if only a default route leads to it.
func (t table) to(a netip.Addr) []netip.Addr {
	for _, bits := range t.bits[a.Is4()] {
		if prefix, err := a.Prefix(bits); err == nil {
			if hops, found := t.hops[prefix]; found {
				return hops
			}
		}
	}
	return nil
}

// NextHops returns the sorted next hops to the endpoints of the addresses that may be announced, for Facts.Unreachable.
func NextHops(f Facts) []netip.Addr {
	routes, seen := newTable(f.Routes), map[netip.Addr]bool{}
	var all []netip.Addr
	for _, forward := range f.State.Forwards {
		if !f.mayAnnounce(forward.Address) {
			continue
		}
		for _, b := range forward.Backends {
			if !seen[b.Address] {
				seen[b.Address] = true
				all = append(all, routes.to(b.Address)...)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	return all[:min(len(all), maxHops)]
}

// lostHops returns the next hops of each address of which none answers to any endpoint in use. An address with an endpoint that is reached
// in a way that cannot be asked about is not lost, and neither is one without endpoints: other gateways have none either.
func lostHops(f Facts) map[netip.Addr][]netip.Addr {
	if len(f.Unreachable) == 0 {
		return nil
	}
	routes, answers := newTable(f.Routes), map[netip.Addr]bool{}
	reached := func(backend netip.Addr) bool {
		is, known := answers[backend]
		if !known {
			hops := routes.to(backend)
			is = len(hops) == 0 || slices.ContainsFunc(hops, func(hop netip.Addr) bool { return !slices.Contains(f.Unreachable, hop) })
			answers[backend] = is
		}
		return is
	}
	lost, works := map[netip.Addr][]netip.Addr{}, map[netip.Addr]bool{}
	for _, forward := range f.State.Forwards {
		address := forward.Address
		switch {
		case works[address]:
		case slices.ContainsFunc(forward.Backends, func(b gateway.Backend) bool { return reached(b.Address) }):
			works[address] = true
		default:
			for _, b := range forward.Backends {
				lost[address] = append(lost[address], routes.to(b.Address)...)
			}
		}
	}
	maps.DeleteFunc(lost, func(address netip.Addr, _ []netip.Addr) bool { return works[address] })
	for _, hops := range lost {
		slices.SortFunc(hops, netip.Addr.Compare)
	}
	return lost
}

// some names the first of a sorted list.
func some(hops []netip.Addr) string {
	var names []string
	for _, hop := range slices.Compact(hops) {
		names = append(names, hop.String())
	}
	if more := len(names) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), more)
	}
	return strings.Join(names, ", ")
}
