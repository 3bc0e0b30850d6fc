// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// uplinks numbers the links to the outside. Links configured by name come first, by their position among the names, whether
// they exist or not; then links that match patterns, sorted by name. So a number only changes if links of a pattern come or go,
// and only for links of patterns.
//
// A link that is missing or down stays in the State without routes, so that its boundary exists before the link does.
func uplinks(host gateway.Host, cfg config.Config) ([]gateway.Uplink, []finding.Finding) {
	u := uplinkSet{host: host, limit: cfg.Ownership.MaxUplinks(), taken: map[string]bool{}}
	for i, c := range cfg.Uplinks {
		if pattern, err := c.Pattern(); pattern == nil && err == nil {
			u.add(i, c, c.Interface)
		}
	}
	for i, c := range cfg.Uplinks {
		pattern, err := c.Pattern()
		if pattern == nil || err != nil {
			continue
		}
		found := false
		for _, name := range linkNames(host) {
			if name != "lo" && pattern(name) {
				u.add(i, c, name)
				found = true
			}
		}
		if !found {
			u.report(i, "interface", finding.ReasonLinkNotFound, "no link of this host matches %q", c.Interface)
		}
	}
	return u.uplinks, u.findings
}

func linkNames(host gateway.Host) []string {
	var names []string
	for _, l := range host.Links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names
}

type uplinkSet struct {
	host     gateway.Host
	limit    int
	taken    map[string]bool
	uplinks  []gateway.Uplink
	findings []finding.Finding
}

func (u *uplinkSet) report(index int, key, reason, format string, args ...any) {
	u.findings = append(u.findings, finding.Finding{
		Reason: reason, Field: fmt.Sprintf("uplinks[%d].%s", index, key), Message: fmt.Sprintf(format, args...),
	})
}

func (u *uplinkSet) add(index int, c config.Uplink, name string) {
	if master := masterOf(u.host, name); master != name && !u.taken[name] {
		u.taken[name] = true
		u.report(index, "interface", finding.ReasonLinkIsPort, "%s is a port of %s, which is used as the uplink instead; set interface to %s", name, master, master)
		name = master
	}
	if u.taken[name] {
		return
	}
	u.taken[name] = true
	if len(u.uplinks) == u.limit {
		u.report(index, "interface", finding.ReasonTooManyUplinks, "%s is ignored: ownership.markMask has room for %d uplinks only", name, u.limit)
		return
	}
	uplink := gateway.Uplink{Link: name, Number: len(u.uplinks) + 1}
	i := slices.IndexFunc(u.host.Links, func(l gateway.Link) bool { return l.Name == name })
	switch {
	case i < 0:
		u.report(index, "interface", finding.ReasonLinkNotFound, "this host has no link %s", name)
	case !u.host.Links[i].Up:
		u.report(index, "interface", finding.ReasonLinkDown, "%s is down", name)
	default:
		uplink.Connected = connected(u.host.Links[i])
		uplink.Gateways, uplink.Defaults = u.gateways(index, c, u.host.Links[i], uplink.Connected)
	}
	u.uplinks = append(u.uplinks, uplink)
}

func whyNoGateway(c config.Uplink) string {
	if c.GatewayOffset != 0 {
		return fmt.Sprintf("gatewayOffset %d is not the address of another host in any of its networks", c.GatewayOffset)
	}
	return "the link has no default route in the main table, and neither gateway nor gatewayOffset is set"
}

// connected returns the networks on the link, except for the link-local one of every IPv6 link.
func connected(link gateway.Link) []netip.Prefix {
	var networks []netip.Prefix
	for _, a := range link.Addresses {
		if a.IsSingleIP() || a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() {
			continue
		}
		networks = append(networks, a.Masked())
	}
	for _, p := range link.Peers {
		if !p.Addr().IsLinkLocalUnicast() {
			networks = append(networks, p)
		}
	}
	slices.SortFunc(networks, comparePrefixes)
	return slices.Compact(networks)
}

// gateways returns at most one gateway per family: the configured one, the one at the offset, or that of the link's default
// route. For a family without a gateway it returns the best default route of the link.
func (u *uplinkSet) gateways(index int, c config.Uplink, link gateway.Link, connected []netip.Prefix) ([]netip.Addr, []gateway.DefaultRoute) {
	var found byFamily[netip.Addr]
	for _, g := range c.Gateways {
		found.add(g, g)
	}
	for _, network := range connected {
		if g := offset(network, c.GatewayOffset); g.IsValid() && !has(link, g) {
			found.add(g, g)
		}
	}
	var gateways []netip.Addr
	var defaults []gateway.DefaultRoute
	for _, v4 := range []bool{true, false} {
		of := found.v6
		if v4 {
			of = found.v4
		}
		best := slices.IndexFunc(u.host.DefaultRoutes, func(r gateway.DefaultRoute) bool {
			return r.Link == link.Name && r.IPv6 != v4 && c.GatewayOffset == 0
		})
		switch {
		case len(of) > 0:
			gateways = append(gateways, of[0])
		case best >= 0 && u.host.DefaultRoutes[best].Gateway.IsValid() && u.host.DefaultRoutes[best].Gateway.Is4() == v4:
			gateways = append(gateways, u.host.DefaultRoutes[best].Gateway)
		case best >= 0:
			defaults = append(defaults, u.host.DefaultRoutes[best])
		case needsGateway(link, v4):
			u.report(index, "gateway", finding.ReasonNoGateway, "no %s gateway for %s: %s; replies through it reach only its own networks",
				family(v4), link.Name, whyNoGateway(c))
		}
	}
	return gateways, defaults
}

// needsGateway reports whether the link has an address of the family that is reachable from outside its network.
func needsGateway(link gateway.Link, v4 bool) bool {
	return slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 && p.Addr().IsGlobalUnicast() })
}

// offset returns the n-th address of the network, or the zero Addr if that is no host of the network.
func offset(network netip.Prefix, n int) netip.Addr {
	if n == 0 {
		return netip.Addr{}
	}
	bytes := network.Addr().AsSlice()
	for i := len(bytes) - 1; i >= 0 && n > 0; i-- {
		n += int(bytes[i])
		bytes[i] = byte(n)
		n >>= 8
	}
	addr, _ := netip.AddrFromSlice(bytes)
	broadcast := addr.Is4() && network.Bits() < 31 && !network.Contains(addr.Next())
	if n > 0 || broadcast || !network.Contains(addr) {
		return netip.Addr{}
	}
	return addr
}

func has(link gateway.Link, addr netip.Addr) bool {
	return slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool { return p.Addr() == addr })
}
