// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Further numbers of the kernel (linux/netfilter/nfnetlink_conntrack.h).
const (
	attrProtocolInfo = 4  // CTA_PROTOINFO
	attrTimestamp    = 20 // CTA_TIMESTAMP

	attrInfoTCP  = 1 // CTA_PROTOINFO_TCP
	attrInfoSCTP = 3
	attrState    = 1 // CTA_PROTOINFO_TCP_STATE, CTA_PROTOINFO_SCTP_STATE

	attrStart = 1 // CTA_TIMESTAMP_START
	attrStop  = 2

	statusSeenReply = 1 << 1 // IPS_SEEN_REPLY
)

// tcpStates and sctpStates are the names of states (linux/netfilter/nf_conntrack_tcp.h, nf_conntrack_sctp.h), as conntrack(8) spells
// them.
var (
	tcpStates  = [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}
	sctpStates = [...]string{
		"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT",
	}
)

// Flows passes all connections of ours that are open, one at a time, as Traffic.Open does.
func Flows(own gateway.Ownership, each func(flows.Flow)) error {
	return dump(own.Forwarded(), func(message []byte) {
		if f, ours := parseFlow(message, own.Forwarded()); ours && f.status&statusDying == 0 {
			each(f.Flow)
		}
	})
}

// trackedFlow is a Flow with the rest of its message.
type trackedFlow struct {
	flows.Flow
	mark, status uint32
}

// parseFlow parses a message about a connection, which starts with family, version and resource (struct nfgenmsg). It returns false
// if the connection does not carry the mark, or is incomplete.
func parseFlow(message []byte, mark gateway.Mark) (trackedFlow, bool) {
	var f trackedFlow
	const header = 4
	if len(message) < header {
		return f, false
	}
	state := ""
	for kind, value := range attributes(message[header:]) {
		switch kind {
		case attrOriginal:
			f.Protocol, f.Client, f.External = parseTuple(value)
		case attrReply:
			_, f.Backend, f.Seen = parseTuple(value)
		case attrStatus:
			f.status = number32(value)
		case attrMark:
			f.mark = number32(value)
		case attrCountersOriginal:
			f.FromClient = volume(value)
		case attrCountersReply:
			f.ToClient = volume(value)
		case attrProtocolInfo:
			state = parseState(value)
		case attrTimestamp:
			f.Start, f.End = parseTimes(value)
		}
	}
	f.State = state
	if state == "" {
		f.State = map[bool]string{true: "ANSWERED", false: "UNREPLIED"}[f.status&statusSeenReply != 0]
	}
	whole := f.Protocol != "" && f.Client.IsValid() && f.External.IsValid() && f.Backend.IsValid() && f.Seen.IsValid()
	return f, whole && f.mark&mark.Mask == mark.Value
}

func number32(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(value)
}

// parseTuple returns the protocol, source and destination of a direction. The protocol is empty if it is one that cannot be exposed.
func parseTuple(tuple []byte) (protocol gateway.Protocol, from, to netip.AddrPort) {
	var addresses [2]netip.Addr
	var ports [2]uint16
	for kind, value := range attributes(tuple) {
		switch kind {
		case attrAddresses:
			for kind, value := range attributes(value) {
				switch kind {
				case attrSource, attrSource6:
					addresses[0], _ = netip.AddrFromSlice(value)
				case attrDestination, attrDestination6:
					addresses[1], _ = netip.AddrFromSlice(value)
				}
			}
		case attrProtocol:
			for kind, value := range attributes(value) {
				switch {
				case kind == attrNumber && len(value) == 1:
					protocol = protocols[value[0]]
				case kind == attrSourcePort && len(value) == 2:
					ports[0] = binary.BigEndian.Uint16(value)
				case kind == attrDestinationPort && len(value) == 2:
					ports[1] = binary.BigEndian.Uint16(value)
				}
			}
		}
	}
	return protocol, netip.AddrPortFrom(addresses[0], ports[0]), netip.AddrPortFrom(addresses[1], ports[1])
}

func parseState(info []byte) string {
	for kind, value := range attributes(info) {
		names := tcpStates[:]
		switch kind {
		case attrInfoTCP:
		case attrInfoSCTP:
			names = sctpStates[:]
		default:
			continue
		}
		for kind, value := range attributes(value) {
			if kind == attrState && len(value) == 1 {
				if int(value[0]) >= len(names) {
					return fmt.Sprintf("STATE_%d", value[0])
				}
				return names[value[0]]
			}
		}
	}
	return ""
}

// parseTimes returns the start and the end, in nanoseconds since 1970, or zero for an unknown one.
func parseTimes(times []byte) (start, end time.Time) {
	for kind, value := range attributes(times) {
		if len(value) != 8 {
			continue
		}
		nanoseconds := binary.BigEndian.Uint64(value)
		if nanoseconds == 0 || nanoseconds > 1<<63-1 {
			continue
		}
		switch kind {
		case attrStart:
			start = time.Unix(0, int64(nanoseconds)).UTC()
		case attrStop:
			end = time.Unix(0, int64(nanoseconds)).UTC()
		}
	}
	return start, end
}
