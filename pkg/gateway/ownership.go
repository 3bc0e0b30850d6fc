// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"math/bits"
	"strings"
)

// Ownership identifies everything on a host that belongs to SmartNat. Nothing else is ever treated as ours, changed or
// removed. The key of the same name below `ownership` in the config file sets each field.
type Ownership struct {
	// ChainPrefix begins the names of our chains and of the kernel's client lists (xt_recent): `chainPrefix`, at most 12
	// characters.
	ChainPrefix string
	// MarkMask holds our bits of packet and connection marks: `markMask`, at least 6 adjacent bits. The default avoids the
	// bits of kube-proxy (0x4000, 0x8000), Tailscale (0xff0000) and Calico (0xffff0000).
	MarkMask uint32
	// RoutingTable is the table of the first uplink; the uplink with number n uses RoutingTable+n-1: `routingTable`.
	RoutingTable int
	// RulePriority is the priority of our `ip rule` entries for egress. Entries for uplinks have the next priority:
	// `rulePriority`.
	RulePriority int
	// RouteProtocol tags our routes and our `ip rule` entries (rtnetlink(7), rtm_protocol): `routeProtocol`.
	RouteProtocol int
	// SetPrefix begins the names of our ipsets and of our nf_tables table: `setPrefix`.
	SetPrefix string
}

// DefaultOwnership returns the values for an empty config file.
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

// TableName returns the name of our tables of nf_tables, one for each family. Those of the bridge family begin with it.
func (o Ownership) TableName() string { return strings.TrimRight(o.SetPrefix, "-_.") }

// OwnsTable reports whether a table of nf_tables with that name is ours, in any family.
func (o Ownership) OwnsTable(name string) bool {
	return name == o.TableName() || strings.HasPrefix(name, o.SetPrefix)
}

// Mark is a value within a mask of mark bits.
type Mark struct{ Value, Mask uint32 }

// flagBits is the number of flags in the lowest bits of MarkMask. The remaining bits hold the uplink number.
const flagBits = 4

// Flag returns the mark of one bit, counted from the lowest of MarkMask. The first two have the same meaning for every data plane;
// a data plane may use the others, up to flagBits, for packets that it refuses.
func (o Ownership) Flag(n int) Mark {
	bit := uint32(1) << (bits.TrailingZeros32(o.MarkMask) + n)
	return Mark{Value: bit, Mask: bit}
}

// Forwarded marks connections that a Mapping translated.
func (o Ownership) Forwarded() Mark { return o.Flag(0) }

// Egress marks packets of connections that a pod opened and that leave with an external address. It shares its bit with
// Forwarded, which is only used for connections.
func (o Ownership) Egress() Mark { return o.Flag(0) }

// Masquerade marks connections whose source address must be replaced.
func (o Ownership) Masquerade() Mark { return o.Flag(1) }

// UplinkMask returns the bits that hold the uplink number.
func (o Ownership) UplinkMask() uint32 {
	return o.MarkMask &^ (uint32(1)<<(bits.TrailingZeros32(o.MarkMask)+flagBits) - 1)
}

// Uplink marks connections that arrived through the uplink with this number.
func (o Ownership) Uplink(number int) Mark {
	mask := o.UplinkMask()
	return Mark{Value: uint32(number) << bits.TrailingZeros32(mask) & mask, Mask: mask}
}

// MaxUplinks returns the highest uplink number that fits into the MarkMask.
func (o Ownership) MaxUplinks() int {
	return int(o.UplinkMask() >> bits.TrailingZeros32(o.UplinkMask()))
}

// Table returns the routing table of the uplink with this number.
func (o Ownership) Table(number int) int { return o.RoutingTable + number - 1 }
