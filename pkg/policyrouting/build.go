// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package policyrouting

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Build returns the routes and rules that the state needs: a table for each uplink, a rule that sends replies of the uplink's
// connections to that table, and the service routes. Egress traffic is looked up in the main table first, ignoring its
// default routes, so that traffic to inside networks stays inside.
func Build(state gateway.State, own gateway.Ownership) Set {
	var set Set
	for _, v6 := range []bool{false, true} {
		if slices.ContainsFunc(state.Egresses, func(e gateway.Egress) bool { return e.Address.Is6() == v6 }) {
			set.Rules = append(set.Rules, Rule{
				IPv6:      v6,
				Priority:  own.RulePriority,
				Mark:      own.Egress(),
				Table:     MainTable,
				NoDefault: true,
				Protocol:  own.RouteProtocol,
			})
		}
	}
	for _, uplink := range state.Uplinks {
		routes := uplinkRoutes(uplink, own)
		set.Routes = append(set.Routes, routes...)
		for _, v6 := range []bool{false, true} {
			// Without a route of the family there is nothing to look up.
			if !slices.ContainsFunc(routes, func(r Route) bool { return r.Destination.Addr().Is6() == v6 }) {
				continue
			}
			set.Rules = append(set.Rules, Rule{
				IPv6:     v6,
				Priority: uplinkPriority(own),
				Mark:     own.Uplink(uplink.Number),
				Table:    own.Table(uplink.Number),
				Protocol: own.RouteProtocol,
			})
		}
	}
	for _, r := range state.ServiceRoutes {
		if len(r.Via) == 0 {
			continue
		}
		set.Routes = append(set.Routes, Route{
			Table:       MainTable,
			Destination: r.Destination.Masked(),
			Gateways:    slices.Clone(r.Via),
			Protocol:    own.RouteProtocol,
		})
	}
	set.Sort()
	set.Rules = slices.Compact(set.Rules)
	// The kernel keeps one route per key, so a second one would be replaced back and forth.
	set.Routes = slices.CompactFunc(set.Routes, func(a, b Route) bool { return a.key() == b.key() })
	return set
}

// uplinkPriority returns the priority of the uplink rules. They come after the egress rule, which must match the same packets
// first.
func uplinkPriority(own gateway.Ownership) int { return own.RulePriority + 1 }

// OurPriority reports whether our rules use the priority. It includes the egress priority for uplink rules, which older
// versions used.
func OurPriority(priority int, own gateway.Ownership) bool {
	return priority == own.RulePriority || priority == uplinkPriority(own)
}

func uplinkRoutes(uplink gateway.Uplink, own gateway.Ownership) []Route {
	route := Route{Table: own.Table(uplink.Number), Link: uplink.Link, Protocol: own.RouteProtocol}
	var routes []Route
	for _, network := range uplink.Connected {
		route.Destination = network.Masked()
		routes = append(routes, route)
	}
	for _, gw := range uplink.Gateways {
		route.Destination = everything(gw.Is6())
		route.Gateways = []netip.Addr{gw}
		route.OnLink = !neighbour(gw, uplink.Connected)
		routes = append(routes, route)
	}
	for _, d := range uplink.Defaults {
		route.Destination, route.Gateways, route.OnLink = everything(d.IPv6), nil, false
		if d.Gateway.IsValid() {
			route.Gateways = []netip.Addr{d.Gateway}
			route.OnLink = !neighbour(d.Gateway, uplink.Connected)
		}
		routes = append(routes, route)
	}
	return routes
}

// neighbour reports whether the kernel considers gw reachable on a link with these networks.
func neighbour(gw netip.Addr, connected []netip.Prefix) bool {
	if gw.Is6() && gw.IsLinkLocalUnicast() {
		return true
	}
	return slices.ContainsFunc(connected, func(p netip.Prefix) bool { return p.Contains(gw) })
}

func everything(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}
