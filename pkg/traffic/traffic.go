// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Volume counts packets and their bytes, with their IP headers.
type Volume struct{ Packets, Bytes uint64 }

func (v Volume) plus(o Volume) Volume {
	return Volume{v.Packets + o.Packets, v.Bytes + o.Bytes}
}

func (v Volume) max(o Volume) Volume {
	return Volume{max(v.Packets, o.Packets), max(v.Bytes, o.Bytes)}
}

// Flow is a connection as conntrack counts it.
type Flow struct {
	// ID tells connections apart that exist at the same time.
	ID       uint32
	Protocol gateway.Protocol
	// Destination is the destination of the first packet, before translation.
	Destination netip.AddrPort
	// FromClient and ToClient are what both directions carried so far.
	FromClient, ToClient Volume
}

// Reason is why packets to a Frontend were refused.
type Reason string

// The reasons.
const (
	// SourceNotAllowed means that the Mapping does not allow the client. Such packets are dropped.
	SourceNotAllowed Reason = "source_not_allowed"
	// NoEndpoints means that the Frontend has no Backend. Such packets are rejected.
	NoEndpoints Reason = "no_endpoints"
)

// Refusal is a counter of the kernel for refused packets. It only grows while it exists.
type Refusal struct {
	Reason      Reason
	Protocol    gateway.Protocol
	Destination netip.AddrPort
	Packets     uint64
}

// Totals are what a Mapping's Frontend has seen since its first reading.
type Totals struct {
	// Connections counts those that were translated.
	Connections          uint64
	FromClient, ToClient Volume
	// Dropped and Rejected count packets by reason: SourceNotAllowed and NoEndpoints.
	Dropped, Rejected uint64
	// Open is the number of connections that conntrack holds at the moment. It keeps one for some time after its last packet.
	Open int
}

// Entry are the Totals of one Frontend.
type Entry struct {
	// Owner is the Mapping, as namespace/name.
	Owner string
	gateway.Frontend
	Totals
}
