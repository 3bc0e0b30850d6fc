// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// Further numbers of the kernel (linux/netfilter/nfnetlink_conntrack.h).
const (
	attrCountersOriginal = 9  // CTA_COUNTERS_ORIG
	attrCountersReply    = 10 // CTA_COUNTERS_REPLY
	attrID               = 12

	attrPackets = 1 // CTA_COUNTERS_PACKETS
	attrBytes   = 2

	statusDying = 1 << 9 // IPS_DYING
)

// Traffic reads what our connections carried, which the kernel counts if net.netfilter.nf_conntrack_acct is 1. It is safe for
// concurrent use.
type Traffic struct{ events }

// NewTraffic returns a Traffic for the connections that carry own's mark.
func NewTraffic(own gateway.Ownership) *Traffic { return &Traffic{newEvents(own)} }

// Watch passes every connection of ours that ends to ended, and calls lost whenever the kernel dropped messages about some because
// the buffer was full. It returns nil when ctx ends, and an error if a parameter of the kernel turns such messages off.
func (t *Traffic) Watch(ctx context.Context, ended func(traffic.Flow), lost func()) error {
	return t.watch(ctx, func(message []byte) {
		var f counted
		if f.parse(message) && t.ours(f) {
			ended(f.flow())
		}
	}, lost)
}

func (t *Traffic) ours(f counted) bool { return f.mark&t.mark.Mask == t.mark.Value }

// Open passes all connections of ours that are open, one at a time. The kernel returns no others, so the cost depends on their
// number and on the size of the kernel's table.
func (t *Traffic) Open(each func(traffic.Flow)) error {
	return dump(t.mark, func(message []byte) {
		var f counted
		if f.parse(message) && t.ours(f) && f.status&statusDying == 0 {
			each(f.flow())
		}
	})
}

// dump passes a message about each open connection that has the mark, and perhaps about others.
func dump(mark gateway.Mark, each func(message []byte)) error {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|getConnections, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	request.AddData(nl.NewRtAttr(attrMark, binary.BigEndian.AppendUint32(nil, mark.Value)))
	request.AddData(nl.NewRtAttr(attrMarkMask, binary.BigEndian.AppendUint32(nil, mark.Mask)))
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		each(message)
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) { // Connections change during the dump.
		return fmt.Errorf("reading open connections: %w", err)
	}
	return nil
}

// counted holds the properties of a connection that matter for traffic.
type counted struct {
	id, mark, status uint32
	protocol         gateway.Protocol
	to               netip.AddrPort
	original, reply  traffic.Volume
}

func (c counted) flow() traffic.Flow {
	return traffic.Flow{
		ID: c.id, Protocol: c.protocol, Destination: c.to, FromClient: c.original, ToClient: c.reply,
	}
}

// parse reads a message about a connection, which starts with family, version and resource (struct nfgenmsg). It returns false if
// the connection has no destination.
func (c *counted) parse(message []byte) bool {
	const header = 4
	if len(message) < header {
		return false
	}
	for kind, value := range attributes(message[header:]) {
		switch kind {
		case attrOriginal:
			c.protocol, _, c.to = parseTuple(value)
		case attrStatus:
			c.status = number32(value)
		case attrMark:
			c.mark = number32(value)
		case attrCountersOriginal:
			c.original = volume(value)
		case attrCountersReply:
			c.reply = volume(value)
		case attrID:
			c.id = number32(value)
		}
	}
	return c.to.IsValid()
}

func volume(counters []byte) (v traffic.Volume) {
	for kind, value := range attributes(counters) {
		switch {
		case len(value) != 8:
		case kind == attrPackets:
			v.Packets = binary.BigEndian.Uint64(value)
		case kind == attrBytes:
			v.Bytes = binary.BigEndian.Uint64(value)
		}
	}
	return v
}

// TableUsage returns the number of connections in the kernel's table, of all programs, and the most that it holds.
func TableUsage() (entries, limit int, err error) {
	entries, err = readNumber("/proc/sys/net/netfilter/nf_conntrack_count")
	limit, limitErr := readNumber("/proc/sys/net/netfilter/nf_conntrack_max")
	return entries, limit, errors.Join(err, limitErr)
}
