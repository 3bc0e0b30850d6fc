// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// networks decides which addresses may be the destination of connections. EndpointSlices and Services cannot be trusted:
// tenants may have written them.
type networks struct {
	// any is set if there is no real host.
	any bool
	// own are the host's addresses, hops the next hops of its routes: nodes of the cluster and routers of providers.
	own, hops map[netip.Addr]bool
	// connected are the networks on the host's links, sorted.
	connected []network
	// takenOutside is set if the config has no uplinks and the links of default routes count as uplinks.
	takenOutside bool
	// listed are the config's backendNetworks, inside its insideNetworks or what a node finds in their place, routed the
	// destinations of its serviceRoutes.
	listed, inside, routed []netip.Prefix
	// links are the links of routes by destination; lengths are the prefix lengths of the destinations, longest first.
	links   map[netip.Prefix]link
	lengths byFamily[int]
	// defaults are the links of the default routes.
	defaults byFamily[link]
}

type network struct {
	netip.Prefix
	link string
}

type link struct {
	name   string
	uplink bool
	// instead is the uplink that packets leave by although this link leads inside: its route has the better metric.
	instead string
	// gone is set if the route no longer exists.
	gone bool
}

// maxRemembered bounds how many former routes and next hops are remembered.
const maxRemembered = 32768

// newNetworks returns the networks of a host. Former inside routes and next hops still count: a flapping link or a restarted
// routing daemon must not break connections. That is safe, because the boundary never lets these packets out by an uplink.
func newNetworks(host gateway.Host, cfg config.Config, uplinks []gateway.Uplink, outside []string, inside []netip.Prefix, before *networks) *networks {
	n := &networks{
		any: cfg.AnyAddress, own: map[netip.Addr]bool{}, hops: map[netip.Addr]bool{},
		listed: cfg.BackendNetworks, inside: inside, links: map[netip.Prefix]link{},
	}
	isUplink := map[string]bool{}
	for _, u := range uplinks {
		isUplink[u.Link] = true
		n.hop(u.Gateways...)
	}
	if len(uplinks) == 0 {
		for _, name := range outside {
			isUplink[name] = true
		}
		n.takenOutside = len(outside) > 0
	}
	metrics := map[netip.Prefix]int{} // of the best route inside
	for _, a := range slices.Concat(cfg.StandbyAddresses, cfg.ServedAddresses, cfg.MasqueradeAddresses) {
		n.own[a] = true
	}
	for _, l := range host.Links {
		for _, a := range l.Addresses {
			n.own[a.Addr()] = true
		}
		for _, to := range connected(l) {
			n.connected = append(n.connected, network{to, l.Name})
			n.route(to, link{name: l.Name, uplink: isUplink[l.Name]})
		}
	}
	for _, r := range host.Routes {
		n.hop(r.Gateway)
		n.route(r.Destination, link{name: r.Link, uplink: isUplink[r.Link]})
		if best, known := metrics[r.Destination]; !isUplink[r.Link] && (!known || r.Metric < best) {
			metrics[r.Destination] = r.Metric
		}
	}
	for _, r := range host.Routes {
		if best, known := metrics[r.Destination]; known && isUplink[r.Link] && r.Metric < best {
			by := n.links[r.Destination]
			by.instead = r.Link
			n.links[r.Destination] = by
		}
	}
	for _, r := range host.DefaultRoutes {
		n.hop(r.Gateway)
		n.defaults.add(unspecified(r.IPv6), link{name: r.Link, uplink: isUplink[r.Link]})
	}
	for _, r := range cfg.ServiceRoutes {
		n.hop(r.Via...)
		n.routed = append(n.routed, r.Destination)
	}
	n.remember(before, isUplink)
	slices.SortFunc(n.connected, func(a, b network) int {
		return cmp.Or(comparePrefixes(a.Prefix, b.Prefix), strings.Compare(a.link, b.link))
	})
	n.sortLengths()
	n.prune()
	return n
}

func unspecified(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func (n *networks) hop(addrs ...netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() {
			n.hops[a] = true
		}
	}
}

