// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Uplink is a link that the operator names. Gateway is invalid if the link's default route names it.
type Uplink struct {
	Link    string
	Gateway netip.Addr
}

// linkName is what a config takes for the name of a link and not for a pattern, see config.Uplink.
var linkName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,14}$`)

// ParseUplink reads NAME or NAME=GATEWAY.
func ParseUplink(text string) (Uplink, error) {
	name, gateway, found := strings.Cut(text, "=")
	u := Uplink{Link: name}
	if !linkName.MatchString(name) {
		return u, fmt.Errorf("%.100q does not begin with the name of a link: want NAME or NAME=GATEWAY, such as eth1=198.51.100.1", text)
	}
	if !found {
		return u, nil
	}
	var err error
	if u.Gateway, err = netip.ParseAddr(gateway); err != nil || u.Gateway.Zone() != "" {
		return u, fmt.Errorf("%.100q does not end with an address: want NAME or NAME=GATEWAY, such as eth1=198.51.100.1", text)
	}
	return u, nil
}

// Files are the paths of the credentials that a config names.
type Files struct{ Token, Authorities string }

// maxHops bounds the nodes that one route leads through: enough if several fail at once.
const maxHops = 8

// maxInside bounds insideNetworks that come from nodes.
const maxInside = 64

// Config returns the text of a config for the host, and notes about what it lacks. uplinks replaces the uplinks that are found
// by default routes.
func Config(b *Bundle, host gateway.Host, files Files, uplinks []Uplink) (text []byte, notes []string, err error) {
	p := plan{bundle: b, host: host}
	if err := p.findUplinks(uplinks); err != nil {
		return nil, nil, err
	}
	if b.Node == "" { // a node has its own ways to Services and pods, and smartnatd finds them
		p.findRoutes()
		p.findInside()
	}
	return p.write(files), p.notes, nil
}

// plan is what a config says about the networks.
type plan struct {
	bundle *Bundle
	host   gateway.Host

	uplinks  []Uplink
	services []gateway.ServiceRoute
	pods     []gateway.ServiceRoute
	inside   []netip.Prefix
	notes    []string
}

func (p *plan) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// findUplinks takes the links with a default route. If one of them leads to no node, those that do are not uplinks.
func (p *plan) findUplinks(named []Uplink) error {
	if len(named) > 0 {
		for _, u := range named {
			if !slices.ContainsFunc(p.host.Links, func(l gateway.Link) bool { return l.Name == u.Link }) {
				return fmt.Errorf("this host has no link %s: it has %s", u.Link, strings.Join(p.linkNames(), ", "))
			}
			if !u.Gateway.IsValid() && !p.hasDefault(u.Link) {
				return fmt.Errorf("the link %s has no default route: name its gateway, as in --uplink %s=198.51.100.1", u.Link, u.Link)
			}
		}
		p.uplinks = named
		return nil
	}
	var outside, both []Uplink
	for _, name := range p.linkNames() {
		switch {
		case !p.hasDefault(name):
		case p.leadsToNode(name):
			both = append(both, Uplink{Link: name})
		default:
			outside = append(outside, Uplink{Link: name})
		}
	}
	p.uplinks = outside
	if len(outside) == 0 {
		p.uplinks = both
	} else if len(both) > 0 {
		p.note("%s has a default route, but leads to nodes, so it is no uplink: name all uplinks by --uplink if it is one", both[0].Link)
	}
	if len(p.uplinks) == 0 {
		return fmt.Errorf("no link of this host has a default route: name the uplinks, as in --uplink eth1=198.51.100.1 (links: %s)", strings.Join(p.linkNames(), ", "))
	}
	for _, l := range p.host.Links {
		if address, found := public(l); found && !p.hasDefault(l.Name) && linkName.MatchString(l.Name) && !p.leadsToNode(l.Name) {
			p.note("%s holds %s but has no default route, so it is no uplink: if it is one, name all uplinks by --uplink, such as --uplink %s=GATEWAY", l.Name, address, l.Name)
		}
	}
	return nil
}

// linkNames returns the links except loopback whose names a config can hold.
func (p *plan) linkNames() []string {
	var names []string
	for _, l := range p.host.Links {
		if l.Name != "lo" && linkName.MatchString(l.Name) {
			names = append(names, l.Name)
		}
	}
	return names
}

func (p *plan) hasDefault(link string) bool {
	return slices.ContainsFunc(p.host.DefaultRoutes, func(r gateway.DefaultRoute) bool { return r.Link == link })
}

func (p *plan) isUplink(link string) bool {
	return slices.ContainsFunc(p.uplinks, func(u Uplink) bool { return u.Link == link })
}

// public returns an address of the link that is not of a private network (RFC 1918, RFC 4193, RFC 6598).
func public(l gateway.Link) (netip.Addr, bool) {
	shared := netip.MustParsePrefix("100.64.0.0/10")
	for _, a := range l.Addresses {
		if a.Addr().IsGlobalUnicast() && !a.Addr().IsPrivate() && !shared.Contains(a.Addr()) {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// leadsToNode reports whether the route to a node, other than a default route, uses the link.
func (p *plan) leadsToNode(link string) bool {
	for _, node := range p.bundle.Cluster.Nodes {
		for _, a := range node.Addresses {
			if r, found := p.route(a); found && r.Link == link {
				return true
			}
		}
	}
	return false
}

// route returns the host's route to an address, if it is not a default route.
func (p *plan) route(to netip.Addr) (best gateway.Route, found bool) {
	for _, r := range p.host.Routes {
		if !r.Destination.Contains(to) || found && r.Destination.Bits() < best.Destination.Bits() {
			continue
		}
		if !found || r.Destination.Bits() > best.Destination.Bits() || r.Metric < best.Metric {
			best, found = r, true
		}
	}
	return best, found
}

// neighbours returns the addresses of a node on links of this host, so that they can be next hops.
func (p *plan) neighbours(n Node, ipv6 bool) []netip.Addr {
	var found []netip.Addr
	for _, a := range n.Addresses {
		if r, known := p.route(a); known && !r.Gateway.IsValid() && a.Is6() == ipv6 {
			found = append(found, a)
		}
	}
	return found
}

// findRoutes leads the ranges of ClusterIPs and pods through nodes.
func (p *plan) findRoutes() {
	if len(p.bundle.Cluster.ServiceNetworks) == 0 {
		p.note("the bundle names no range of ClusterIPs: add serviceRoutes for mode service, or use mode endpoints")
	}
	for _, n := range p.bundle.Cluster.ServiceNetworks {
		var hops []netip.Addr
		for _, node := range p.bundle.Cluster.Nodes {
			hops = append(hops, p.neighbours(node, n.Addr().Is6())...)
		}
		slices.SortFunc(hops, netip.Addr.Compare)
		hops = slices.Compact(hops)
		switch {
		case len(hops) > 0:
			p.services = append(p.services, gateway.ServiceRoute{Destination: n, Via: hops[:min(len(hops), maxHops)]})
		case !p.routed(n):
			p.note("no node is a neighbour of this host, so the ClusterIPs %s need a route: ask the network for one, or use mode endpoints with routes to the pods", n)
		}
	}
	for _, node := range p.bundle.Cluster.Nodes {
		for _, n := range node.PodNetworks {
			if hops := p.neighbours(node, n.Addr().Is6()); len(hops) > 0 && !p.routed(n) {
				p.pods = append(p.pods, gateway.ServiceRoute{Destination: n, Via: hops[:1]})
			}
		}
	}
}

// routed reports whether the host has a route to the whole network, other than a default route.
func (p *plan) routed(n netip.Prefix) bool {
	r, found := p.route(n.Addr())
	return found && r.Destination.Bits() <= n.Bits()
}

// findInside lists the networks of pods if nodes are behind an uplink, as on a host with one link.
func (p *plan) findInside() {
	for _, node := range p.bundle.Cluster.Nodes {
		for _, a := range node.Addresses {
			r, found := p.route(a)
			if found && !p.isUplink(r.Link) {
				continue
			}
			for _, n := range node.PodNetworks {
				if n.Addr().Is6() == a.Is6() && !slices.Contains(p.inside, n) {
					p.inside = append(p.inside, n)
				}
			}
		}
	}
	slices.SortFunc(p.inside, netip.Prefix.Compare)
	switch {
	case len(p.inside) > maxInside:
		p.note("the nodes have %d networks of pods: set insideNetworks to one that contains them, for mode endpoints and egress", len(p.inside))
		p.inside = nil
	case len(p.inside) > 0:
		p.note("nodes are behind an uplink: insideNetworks lists the pods of today's nodes; add those of new ones, or write the range that contains them")
	}
}

// write returns the YAML. Each text in it is quoted or of a restricted alphabet.
func (p *plan) write(files Files) []byte {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by smartnatd enroll for the gateway %s. All keys: man smartnat.yaml", p.bundle.Gateway)
	line("# After a change: smartnatd check && systemctl reload smartnatd\n")
	line("instance: %s", quote(p.bundle.Gateway))
	if p.bundle.Node != "" {
		line("node: %s", quote(p.bundle.Node))
	}
	line("source:\n  relay:\n    servers: %s", quote(p.bundle.Relay.Servers))
	line("    serverName: %s", quote(p.bundle.Relay.ServerName))
	line("    caFile: %s\n    tokenFile: %s", quote(files.Authorities), quote(files.Token))
	line("\n# Links to the outside. Without a gateway, the next hop is that of the link's default route.\nuplinks:")
	for _, u := range p.uplinks {
		if u.Gateway.IsValid() {
			line("- {interface: %s, gateway: %s}", quote(u.Link), quote(u.Gateway))
		} else {
			line("- {interface: %s}", quote(u.Link))
		}
	}
	if len(p.inside) > 0 {
		line("\n# The pods behind an uplink, for mode endpoints and egress.\ninsideNetworks: %s", quote(p.inside))
	}
	if len(p.services) > 0 {
		line("\n# The range of ClusterIPs, through nodes.\nserviceRoutes:")
	}
	for _, r := range p.services {
		line("- {destination: %s, via: %s}", quote(r.Destination), quote(r.Via))
	}
	if len(p.pods) > 0 {
		line("\n# For mode endpoints: serviceRoutes to the pods of the nodes at the time of the enrollment. Nodes come and go, so another way to")
		line("# route to pods (BGP, routes of the cloud) is better.")
	}
	if len(p.pods) > 0 && len(p.services) == 0 {
		line("#serviceRoutes:")
	}
	for _, r := range p.pods {
		line("#- {destination: %s, via: %s}", quote(r.Destination), quote(r.Via))
	}
	return []byte(b.String())
}

// quote returns a value as JSON, which is YAML too.
func quote(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return `""` // texts, addresses and lists of them can be encoded
	}
	return strings.ReplaceAll(string(text), `","`, `", "`)
}
