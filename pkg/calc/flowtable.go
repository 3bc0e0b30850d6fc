// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// maxFlowLinks is less than the number of links that a flowtable can have (NFT_NETDEVICE_MAX in net/netfilter/nf_tables.h).
const maxFlowLinks = 200

// flowtable returns what established connections may bypass. Its links are those that route: uplinks, and all with an address.
// Ports of a bridge or bond do not route: with them in a flowtable, the kernel would send past the bridge to a hardware address
// that it remembers (nft_dev_path_info in net/netfilter/nft_flow_offload.c). Pods of the host itself have links without addresses,
// which come and go with each pod.
func flowtable(state *gateway.State, host gateway.Host) gateway.Flowtable {
	if _, forbids := host.Others.Chains.ForbidsFlowtable(); forbids || !host.Flowtable {
		return gateway.Flowtable{}
	}
	var links []gateway.FlowLink
	for _, uplinks := range []bool{true, false} {
		for _, l := range host.Links {
			isUplink := slices.ContainsFunc(state.Uplinks, func(u gateway.Uplink) bool { return u.Link == l.Name })
			routes := l.Name != "lo" && masterOf(host, l.Name) == l.Name && (isUplink || hasAddress(l))
			if routes && isUplink == uplinks && len(links) < maxFlowLinks {
				links = append(links, gateway.FlowLink{Name: l.Name, Index: l.Index})
			}
		}
	}
	if len(links) == 0 {
		return gateway.Flowtable{}
	}
	slices.SortFunc(links, func(a, b gateway.FlowLink) int { return strings.Compare(a.Name, b.Name) })
	return gateway.Flowtable{Families: gateway.Families{IPv4: !viaIPv6(host), IPv6: true}, Links: links}
}

// noFlowtable reports that established connections meet all rules because of another program, although kernel and config permit a
// flowtable.
func noFlowtable(host gateway.Host) []finding.Finding {
	why, forbids := host.Others.Chains.ForbidsFlowtable()
	if !forbids || !host.Flowtable {
		return nil
	}
	return []finding.Finding{{Reason: finding.ReasonPacketsQueued, Field: "flowtable", Message: "off: " + why}}
}

func hasAddress(l gateway.Link) bool {
	return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() })
}

// viaIPv6 reports whether an IPv4 route has an IPv6 next hop (RFC 8950). A flowtable would ask the link for the destination
// itself instead (rt_nexthop in include/net/route.h).
func viaIPv6(host gateway.Host) bool {
	via := func(ipv6 bool, hop netip.Addr) bool { return !ipv6 && hop.Is6() }
	return slices.ContainsFunc(host.DefaultRoutes, func(r gateway.DefaultRoute) bool { return via(r.IPv6, r.Gateway) }) ||
		slices.ContainsFunc(host.Routes, func(r gateway.Route) bool { return via(r.Destination.Addr().Is6(), r.Gateway) })
}
