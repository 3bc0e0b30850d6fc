// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rtnetlink

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Lookup asks the kernel for the route of a packet with a mark, as 'ip route get DESTINATION mark MARK' does. It returns no link for
// an address of this host, and an invalid gateway for a destination on the link.
func (c *Client) Lookup(destination netip.Addr, mark uint32) (link string, gateway netip.Addr, err error) {
	conn, err := c.open()
	if err != nil {
		return "", netip.Addr{}, err
	}
	defer conn.close()
	routes, err := conn.RouteGetWithOptions(destination.AsSlice(), &netlink.RouteGetOptions{Mark: mark})
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("finding the route to %s with mark %#x: %w", destination, mark, err)
	}
	if len(routes) == 0 || routes[0].Type == unix.RTN_LOCAL {
		return "", netip.Addr{}, nil
	}
	route := routes[0]
	if link, err = conn.linkName(route.LinkIndex, map[int]string{}); err != nil {
		return "", netip.Addr{}, err
	}
	next := route.Gw
	if via, ok := route.Via.(*netlink.Via); ok { // RFC 8950: an IPv6 next hop of an IPv4 route
		next = via.Addr
	}
	gateway, _ = netip.AddrFromSlice(next)
	return link, gateway.Unmap(), nil
}
