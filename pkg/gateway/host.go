// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Host is the observed state of the host, without any decisions.
type Host struct {
	// Links are sorted by name.
	Links []Link
	// DefaultRoutes are the default routes of the main table, best metric first.
	DefaultRoutes []DefaultRoute
	// Unreachable are next hops that were asked and did not answer. They are sorted.
	Unreachable []netip.Addr
	// SCTP is set if the kernel can match and translate SCTP.
	SCTP bool
	// ForwardingOwned are the families for which smartnatd enabled forwarding, or will: no other program did.
	ForwardingOwned Families
	// BridgeNetfilter are the families for which netfilter also sees frames that bridges switch (bridge-nf-call-iptables).
	BridgeNetfilter Families
	// Physdev is set if rules can distinguish such frames from routed packets.
	Physdev bool
	// Flowtable is set if established connections can bypass the rules, and the config permits it.
	Flowtable bool
	// HelpersWithoutNAT are the helpers of the config whose module for NAT is not loaded, sorted.
	HelpersWithoutNAT []string
	// Routes are the routes of the main table except default routes, sorted by destination, link and gateway. Links with more
	// than a few thousand routes are truncated.
	Routes []Route
	// Listeners are the sockets of programs on the host that accept connections or datagrams from any client. They are sorted
	// and unique.
	Listeners []Listener
	// Others is what the rules of other programs say.
	Others OtherRules
}

// OtherRules is what the rules of other programs in the kernel say about a host.
type OtherRules struct {
	// ServiceProxy is the program that translates ClusterIPs on this host, or "". Only a node has one.
	ServiceProxy string
	// Claims are the ports that such rules lead elsewhere, sorted and unique.
	Claims []Claim
	// Chains are their base chains that affect connections of Mappings.
	Chains OtherChains
}

// OtherChains are base chains of other programs, in the kernel's order.
type OtherChains struct {
	// Dropping are those that drop connections of Mappings.
	Dropping []BaseChain
	// Queuing are those of a rule that hands forwarded packets to a program, such as an intrusion prevention system.
	Queuing []BaseChain
}

// Equal reports whether both are the same.
func (o OtherRules) Equal(other OtherRules) bool {
	return o.ServiceProxy == other.ServiceProxy && slices.Equal(o.Claims, other.Claims) &&
		slices.Equal(o.Chains.Dropping, other.Chains.Dropping) && slices.Equal(o.Chains.Queuing, other.Chains.Queuing)
}

// ForbidsFlowtable reports whether a program would miss packets that bypass the rules, and why, for people.
func (c OtherChains) ForbidsFlowtable() (why string, forbids bool) {
	if len(c.Queuing) == 0 {
		return "", false
	}
	return fmt.Sprintf("%s hands packets to a program (queue), which would miss those of established connections", c.Queuing[0]), true
}

// Claim is a range of ports that rules of another program take.
type Claim struct {
	Protocol Protocol
	// Address is the external address; an unspecified one means all of its family.
	Address netip.Addr
	Ports   PortRange
	// Kind is "NodePort" or "hostPort".
	Kind string
}

// Compare orders Claims as in OtherRules.
func (c Claim) Compare(o Claim) int {
	return cmp.Or(strings.Compare(string(c.Protocol), string(o.Protocol)), cmp.Compare(c.Ports.First, o.Ports.First),
		cmp.Compare(c.Ports.Last, o.Ports.Last), c.Address.Compare(o.Address), strings.Compare(c.Kind, o.Kind))
}

// Route is a route of the host's main routing table.
type Route struct {
	// Destination is masked and not a default route.
	Destination netip.Prefix
	Link        string
	// Gateway is invalid if the destination is on the link itself.
	Gateway netip.Addr
	// Metric decides between routes to the same destination: the lowest wins.
	Metric int
	// Announced is set if a neighbour on the link announced the route: by DHCP, a router advertisement or a redirect.
	Announced bool
}

// Listener is a socket that receives traffic for a port.
type Listener struct {
	Protocol Protocol
	// Address is the bound address; an unspecified one means all of its family. A socket for both families is two Listeners.
	Address netip.Addr
	Port    uint16
	// Link is the link that the socket is bound to, or "" for all links.
	Link string
}

// Compare orders Listeners as in a Host.
func (l Listener) Compare(o Listener) int {
	return cmp.Or(strings.Compare(string(l.Protocol), string(o.Protocol)), cmp.Compare(l.Port, o.Port),
		l.Address.Compare(o.Address), strings.Compare(l.Link, o.Link))
}

// String returns "0.0.0.0:22/tcp", or "[::]:546%eth0/udp" for a socket bound to a link.
func (l Listener) String() string {
	text := netip.AddrPortFrom(l.Address, l.Port).String()
	if l.Link != "" {
		text += "%" + l.Link
	}
	return text + "/" + string(l.Protocol)
}

// Link is a network interface of the host.
type Link struct {
	Name string
	// Index is the kernel's number of the link. A link that is made again has another one.
	Index int
	// Up is set if the link is administratively up and has a carrier.
	Up bool
	// Kind is the type of the link (ip-link(8)), such as "bridge", "vlan" or "veth". It is empty or "device" for a network
	// card.
	Kind string
	// Master is the bridge, bond or VRF that the link belongs to.
	Master string
	// Parent is the link that this one is stacked on, such as the link of a VLAN.
	Parent string
	// Addresses are the host's addresses on the link with their prefix length, unmasked and sorted.
	Addresses []netip.Prefix
	// Autoconfigured means that one of the addresses comes from a router advertisement (SLAAC, RFC 4862).
	Autoconfigured bool
	// Temporary lists those of Addresses that the kernel makes for its own connections and replaces (RFC 8981), sorted.
	Temporary []netip.Addr
	// Dormant lists other Addresses that new connections must not use, tentative and deprecated ones (RFC 4862), sorted.
	Dormant []netip.Addr
	// Peers are the remote addresses of point-to-point links, or their networks, masked and sorted.
	Peers []netip.Prefix
}

// DefaultRoute is a default route of the host's main routing table.
type DefaultRoute struct {
	Link string
	// Gateway is the next hop. It is invalid if all destinations are on the link itself, as with PPP and WireGuard. It may be
	// an IPv6 address for an IPv4 route (RFC 8950; RTA_VIA, rtnetlink(7)).
	Gateway netip.Addr
	// IPv6 is the family of the route.
	IPv6 bool
}
