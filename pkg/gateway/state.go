// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/delta"
)

// Protocol is a transport protocol in lower case.
type Protocol string

// The supported protocols.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// PortRange is a range of ports that includes both ends. A single port has First == Last.
type PortRange struct {
	First, Last uint16
}

// Port returns the range with only port p.
func Port(p uint16) PortRange { return PortRange{First: p, Last: p} }

// Contains reports whether p is in the range.
func (r PortRange) Contains(p uint16) bool { return r.First <= p && p <= r.Last }

// Overlaps reports whether the ranges share a port.
func (r PortRange) Overlaps(o PortRange) bool { return r.First <= o.Last && o.First <= r.Last }

// Single reports whether the range has only one port.
func (r PortRange) Single() bool { return r.First == r.Last }

// String returns "8080" or "20000-20999".
func (r PortRange) String() string {
	if r.Single() {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Frontend is an address, protocol and port range that clients connect to.
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

// Compare orders Frontends as in a State: by address, protocol and ports.
func (f Frontend) Compare(o Frontend) int {
	if f.Address != o.Address {
		return f.Address.Compare(o.Address)
	}
	return cmp.Or(strings.Compare(string(f.Protocol), string(o.Protocol)),
		cmp.Compare(f.Ports.First, o.Ports.First), cmp.Compare(f.Ports.Last, o.Ports.Last))
}

// Backend is a destination of translated connections: a ClusterIP or an endpoint.
type Backend struct {
	Address netip.Addr
	// Port is the destination port for the Frontend's first port.
	Port uint16
}

// Forward forwards one Frontend to its Backends. The Forwards of a State do not overlap.
type Forward struct {
	Frontend
	// Owner is the Mapping, as namespace/name. Forwards of one Owner and family have the same Sources.
	Owner string
	// Service is the Service that the Owner refers to, as namespace/name.
	Service string
	// Sources are the allowed clients; empty means all. They are masked, sorted, unique, and of the Frontend's family.
	Sources []netip.Prefix
	// Backends share the connections evenly. They are sorted. If there are none, connections are rejected immediately.
	Backends []Backend
	// Draining are endpoints that keep their connections but get no new ones. They are sorted.
	Draining []Backend
	// AllowedBy is what allows the Frontend, or nil if it needs no grant. Nothing in the kernel depends on it.
	AllowedBy *Allowance
	// SourcesDeny means that the Mapping lists sources but none of this family, so no client may connect.
	SourcesDeny bool
	// Direct means that the Backends are endpoints and not a ClusterIP.
	Direct bool
	// AnyEndpoint means that the Backends need not be proven to be pods of the Owner's namespace.
	AnyEndpoint bool
	// Shift means that port First+i is translated to Backend.Port+i. Otherwise every port is translated to Backend.Port.
	Shift bool
	// Masquerade replaces the client's address with the host's. If it is off, clients that arrive through an uplink keep
	// their address, with MasqueradeRemote only towards LocalBackends. Other clients, such as a pod or the host itself, are
	// masqueraded in any case, because replies would otherwise bypass the host.
	Masquerade bool
	// Affinity is the time for which a returning client gets the same endpoint through all Forwards of the Service. 0 turns
	// it off.
	Affinity time.Duration
	// Consistent means that every gateway chooses the same Backend for a client's address and port, or with Affinity for the
	// address. The data plane iptables cannot, and ignores it.
	Consistent bool
}

// Allowance names what allows a Frontend. Either name may be empty.
type Allowance struct {
	// Grant is a PortGrant, Pin an entry of pinnedGrants in the gateway's config.
	Grant, Pin string
}

// EqualForwards reports whether all fields are equal that the kernel depends on: all but AllowedBy. It is no method, which go-cmp would use instead of comparing the fields.
func EqualForwards(a, b *Forward) bool {
	return a.Frontend == b.Frontend && a.Owner == b.Owner && a.Service == b.Service && a.SourcesDeny == b.SourcesDeny && a.Direct == b.Direct &&
		a.AnyEndpoint == b.AnyEndpoint && a.Shift == b.Shift && a.Masquerade == b.Masquerade && a.Affinity == b.Affinity && a.Consistent == b.Consistent &&
		slices.Equal(a.Sources, b.Sources) && slices.Equal(a.Backends, b.Backends) && slices.Equal(a.Draining, b.Draining)
}

// Egress gives connections that pods open through the host an external source address and sends them through the uplink of
// that address.
type Egress struct {
	// Address is the external address.
	Address netip.Addr
	// Uplink is the number of the uplink that has the address.
	Uplink int
	// Owner is the Mapping, as namespace/name.
	Owner string
	// Sources are the pod addresses, sorted and of the Address's family.
	Sources []netip.Addr
}

// Uplink is a link to the outside. Replies of connections that arrived through it leave through it.
type Uplink struct {
	// Link is the name of the network interface.
	Link string
	// Number identifies the Uplink in the mark and selects its routing table. It counts from 1 and is stable as long as the
	// host's config stays the same.
	Number int
	// Connected are the networks on the link itself, masked and sorted.
	Connected []netip.Prefix
	// Gateways are the next hops for all other destinations, at most one per family.
	Gateways []netip.Addr
	// Defaults are default routes for families without a gateway of the same family, at most one per family, IPv4 first.
	Defaults []DefaultRoute
}

// ServiceRoute routes the ClusterIP or pod range through cluster nodes.
type ServiceRoute struct {
	Destination netip.Prefix
	// Via are the next hops, sorted; they share the flows.
	Via []netip.Addr
}

// State is the complete desired state of a gateway host. Everything in it is sorted, so that equal States have equal values.
type State struct {
	// Forwards are sorted by address, protocol and port.
	Forwards []*Forward
	// Absent is what would be in effect for addresses that are absent from this host at the moment.
	Absent Absent
	// Uplinks are sorted by number.
	Uplinks []Uplink
	// Outside are links to the outside that are not Uplinks. The boundary applies to them too. They are sorted.
	Outside []string
	// OwnPrefixes are links to the outside whose IPv6 networks come from the host's configuration, so those in router
	// advertisements are ignored. They are sorted.
	OwnPrefixes []string
	// InsideNetworks are the cluster's networks, wherever they are. Their traffic passes the boundary, and forwarded
	// connections may reach them through an uplink. They are masked and sorted.
	InsideNetworks []netip.Prefix
	// BackendNetworks are further networks that forwarded connections may reach through an uplink. Their own traffic does not
	// pass the boundary. They are masked and sorted.
	BackendNetworks []netip.Prefix
	// ForwardingOwned are the families for which smartnatd owns forwarding: the host forwards only for smartnatd. The boundary
	// then applies to all links except InsideLinks, which are sorted.
	ForwardingOwned Families
	InsideLinks     []string
	// BridgeNetfilter are the families for which netfilter also sees frames that bridges switch, and rules can tell them apart.
	BridgeNetfilter Families
	// ServiceRoutes are sorted by destination.
	ServiceRoutes []ServiceRoute
	// Egresses are sorted by owner and address. A source is in at most one of them.
	Egresses []Egress
	// ClampMSS limits the TCP segment size that the ends of forwarded connections announce to the path MTU.
	ClampMSS bool
	// ForwardedOnly excludes connections that the host itself opens.
	ForwardedOnly bool
	// MasqueradePorts is the range of source ports for masqueraded connections. If it is empty, the kernel chooses: it maps a
	// port below 512 to one below 512, and one below 1024 to 600-1023 (nf_nat_l4proto_unique_tuple in
	// net/netfilter/nf_nat_core.c).
	MasqueradePorts PortRange
	// MasqueradeAddresses are the sources of masqueraded connections by the link that they leave by, instead of the host's own
	// addresses. The host need not hold them. They are sorted by link.
	MasqueradeAddresses []LinkAddresses
	// MasqueradeRemote is set on a node of the cluster: there, Forwards without Masquerade keep the client's address only towards
	// LocalBackends, the pods of this node, because replies of other pods leave by their own nodes. LocalBackends are sorted.
	MasqueradeRemote bool
	LocalBackends    []netip.Addr
	// Sync is reserved for the other gateway of a pair. It is zero without one.
	Sync SyncEndpoint
	// Helpers are ports of Forwards whose connections the kernel's helpers read.
	Helpers []Helper
	// Flowtable is what established connections may bypass.
	Flowtable Flowtable
}

// Flowtable lets packets of established connections take a route that the kernel remembers, past all rules (nf_flowtable in the
// kernel's documentation). A data plane without it ignores it.
type Flowtable struct {
	// Families are those whose connections may.
	Families Families
	// Links are those whose packets may, sorted by name. Without any, no packet does.
	Links []FlowLink
}

// FlowLink is a link of a Flowtable. A link that was removed and made again has the same Name and another Index.
type FlowLink struct {
	Name  string
	Index int
}

// Equal reports whether both are the same.
func (f Flowtable) Equal(o Flowtable) bool {
	return f.Families == o.Families && slices.Equal(f.Links, o.Links)
}

// Serves reports whether the state has Forwards or Egresses of the family.
func (s State) Serves(family Family) bool {
	of := func(a netip.Addr) bool { return a.Is6() == (family == IPv6) }
	return slices.ContainsFunc(s.Forwards, func(f *Forward) bool { return of(f.Address) }) ||
		slices.ContainsFunc(s.Egresses, func(e Egress) bool { return of(e.Address) })
}

// ForwardsOf returns the forwards of one family. The list is sorted as in a State, so IPv4 comes first.
func ForwardsOf(forwards []*Forward, family Family) []*Forward {
	six, _ := slices.BinarySearchFunc(forwards, true, func(f *Forward, _ bool) int {
		if f.Address.Is4() {
			return -1
		}
		return 1
	})
	if family == IPv4 {
		return forwards[:six]
	}
	return forwards[six:]
}

// DifferingForwards yields the Forwards that differ between two lists, by Frontend; one is nil if the other list has no such Frontend.
// Both lists are sorted as in a State. Forwards that they share cost next to nothing.
func DifferingForwards(before, now []*Forward) iter.Seq2[*Forward, *Forward] {
	return delta.Differing(before, now, func(a, b *Forward) int { return a.Compare(b.Frontend) })
}

// FindForward returns the Forward for a destination, or nil. The list is sorted as in a State, and no two Forwards overlap.
func FindForward(forwards []*Forward, protocol Protocol, destination netip.AddrPort) *Forward {
	// Find the last Forward that starts at the port or before it.
	i, found := slices.BinarySearchFunc(forwards, destination, func(f *Forward, to netip.AddrPort) int {
		return cmp.Or(f.Address.Compare(to.Addr()), strings.Compare(string(f.Protocol), string(protocol)), cmp.Compare(f.Ports.First, to.Port()))
	})
	if !found {
		i--
	}
	if i < 0 {
		return nil
	}
	f := forwards[i]
	if f.Address != destination.Addr() || f.Protocol != protocol || !f.Ports.Contains(destination.Port()) {
		return nil
	}
	return f
}

// LeavingLinks returns the links by which forwarded connections must not leave: the uplinks or, without uplinks, the links that
// are assumed to lead outside. It does not include links that are stacked on an uplink: the cluster may be on a VLAN of the
// same card.
func (s State) LeavingLinks() []string {
	if len(s.Uplinks) == 0 {
		return s.Outside
	}
	links := make([]string, 0, len(s.Uplinks))
	for _, u := range s.Uplinks {
		links = append(links, u.Link)
	}
	return links
}

// ClusterNetworks returns the networks of a family to which a connection may leave by an uplink: a host with one link has no
// other way to the cluster.
func (s State) ClusterNetworks(family Family) []netip.Prefix {
	networks := slices.Concat(s.InsideNetworks, s.BackendNetworks)
	for _, r := range s.ServiceRoutes {
		networks = append(networks, r.Destination)
	}
	networks = NetworksOf(networks, family)
	slices.SortFunc(networks, netip.Prefix.Compare)
	return slices.Compact(networks)
}

// NetworksOf returns a copy of the networks of one family.
func NetworksOf(networks []netip.Prefix, family Family) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(networks), func(p netip.Prefix) bool { return p.Addr().Is6() != (family == IPv6) })
}

// Absent is the part of the desired state whose addresses are absent from the host at the moment. It creates no rules; it only
// keeps connections that it would allow. An address that disappears with its link, as IPv6 addresses do, may return before
// either end of a connection notices.
type Absent struct {
	// Forwards are sorted as in a State, and overlap with none of its Forwards.
	Forwards []*Forward
	// Egresses cover pods without another Egress and have no Uplink.
	Egresses []Egress
}

// Helper has a connection tracking helper of the kernel read connections to an external port, and expect the connections that
// they announce.
type Helper struct {
	// Name is the kernel's, "ftp" or "tftp".
	Name     string
	Protocol Protocol
	Port     uint16
}

// Families is a set of address families.
type Families struct{ IPv4, IPv6 bool }