// route records the link for a network. If there are several, one that is no uplink wins.
func (n *networks) route(to netip.Prefix, by link) {
	if before, known := n.links[to]; !known || before.uplink && !by.uplink {
		n.links[to] = by
	}
}

func (n *networks) remember(before *networks, isUplink map[string]bool) {
	if before == nil || len(before.links)+len(before.hops) > maxRemembered {
		return
	}
	for hop := range before.hops {
		n.hops[hop] = true
	}
	for to, by := range before.links {
		if _, known := n.links[to]; !known && !by.uplink {
			n.links[to] = link{name: by.name, uplink: isUplink[by.name], gone: true}
		}
	}
}

func (n *networks) sortLengths() {
	for to := range n.links {
		n.lengths.add(to.Addr(), to.Bits())
	}
	for _, list := range []*[]int{&n.lengths.v4, &n.lengths.v6} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
		slices.Reverse(*list)
	}
}

// prune forgets routes by uplinks that change no decision: routes to the rest of the Internet, which change every second.
func (n *networks) prune() {
	for to, by := range n.links {
		if by.uplink && !isPrivate(to.Addr()) && !n.withinInside(to) {
			delete(n.links, to)
		}
	}
}

func (n *networks) withinInside(to netip.Prefix) bool {
	for _, bits := range n.lengths.of(to.Addr()) {
		if bits >= to.Bits() {
			continue
		}
		wider, err := to.Addr().Prefix(bits)
		if by, found := n.links[wider]; err == nil && found && !by.uplink {
			return true
		}
	}
	return false
}

func (n *networks) equal(o *networks) bool {
	return o != nil && maps.Equal(n.own, o.own) && maps.Equal(n.hops, o.hops) && slices.Equal(n.connected, o.connected) && slices.Equal(n.inside, o.inside) &&
		maps.Equal(n.links, o.links) && slices.Equal(n.defaults.v4, o.defaults.v4) && slices.Equal(n.defaults.v6, o.defaults.v6)
}

// problem returns why connections must not be led to an address, or "".
func (n *networks) problem(a netip.Addr) string {
	switch {
	case isSpecial(a):
		return "not an address of pods or Services"
	case n.any:
		return ""
	case n.own[a]:
		return "an address of this host"
	case n.isBroadcast(a):
		return "a broadcast address of a network of this host"
	case n.isAnycast(a):
		return "the subnet-router anycast address of a network of this host"
	case n.hops[a] && !slices.Contains(n.listed, netip.PrefixFrom(a, a.BitLen())):
		return "a next hop of this host's routes, so a node or router; to allow one, add the address itself to backendNetworks in the gateway's config"
	case contains(n.listed, a), contains(n.routed, a):
		return ""
	case len(n.listed) == 0 && contains(n.inside, a) && !n.isNeighbour(a):
		return ""
	case len(n.listed) > 0:
		return "not in backendNetworks in the gateway's config"
	}
	return n.routeProblem(a)
}

// routeProblem returns why the route to an address does not lead inside, or "".
func (n *networks) routeProblem(a netip.Addr) string {
	const remedy = "; if the cluster uses such addresses, add their network to backendNetworks or serviceRoutes in the gateway's config"
	for _, bits := range n.lengths.of(a) {
		to, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if by, found := n.links[to]; found && by.uplink {
			return fmt.Sprintf("routed through %s%s", n.called(by.name), remedy)
		} else if found {
			return ""
		}
	}
	switch by := n.defaults.of(a); {
	case len(by) == 0:
		return "no route from this host" + remedy
	case by[0].uplink:
		return fmt.Sprintf("routed through %s%s", n.called(by[0].name), remedy)
	case !isPrivate(a):
		return "only a default route leads there" + remedy
	}
	return ""
}

// called describes an uplink in a message.
func (n *networks) called(uplink string) string {
	if n.takenOutside {
		return uplink + ", which has a default route and counts as outside, because the gateway's config has no uplinks"
	}
	return "uplink " + uplink
}

