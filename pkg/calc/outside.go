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

// linkDepth bounds how many stacked links are followed.
const linkDepth = 8

func linkNamed(host gateway.Host, name string) (gateway.Link, bool) {
	i := slices.IndexFunc(host.Links, func(l gateway.Link) bool { return l.Name == name })
	if i < 0 {
		return gateway.Link{}, false
	}
	return host.Links[i], true
}

// masterOf returns the topmost bridge or bond that a link is a port of, or the link itself: packets come in by that one. A VRF
// does not count, because packets come in by its ports.
func masterOf(host gateway.Host, name string) string {
	for range linkDepth {
		link, _ := linkNamed(host, name)
		master, found := linkNamed(host, link.Master)
		if !found || master.Kind == "vrf" {
			break
		}
		name = master.Name
	}
	return name
}

// boundary sets the links of the State that are outside, in addition to uplinks, and those that are known to be inside:
//   - a port of a bridge or bond, its master, and links stacked on an uplink are outside like the uplink;
//   - if the config has no uplinks, the links of the default routes are outside;
//   - if only smartnatd makes the host forward, any link that is not known to be inside is outside.
func boundary(state *gateway.State, host gateway.Host, cfg config.Config) []finding.Finding {
	var findings []finding.Finding
	uplinks := map[string]bool{}
	for _, u := range state.Uplinks {
		uplinks[u.Link] = true
	}
	outside := map[string]bool{}
	add := func(name, format string, args ...any) {
		if name == "" || name == "lo" || uplinks[name] || outside[name] {
			return
		}
		outside[name] = true
		findings = append(findings, finding.Finding{Reason: finding.ReasonLinkOutside, Field: "uplinks", Message: fmt.Sprintf(format, args...)})
	}
	inside := insideLinks(host, cfg)
	for _, l := range host.Links {
		if parent := parentIn(host, l, uplinks); parent != "" && !slices.Contains(inside, l.Name) {
			add(l.Name, "%s is stacked on the uplink %s, so it counts as outside: packets from it are forwarded for Mappings only", l.Name, parent)
		}
		if master, found := linkNamed(host, l.Master); found && uplinks[l.Name] && master.Kind == "vrf" {
			add(master.Name, "%s is the VRF of the uplink %s, so it counts as outside", master.Name, l.Name)
		}
	}
	if len(cfg.Uplinks) == 0 && !cfg.AnyAddress {
		for _, r := range host.DefaultRoutes {
			add(r.Link, "no uplinks are configured: %s has a default route, so it counts as outside, and packets from it are forwarded for Mappings only", r.Link)
		}
	}
	// A boundary that was set up before a link became a port must stay. The finding names the uplink.
	for _, l := range host.Links {
		if master := masterOf(host, l.Name); master != l.Name && uplinks[master] && named(cfg, l.Name) {
			outside[l.Name] = true
		}
	}
	if host.BridgeNetfilter != (gateway.Families{}) && !host.Physdev {
		findings = append(findings, finding.Finding{Reason: finding.ReasonSwitchedFrames, Field: "uplinks", Message: "the kernel passes frames that " +
			"bridges switch through netfilter, but lacks xt_physdev (with nftables: tables of the bridge family) to tell them from routed packets: " +
			"set net.bridge.bridge-nf-call-iptables to 0, or install what is missing"})
	}
	state.Outside, state.InsideLinks = nil, nil
	for _, l := range host.Links {
		if outside[l.Name] {
			state.Outside = append(state.Outside, l.Name)
		} else if slices.Contains(inside, l.Name) && !uplinks[l.Name] {
			state.InsideLinks = append(state.InsideLinks, l.Name)
		}
	}
	slices.Sort(state.Outside)
	slices.Sort(state.InsideLinks)
	state.ForwardingOwned, state.BridgeNetfilter = host.ForwardingOwned, gateway.Families{}
	if host.Physdev {
		state.BridgeNetfilter = host.BridgeNetfilter
	}
	return findings
}

// droppingChains reports chains of other programs that drop what is forwarded for Mappings. Mappings with egress report those that drop
// only connections that pods open.
func droppingChains(host gateway.Host, cfg config.Config) []finding.Finding {
	var findings []finding.Finding
	for _, c := range host.Others.Chains.Dropping {
		if !c.EgressOnly {
			findings = append(findings, finding.Finding{Reason: finding.ReasonForwardingDropped, Field: "dataplane", Message: fmt.Sprintf(
				"%s drops what is forwarded for Mappings unless one of its rules accepts it, as an accept of ours does not count there: %s",
				c, c.Remedy(cfg.Ownership))})
		}
	}
	return findings
}

// ownPrefixes returns the links to the outside that have an IPv6 network although they never had an address from a router
// advertisement. A link without either may be waiting for its first advertisement, and a flapping link for the next.
func (c *Calculator) ownPrefixes(host gateway.Host) []string {
	var links []string
	for _, l := range host.Links {
		if l.Autoconfigured {
			c.autoconfigured[l.Name] = true
		}
		outside := slices.Contains(c.state.Outside, l.Name) ||
			slices.ContainsFunc(c.state.Uplinks, func(u gateway.Uplink) bool { return u.Link == l.Name })
		if outside && !c.autoconfigured[l.Name] && slices.ContainsFunc(connected(l), func(p netip.Prefix) bool { return p.Addr().Is6() }) {
			links = append(links, l.Name)
		}
	}
	slices.Sort(links)
	return links
}

// named reports whether the config names the link, possibly by a pattern.
func named(cfg config.Config, link string) bool {
	return slices.ContainsFunc(cfg.Uplinks, func(c config.Uplink) bool {
		pattern, err := c.Pattern()
		return err == nil && (pattern == nil && c.Interface == link || pattern != nil && pattern(link))
	})
}

// parentIn returns which of the links this one is stacked on, or "".
func parentIn(host gateway.Host, link gateway.Link, links map[string]bool) string {
	for range linkDepth {
		parent, found := linkNamed(host, link.Parent)
		if !found {
			return ""
		}
		if links[parent.Name] {
			return parent.Name
		}
		link = parent
	}
	return ""
}

// insideLinks returns the links that are known to be inside: links to the next hops of serviceRoutes, and bridges without a
// network card, which connect containers and virtual machines of this host.
func insideLinks(host gateway.Host, cfg config.Config) []string {
	var names []string
	for _, l := range host.Links {
		if slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return leadsToHops(p, cfg) }) || forGuests(host, l) {
			names = append(names, l.Name)
		}
	}
	return names
}

func leadsToHops(network netip.Prefix, cfg config.Config) bool {
	return !network.IsSingleIP() && slices.ContainsFunc(cfg.ServiceRoutes, func(r gateway.ServiceRoute) bool {
		return slices.ContainsFunc(r.Via, func(hop netip.Addr) bool { return network.Masked().Contains(hop) })
	})
}

func forGuests(host gateway.Host, bridge gateway.Link) bool {
	if bridge.Kind != "bridge" || slices.ContainsFunc(host.DefaultRoutes, func(r gateway.DefaultRoute) bool { return r.Link == bridge.Name }) {
		return false
	}
	return !slices.ContainsFunc(host.Links, func(l gateway.Link) bool {
		return l.Master == bridge.Name && l.Kind != "veth" && l.Kind != "tuntap" && l.Kind != "tun"
	})
}
