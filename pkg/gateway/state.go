// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Protocol is a transport protocol, in lower case.
type Protocol string

// The protocols that can be exposed.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// PortRange is a range of ports, both ends included. A single port has First == Last.
type PortRange struct {
	First, Last uint16
}

// Port returns the range that holds just one port.
func Port(p uint16) PortRange { return PortRange{First: p, Last: p} }

// Contains reports whether p is in the range.
func (r PortRange) Contains(p uint16) bool { return r.First <= p && p <= r.Last }

// Overlaps reports whether the ranges share a port.
func (r PortRange) Overlaps(o PortRange) bool { return r.First <= o.Last && o.First <= r.Last }

// Single reports whether the range holds one port.
func (r PortRange) Single() bool { return r.First == r.Last }

// String returns "8080" or "20000-20999".
func (r PortRange) String() string {
	if r.Single() {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Frontend is what the outside connects to.
type Frontend struct {
	Address  netip.Addr
	Protocol Protocol
	Ports    PortRange
}

// String returns "192.0.2.10:8080/tcp".
func (f Frontend) String() string {
	host := f.Address.String()
	if f.Address.Is6() {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%s/%s", host, f.Ports, f.Protocol)
}

// Compare orders Frontends by address, protocol and ports, as a State has them.
func (f Frontend) Compare(o Frontend) int {
	if f.Address != o.Address {
		return f.Address.Compare(o.Address)
	}
	return cmp.Or(strings.Compare(string(f.Protocol), string(o.Protocol)),
		cmp.Compare(f.Ports.First, o.Ports.First), cmp.Compare(f.Ports.Last, o.Ports.Last))
}

// Backend is where a connection is translated to: a ClusterIP or an endpoint.
type Backend struct {
	Address netip.Addr
	// Port is where a connection to the Frontend's first port goes.
	Port uint16
}

// Forward leads one Frontend to its Backends. In a State no two Forwards overlap.
type Forward struct {
	Frontend
	// Owner is the Mapping, as namespace/name. Forwards of one Owner and family have the same Sources.
	Owner string
	// Service is the one that the Owner leads to, as namespace/name.
	Service string
	// Sources may connect; empty means everyone. Masked, sorted, without duplicates, all of the Frontend's family.
	Sources []netip.Prefix
	// Backends share the connections evenly. Sorted. Empty: connections are rejected at once.
	Backends []Backend
	// Draining are endpoints that take no new connections but keep those that they have until they are gone. Sorted.
	Draining []Backend
	// SourcesDeny is set when the Mapping allows sources, but none of this Frontend's family: nobody may connect.
	SourcesDeny bool
	// Direct is set when the Backends are endpoints rather than a ClusterIP.
	Direct bool
	// Shift is set when port First+i leads to Backend.Port+i; otherwise every port leads to Backend.Port.
	Shift bool
	// Masquerade hides the client's address behind the host's. Without it those who come in by an uplink keep theirs; who
	// comes from elsewhere, a pod or the host itself, is hidden all the same, or the answer would pass the host by.
	Masquerade bool
	// Affinity keeps a client at the endpoint that it had by any Forward of the Service, as long as it comes back within this
	// time; 0 is off.
	Affinity time.Duration
}

// Egress has the connections that pods open through the host leave with an external address, by its uplink.
type Egress struct {
	// Address is the external address.
	Address netip.Addr
	// Uplink is the number of the one that holds the address.
	Uplink int
	// Owner is the Mapping, as namespace/name.
	Owner string
	// Sources are the pods, all of the Address's family. Sorted.
	Sources []netip.Addr
}

// Uplink is a link to the outside. A connection that came in by it is answered through it.
type Uplink struct {
	// Link is the name of the network interface.
	Link string
	// Number is this Uplink's place in the mark field and in the range of routing tables; from 1, stable while the
	// host's configuration stands.
	Number int
	// Connected are the networks on the link itself. Masked and sorted.
	Connected []netip.Prefix
	// Gateways are the next hops for everything else, at most one a family.
	Gateways []netip.Addr
	// Defaults are the ways to everything else of families without a gateway of their own, at most one a family, IPv4 first.
	Defaults []DefaultRoute
}

// ServiceRoute leads the range of the ClusterIPs, or of the pods, through cluster nodes.
type ServiceRoute struct {
	Destination netip.Prefix
	// Via are the next hops; they share the flows. Sorted.
	Via []netip.Addr
}

// State is all that a gateway host is to do. Equal States have equal values: everything in it is sorted.
type State struct {
	// Forwards are sorted by address, protocol and port.
	Forwards []*Forward
	// Away is what there would be for addresses that this host does not have now.
	Away Away
	// Uplinks are sorted by number.
	Uplinks []Uplink
	// Outside are links that are no Uplinks and lead to the outside all the same: the boundary holds there too. Sorted.
	Outside []string
	// OwnPrefixes are links to the outside that have their IPv6 networks from the host's configuration: those that router
	// advertisements announce there are not taken. Sorted.
	OwnPrefixes []string
	// InsideNetworks are the cluster's, wherever they are: what comes from them passes the boundary, and what is forwarded may
	// reach them by an uplink. Masked and sorted.
	InsideNetworks []netip.Prefix
	// BackendNetworks are those that what is forwarded may reach by an uplink although nothing that comes from them passes the
	// boundary. Masked and sorted.
	BackendNetworks []netip.Prefix
	// Closed are the families that smartnatd alone has the host forward: the boundary holds for all links then, but for
	// InsideLinks, which are sorted.
	Closed      Families
	InsideLinks []string
	// Switched are the families of which netfilter is given the frames that bridges switch.
	Switched Families
	// ServiceRoutes are sorted by destination.
	ServiceRoutes []ServiceRoute
	// Egresses are sorted by owner and address. A source is in one of them at most.
	Egresses []Egress
	// ClampMSS lowers the segment size that the ends of forwarded TCP connections offer each other to what the path takes.
	ClampMSS bool
	// ForwardedOnly leaves alone the connections that the host itself opens.
	ForwardedOnly bool
	// MasqueradePorts are the source ports of masqueraded connections; empty leaves them to the kernel, which keeps a port below
	// 512 below 512, and one below 1024 in 600-1023 (nf_nat_l4proto_unique_tuple in net/netfilter/nf_nat_core.c).
	MasqueradePorts PortRange
}

// Away is what nothing is done for but to let connections be that it would make: an address that leaves, as an IPv6 one does
// with its link, may be back before anybody at the ends of a connection has noticed.
type Away struct {
	// Forwards are sorted as those of a State; their addresses are others.
	Forwards []*Forward
	// Egresses are of pods that no other Egress is of. They have no Uplink.
	Egresses []Egress
}

// Families is a set of address families.
type Families struct{ IPv4, IPv6 bool }

// Host is what was observed of the host; it decides nothing by itself.
type Host struct {
	// Links are sorted by name.
	Links []Link
	// DefaultRoutes are those of the main table, best metric first.
	DefaultRoutes []DefaultRoute
	// Unreachable are neighbours that were asked for and do not answer. Sorted.
	Unreachable []netip.Addr
	// SCTP is set when the kernel can match and translate SCTP.
	SCTP bool
	// Opened are the families that the host forwards for smartnatd alone, or does not forward yet.
	Opened Families
	// Switched are the families of which netfilter is given the frames that bridges switch (bridge-nf-call-iptables).
	Switched Families
	// Physdev is set when rules can tell such frames from routed packets.
	Physdev bool
	// Routes are those of the main table that are no default routes, sorted by destination, link and gateway. Of a link with
	// more than a few thousand they are only the first ones.
	Routes []Route
	// Listeners are the sockets of programs on the host that take connections or datagrams from anyone. Sorted, without
	// duplicates.
	Listeners []Listener
}

// Route is a route of the host's main routing table.
type Route struct {
	// Destination is masked, and not everything.
	Destination netip.Prefix
	Link        string
	// Gateway is not set where the destination is on the link itself.
	Gateway netip.Addr
	// Metric decides between routes to the same destination: the least wins.
	Metric int
}

// Listener is a socket that takes what comes to a port.
type Listener struct {
	Protocol Protocol
	// Address is the one it is bound to: an unspecified one is all of its family. A socket that takes both families is two
	// Listeners.
	Address netip.Addr
	Port    uint16
	// Link is the one that the socket is bound to, empty where it takes from all links.
	Link string
}

// Compare orders Listeners as a Host has them.
func (l Listener) Compare(o Listener) int {
	return cmp.Or(strings.Compare(string(l.Protocol), string(o.Protocol)), cmp.Compare(l.Port, o.Port),
		l.Address.Compare(o.Address), strings.Compare(l.Link, o.Link))
}

// String returns "0.0.0.0:22/tcp", or "[::]:546%eth0/udp" where the socket is bound to a link.
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
	// Up is set when the link is administratively up and has a carrier.
	Up bool
	// Kind is the kernel's (ip-link(8), type): "bridge", "vlan", "veth"; empty or "device" for a network card.
	Kind string
	// Master is the bridge, bond or VRF that the link is a port of.
	Master string
	// Parent is the link that this one is stacked on, as a VLAN is.
	Parent string
	// Addresses are the host's own addresses on the link with the length of their network, unmasked and sorted.
	Addresses []netip.Prefix
	// Autoconfigured is set when one of the addresses was made from a router advertisement (SLAAC, RFC 4862).
	Autoconfigured bool
	// Peers are the other ends of point-to-point addresses, or their networks. Masked and sorted.
	Peers []netip.Prefix
}

// DefaultRoute is a default route of the host's main routing table.
type DefaultRoute struct {
	Link string
	// Gateway is the next hop. It is invalid where everything is on the link itself, as on PPP and WireGuard, and may be of IPv6
	// for a route of IPv4 (RFC 8950; RTA_VIA, rtnetlink(7)).
	Gateway netip.Addr
	// IPv6 is the family of the route.
	IPv6 bool
}
