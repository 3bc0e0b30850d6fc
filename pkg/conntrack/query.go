// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Numbers of the kernel (linux/netfilter/nfnetlink_conntrack.h).
const (
	getConnections = 1 // IPCTNL_MSG_CT_GET

	attrOriginal   = 1 // CTA_TUPLE_ORIG
	attrStatus     = 3
	attrMark       = 8
	attrMarkMask   = 21
	attrFilter     = 25
	attrStatusMask = 26

	attrAddresses = 1 // CTA_TUPLE_IP
	attrProtocol  = 2 // CTA_TUPLE_PROTO

	attrSource      = 1 // CTA_IP_V4_SRC
	attrDestination = 2

	attrNumber          = 1 // CTA_PROTO_NUM
	attrDestinationPort = 3

	attrOriginalFlags = 1 // CTA_FILTER_ORIG_FLAGS
)

// Fields of the original direction to compare (CTA_FILTER_F_*).
const (
	compareSource = 1 << iota
	compareDestination
	_ // zone
	compareNumber
	_ // source port
	compareDestinationPort
)

// query is a filter for the kernel. An older kernel returns more, never less: it ignores the scope before 5.8 and the status
// before 5.15.
type query struct {
	mark gateway.Mark
	// without holds the bits of the status that must not be set.
	without conntrack.Status
	scope   scope
}

// worthwhile returns how many walks over the kernel's table cost less than a single walk that also returns irrelevant
// connections. A walk passes every bucket, full or empty. About thirty buckets cost as much as one returned connection.
func worthwhile() int {
	const bucketsPerConnection, most = 32, 4 // at most 4, because it is unknown how many connections are ours
	buckets, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_buckets")
	if err != nil || buckets == 0 {
		return 1
	}
	connections, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return 1
	}
	return min(1+connections*bucketsPerConnection/buckets, most)
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// run returns the matching connections.
func (q query) run(conn *netfilter.Conn) ([]conntrack.Flow, error) {
	attributes, family := q.attributes()
	request, err := netfilter.MarshalNetlink(netfilter.Header{
		SubsystemID: netfilter.NFSubsysCTNetlink,
		MessageType: getConnections,
		Family:      family,
		Flags:       netlink.Request | netlink.Dump,
	}, attributes)
	if err != nil {
		return nil, err
	}
	messages, err := conn.Query(request)
	if err != nil {
		return nil, err
	}
	flows := make([]conntrack.Flow, 0, len(messages))
	for _, m := range messages {
		// The messages of a dump have the type of new connections.
		var event conntrack.Event
		if err := event.Unmarshal(m); err != nil {
			return nil, err
		}
		flows = append(flows, *event.Flow)
	}
	return flows, nil
}

func (q query) attributes() ([]netfilter.Attribute, netfilter.ProtoFamily) {
	attributes := []netfilter.Attribute{
		{Type: attrMark, Data: netfilter.Uint32Bytes(q.mark.Value)},
		{Type: attrMarkMask, Data: netfilter.Uint32Bytes(q.mark.Mask)},
	}
	if q.without != 0 {
		attributes = append(attributes,
			netfilter.Attribute{Type: attrStatus, Data: netfilter.Uint32Bytes(0)},
			netfilter.Attribute{Type: attrStatusMask, Data: netfilter.Uint32Bytes(uint32(q.without))})
	}
	flags, tuple, family := q.scope.tuple()
	if flags == 0 {
		return attributes, family
	}
	return append(attributes,
		nested(attrOriginal, tuple...),
		nested(attrFilter, netfilter.Attribute{Type: attrOriginalFlags, Data: binary.NativeEndian.AppendUint32(nil, flags)}),
	), family
}

// tuple returns the fields of the original direction to compare, and their values.
func (s scope) tuple() (flags uint32, tuple []netfilter.Attribute, family netfilter.ProtoFamily) {
	switch {
	case s.source.Is4():
		flags, family = compareSource, netfilter.ProtoIPv4
		tuple = append(tuple, nested(attrAddresses, netfilter.Attribute{Type: attrSource, Data: s.source.AsSlice()}))
	case s.destination.Is4():
		flags, family = compareDestination, netfilter.ProtoIPv4
		tuple = append(tuple, nested(attrAddresses, netfilter.Attribute{Type: attrDestination, Data: s.destination.AsSlice()}))
	case s.source.Is6(), s.destination.Is6():
		// The kernel does not compare IPv6 addresses correctly, at least up to 6.18 (ctnetlink_filter_match_tuple): equal ones
		// differ and different ones match. The other fields are selective enough.
		family = netfilter.ProtoIPv6
	}
	if number, found := number(s.protocol); found {
		flags |= compareNumber
		protocol := nested(attrProtocol, netfilter.Attribute{Type: attrNumber, Data: []byte{number}})
		if s.port != 0 {
			flags |= compareDestinationPort
			protocol.Children = append(protocol.Children, netfilter.Attribute{Type: attrDestinationPort, Data: netfilter.Uint16Bytes(s.port)})
		}
		tuple = append(tuple, protocol)
	}
	return flags, tuple, family
}

func nested(number uint16, children ...netfilter.Attribute) netfilter.Attribute {
	return netfilter.Attribute{Type: number, Nested: true, Children: children}
}

func number(protocol gateway.Protocol) (uint8, bool) {
	for number, p := range protocols {
		if p == protocol {
			return number, true
		}
	}
	return 0, false
}

func toFlow(f conntrack.Flow) flow {
	at := netip.AddrPortFrom
	return flow{
		protocol:    protocols[f.TupleOrig.Proto.Protocol],
		source:      at(f.TupleOrig.IP.SourceAddress, f.TupleOrig.Proto.SourcePort),
		destination: at(f.TupleOrig.IP.DestinationAddress, f.TupleOrig.Proto.DestinationPort),
		answeredBy:  at(f.TupleReply.IP.SourceAddress, f.TupleReply.Proto.SourcePort),
		answeredTo:  at(f.TupleReply.IP.DestinationAddress, f.TupleReply.Proto.DestinationPort),
		answered:    f.Status&conntrack.StatusSeenReply != 0,
		expected:    f.TupleMaster.Proto.Protocol != 0,
	}
}