// outside returns the uplink by which packets for an address currently leave, and the route. It returns nothing if they stay
// inside, or if the config lists the network and no route leads inside.
func (n *networks) outside(a netip.Addr) (uplink string, route netip.Prefix) {
	inside := false
	for _, bits := range n.lengths.of(a) {
		to, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		by, found := n.links[to]
		if !found {
			continue
		}
		switch {
		case uplink != "" || by.gone: // the rest only matters for whether a route leads inside
		case by.uplink:
			uplink, route = by.name, to
		case by.instead != "":
			uplink, route = by.instead, to
		default:
			return "", netip.Prefix{}
		}
		inside = inside || !by.uplink
	}
	if by := n.defaults.of(a); uplink == "" && len(by) > 0 && by[0].uplink {
		uplink, route = by[0].name, netip.PrefixFrom(unspecified(a.Is6()), 0)
	}
	if n.any || !inside && (contains(n.listed, a) || contains(n.inside, a) || contains(n.routed, a)) {
		return "", netip.Prefix{}
	}
	return uplink, route
}

// outsideProblem returns a message if packets for an address currently leave by an uplink, with a remedy; otherwise "".
func (n *networks) outsideProblem(a netip.Addr) string {
	uplink, route := n.outside(a)
	if uplink == "" {
		return ""
	}
	text := fmt.Sprintf("routed out of %s by route %s, so connections fail; remove that route, or restore the one that leads inside", n.called(uplink), route)
	if a.Is6() && route.Bits() > 0 {
		text += fmt.Sprintf("; if a router advertisement brought it, set net.ipv6.conf.%s.accept_ra_pinfo=0, or UseOnLinkPrefix=no in systemd-networkd's section [IPv6AcceptRA]", uplink)
	}
	return text
}

// podProblem returns why an address cannot be a pod's that leaves by this host, or "". An address in a network of the host is
// no pod, unless the config says that pods are there. A node never is.
func (n *networks) podProblem(a netip.Addr) string {
	switch problem := n.problem(a); {
	case problem != "" || n.any:
		return problem
	case n.hops[a]:
		return "a next hop of this host's routes, so a node or router"
	case contains(n.listed, a):
		return ""
	}
	for _, of := range n.connected {
		if of.Contains(a) {
			return fmt.Sprintf("in network %s of this host's link %s; if that network has pods, add it to backendNetworks in the gateway's config", of.Prefix, of.link)
		}
	}
	return ""
}

// isNeighbour reports whether the address is in a network of the host, as nodes are.
func (n *networks) isNeighbour(a netip.Addr) bool {
	return slices.ContainsFunc(n.connected, func(of network) bool { return of.Contains(a) })
}

// isBroadcast includes the first address of a network, as in BSD and some kernels (RFC 1122, 3.3.6).
func (n *networks) isBroadcast(a netip.Addr) bool {
	for _, of := range n.connected {
		if a.Is4() && of.Bits() < 31 && of.Contains(a) && (of.Addr() == a || !of.Contains(a.Next())) {
			return true
		}
	}
	return false
}

// isAnycast reports whether the address is the first one of a network: all routers there answer for it, including this host
// (RFC 4291, 2.6.1; not for /127, RFC 6164).
func (n *networks) isAnycast(a netip.Addr) bool {
	return a.Is6() && slices.ContainsFunc(n.connected, func(of network) bool { return of.Bits() < 127 && of.Addr() == a })
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isPrivate reports whether the address is in RFC 1918, RFC 4193 or RFC 6598: networks that a default route to the inside may
// lead to.
func isPrivate(a netip.Addr) bool {
	return a.IsPrivate() || netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10).Contains(a)
}

// isSpecial reports whether the address cannot be that of a pod or Service, regardless of routes: 0.0.0.0/8 and 240.0.0.0/4
// (RFC 6890), and addresses where clouds serve the credentials of a machine.
func isSpecial(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return true
	}
	switch a.String() {
	case "168.63.129.16", // Azure
		"100.100.100.200",    // Alibaba Cloud
		"192.0.0.192",        // Oracle Cloud
		"fd00:ec2::254",      // AWS
		"fd20:ce::254",       // Google Cloud
		"fd00:c1::a9fe:a9fe": // Oracle Cloud
		return true
	}
	return false
}
