// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package policyrouting

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// MainTable is the kernel's main routing table (RT_TABLE_MAIN).
const MainTable = 254

// Rule sends packets with a mark to a routing table. It is comparable.
type Rule struct {
	IPv6     bool
	Priority int
	Mark     gateway.Mark
	Table    int
	// NoDefault makes the rule ignore default routes of the table.
	NoDefault bool
	// Protocol is the owner (rtnetlink(7), rtm_protocol).
	Protocol int
}

// String returns the command that adds the rule.
func (r Rule) String() string { return r.command("add") }

func (r Rule) command(verb string) string {
	suppress := ""
	if r.NoDefault {
		suppress = " suppress_prefixlength 0"
	}
	return fmt.Sprintf("%s rule %s priority %d fwmark %#x/%#x lookup %d%s protocol %d",
		ip(r.IPv6), verb, r.Priority, r.Mark.Value, r.Mark.Mask, r.Table, suppress, r.Protocol)
}

func (r Rule) compare(o Rule) int {
	return cmp.Or(
		compareBool(r.IPv6, o.IPv6),
		cmp.Compare(r.Priority, o.Priority),
		cmp.Compare(r.Table, o.Table),
		cmp.Compare(r.Mark.Value, o.Mark.Value),
		cmp.Compare(r.Mark.Mask, o.Mark.Mask),
		compareBool(r.NoDefault, o.NoDefault),
		cmp.Compare(r.Protocol, o.Protocol),
	)
}

// Route sends traffic for a network to a link or to next hops.
type Route struct {
	Table       int
	Destination netip.Prefix
	// Metric is the route's metric; 0 selects the kernel's default of the family.
	Metric int
	// Link is the name of the link, or "" if the kernel derives it from the gateways.
	Link string
	// Gateways are sorted and share the flows. If there are none, the network is on the link itself. A single gateway may
	// have an IPv6 address for an IPv4 network.
	Gateways []netip.Addr
	// OnLink declares the gateways reachable on the link although no network of the link contains them.
	OnLink bool
	// Protocol is the owner (rtnetlink(7), rtm_protocol).
	Protocol int
}

// Equal reports whether r and o are the same route.
func (r Route) Equal(o Route) bool { return r.compare(o) == 0 }

// String returns the command that adds the route.
func (r Route) String() string { return r.command("add") }

func (r Route) command(verb string) string {
	var b strings.Builder
	program, via := ip(r.Destination.Addr().Is6()), "via"
	if len(r.Gateways) == 1 && r.Gateways[0].Is6() && r.Destination.Addr().Is4() {
		program, via = "ip -4", "via inet6" // otherwise ip(8) derives the family from the next hop
	}
	fmt.Fprintf(&b, "%s route %s %s", program, verb, destination(r.Destination))
	if len(r.Gateways) == 1 {
		fmt.Fprintf(&b, " %s %s", via, r.Gateways[0])
	}
	if r.Link != "" && len(r.Gateways) < 2 {
		fmt.Fprintf(&b, " dev %s", r.Link)
	}
	if r.Table != MainTable {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	fmt.Fprintf(&b, " proto %d", r.Protocol)
	if r.onTheLink() && r.Destination.Addr().Is4() {
		b.WriteString(" scope link")
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if len(r.Gateways) > 1 {
		for _, gw := range r.Gateways {
			fmt.Fprintf(&b, " nexthop via %s", gw)
			if r.Link != "" {
				fmt.Fprintf(&b, " dev %s", r.Link)
			}
			if r.OnLink {
				b.WriteString(" onlink")
			}
		}
	} else if r.OnLink {
		b.WriteString(" onlink")
	}
	return b.String()
}

func (r Route) onTheLink() bool { return len(r.Gateways) == 0 }

// compare orders routes so that they can be added: the network of a gateway comes before routes through the gateway.
func (r Route) compare(o Route) int {
	return cmp.Or(
		r.key().compare(o.key()),
		cmp.Compare(r.Link, o.Link),
		slices.CompareFunc(r.Gateways, o.Gateways, netip.Addr.Compare),
		compareBool(r.OnLink, o.OnLink),
		cmp.Compare(r.Protocol, o.Protocol),
	)
}

// key identifies a route in the kernel: a route with the same key can only replace it.
type key struct {
	table       int
	destination netip.Prefix
	metric      int
}

func (r Route) key() key { return key{r.Table, r.Destination, r.Metric} }

func (k key) compare(o key) int {
	return cmp.Or(
		cmp.Compare(k.table, o.table),
		compareBool(k.destination.Addr().Is6(), o.destination.Addr().Is6()),
		cmp.Compare(o.destination.Bits(), k.destination.Bits()),
		k.destination.Addr().Compare(o.destination.Addr()),
		cmp.Compare(k.metric, o.metric),
	)
}

// Set holds our routes and rules, both sorted in an order in which they can be added.
type Set struct {
	Rules  []Rule
	Routes []Route
}

// Sort sorts rules and routes.
func (s *Set) Sort() {
	slices.SortFunc(s.Rules, Rule.compare)
	slices.SortFunc(s.Routes, Route.compare)
}

// Commands returns the iproute2 commands that create the set, in execution order.
func (s Set) Commands() []string { return Diff(Set{}, s).Commands() }

func ip(v6 bool) string {
	if v6 {
		return "ip -6"
	}
	return "ip"
}

func destination(p netip.Prefix) string {
	switch {
	case p.Bits() == 0:
		return "default"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
