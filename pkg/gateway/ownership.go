// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import "math/bits"

// Ownership names everything on a host that is SmartNat's. Nothing else is ever read as ours, changed or removed.
// Each field can be moved by the key of the same name below `ownership` in the config file.
type Ownership struct {
	// ChainPrefix begins the name of each of our chains, and of the kernel's lists of clients (xt_recent): `chainPrefix`, at
	// most 12 characters.
	ChainPrefix string
	// MarkMask are the bits of packet and connection marks that are ours: `markMask`, at least 6 adjacent ones.
	// The default keeps clear of kube-proxy (0x4000, 0x8000), Tailscale (0xff0000) and Calico (0xffff0000).
	MarkMask uint32
	// RoutingTable is the table of the first uplink; the uplink numbered n has RoutingTable+n-1: `routingTable`.
	RoutingTable int
	// RulePriority is the priority of our `ip rule` entries for egress, those of the uplinks have the next: `rulePriority`.
	RulePriority int
	// RouteProtocol tags our routes and our `ip rule` entries (rtnetlink(7), rtm_protocol): `routeProtocol`.
	RouteProtocol int
	// SetPrefix begins the name of each of our ipsets, and of our table of nf_tables: `setPrefix`.
	SetPrefix string
}

// DefaultOwnership is what an empty config file means.
func DefaultOwnership() Ownership {
	return Ownership{
		ChainPrefix:   "SMARTNAT-",
		MarkMask:      0x00001ff0,
		RoutingTable:  7380,
		RulePriority:  7380,
		RouteProtocol: 83,
		SetPrefix:     "smartnat-",
	}
}

// Mark is a value in a field of a mark.
type Mark struct{ Value, Mask uint32 }

// The lowest four bits of the MarkMask are flags, the rest is the number of the uplink.
const flagBits = 4

func (o Ownership) flag(n int) Mark {
	bit := uint32(1) << (bits.TrailingZeros32(o.MarkMask) + n)
	return Mark{Value: bit, Mask: bit}
}

// Forwarded is set on connections that a Mapping translated.
func (o Ownership) Forwarded() Mark { return o.flag(0) }

// Egress is set on packets of connections that a pod opened and that leave with an external address. It shares its bit
// with Forwarded, which is set on connections alone.
func (o Ownership) Egress() Mark { return o.flag(0) }

// Masquerade is set on connections whose source address is to be hidden.
func (o Ownership) Masquerade() Mark { return o.flag(1) }

// Drop is set on packets from a source that is not allowed.
func (o Ownership) Drop() Mark { return o.flag(2) }

// Reject is set on packets to a Frontend without Backends.
func (o Ownership) Reject() Mark { return o.flag(3) }

// UplinkMask are the bits that hold the number of the uplink.
func (o Ownership) UplinkMask() uint32 {
	return o.MarkMask &^ (uint32(1)<<(bits.TrailingZeros32(o.MarkMask)+flagBits) - 1)
}

// Uplink is set on connections that came in by the uplink of this number.
func (o Ownership) Uplink(number int) Mark {
	mask := o.UplinkMask()
	return Mark{Value: uint32(number) << bits.TrailingZeros32(mask) & mask, Mask: mask}
}

// MaxUplinks is how many uplinks the MarkMask has room for.
func (o Ownership) MaxUplinks() int {
	return int(o.UplinkMask() >> bits.TrailingZeros32(o.UplinkMask()))
}

// Table is the routing table of the uplink of this number.
func (o Ownership) Table(number int) int { return o.RoutingTable + number - 1 }
