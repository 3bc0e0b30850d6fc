// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// maxRoutesPerLink bounds memory: the main table may hold all routes of the Internet on a link to the outside. Links to the
// inside have about as many routes as there are nodes or blocks of pod addresses.
const maxRoutesPerLink = 8192

// tableReader collects routes of the main table.
type tableReader struct {
	names    map[int]string
	defaults []rankedDefault
	routes   []gateway.Route
	kept     map[string]int
}

type rankedDefault struct {
	metric int
	gateway.DefaultRoute
}

// routes returns the unicast routes of the main table: the default routes, best metric first, and the others.
func routes(names map[int]string) ([]gateway.DefaultRoute, []gateway.Route, error) {
	reader := tableReader{names: names}
	var others []gateway.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		defaults := len(reader.defaults)
		err := retry(func() error {
			reader.defaults, reader.routes, reader.kept = reader.defaults[:defaults], nil, map[string]int{}
			filter := &netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
			return netlink.RouteListFilteredIter(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE, func(r netlink.Route) bool {
				reader.read(r, family == netlink.FAMILY_V6)
				return true
			})
		})
		if err != nil {
			return nil, nil, fmt.Errorf("reading the routes of the main table: %w", err)
		}
		others = append(others, reader.routes...)
	}
	slices.SortFunc(reader.defaults, func(a, b rankedDefault) int {
		return cmp.Or(cmp.Compare(a.metric, b.metric), a.Gateway.Compare(b.Gateway), cmp.Compare(a.Link, b.Link))
	})
	var defaults []gateway.DefaultRoute
	for _, d := range reader.defaults {
		defaults = append(defaults, d.DefaultRoute)
	}
	slices.SortFunc(others, compareRoutes)
	return defaults, slices.Compact(others), nil
}

func (t *tableReader) read(r netlink.Route, ipv6 bool) {
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
	}
	bits, _ := r.Dst.Mask.Size()
	for _, hop := range hops {
		switch link := t.names[hop.LinkIndex]; {
		case link == "":
		case bits > 0:
			t.keep(r, bits, link, hop)
		default:
			t.defaults = append(t.defaults, rankedDefault{r.Priority, gateway.DefaultRoute{Link: link, Gateway: nextHop(hop), IPv6: ipv6}})
		}
	}
}

// keep adds a route that is not a default route. It skips link-local networks, which every link has, and multicast.
func (t *tableReader) keep(r netlink.Route, bits int, link string, hop *netlink.NexthopInfo) {
	if t.kept[link] == maxRoutesPerLink {
		return
	}
	to, ok := netip.AddrFromSlice(r.Dst.IP)
	if to = to.Unmap(); !ok || to.IsLinkLocalUnicast() || to.IsMulticast() {
		return
	}
	route := gateway.Route{Destination: netip.PrefixFrom(to, bits), Link: link, Gateway: nextHop(hop), Metric: r.Priority, Announced: announced(r.Protocol)}
	t.routes = append(t.routes, route)
	t.kept[link]++
}

// announced reports whether a route comes from a neighbour. The kernel sets the protocols of router advertisements and redirects;
// systemd-networkd and NetworkManager set those of DHCP and router advertisements (rtnetlink(7), rtm_protocol).
func announced(protocol netlink.RouteProtocol) bool {
	return protocol == unix.RTPROT_DHCP || protocol == unix.RTPROT_RA || protocol == unix.RTPROT_REDIRECT
}

func compareRoutes(a, b gateway.Route) int {
	return cmp.Or(a.Destination.Addr().Compare(b.Destination.Addr()), cmp.Compare(a.Destination.Bits(), b.Destination.Bits()),
		strings.Compare(a.Link, b.Link), a.Gateway.Compare(b.Gateway), cmp.Compare(a.Metric, b.Metric))
}
