// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Packet is a packet with the conntrack state of its connection.
type Packet struct {
	// In is the incoming link, or "" for a packet that the host itself sends.
	In                  string
	Protocol            gateway.Protocol
	Source, Destination netip.AddrPort
	// State is one conntrack state, in addition to DNAT or SNAT if earlier packets were translated.
	State State
	// Bridged means that a bridge switches the packet.
	Bridged bool
	// Expected means that a conntrack helper announced the connection.
	Expected       bool
	Direction      Direction
	Mark, ConnMark uint32
	// SYN means that the packet begins a TCP connection or answers one that does.
	SYN bool
	// Route returns the link for a destination and mark, or "" for the host itself. If Route is nil, all packets end on the
	// host.
	Route func(destination netip.Addr, mark uint32) string
}

// Tracked reports whether the packet belongs to a connection. Without one there is no connection mark or direction.
func (p *Packet) Tracked() bool { return p.State&(Invalid|Untracked) == 0 }

// State is a set of conntrack states (iptables-extensions(8), conntrack --ctstate; nft(8), ct state and ct status).
type State uint8

// The conntrack states. SNAT and DNAT are virtual states. DNAT: the original destination differs from the reply source.
const (
	New State = 1 << iota
	Established
	Related
	Invalid
	Untracked
	SNAT
	DNAT
)

// Direction is the direction of a packet within its connection. The zero Direction is that of a packet without a connection.
type Direction uint8

// The directions.
const (
	Original Direction = iota + 1
	Reply
)
