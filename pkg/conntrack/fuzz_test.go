// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// FuzzConnection parses arbitrary connections of the kernel. The parser must not panic, and must not relate a connection to a
// frontend that is not its destination.
func FuzzConnection(f *testing.F) {
	tuple := func(number uint16, source, destination string, protocol byte, ports ...uint16) netfilter.Attribute {
		from, to := netip.MustParseAddr(source).AsSlice(), netip.MustParseAddr(destination).AsSlice()
		first := uint16(attrSource)
		if len(from) > net.IPv4len {
			first += 2
		}
		return nested(number,
			nested(attrAddresses, netfilter.Attribute{Type: first, Data: from}, netfilter.Attribute{Type: first + 1, Data: to}),
			nested(attrProtocol, netfilter.Attribute{Type: attrNumber, Data: []byte{protocol}},
				netfilter.Attribute{Type: attrDestinationPort - 1, Data: netfilter.Uint16Bytes(ports[0])},
				netfilter.Attribute{Type: attrDestinationPort, Data: netfilter.Uint16Bytes(ports[1])}))
	}
	for _, attributes := range [][]netfilter.Attribute{
		nil,
		{tuple(attrOriginal, "192.0.2.10", public, 17, 40000, 53), tuple(attrOriginal+1, public, "192.0.2.10", 17, 53, 40000)},
		{tuple(attrOriginal, "192.0.2.10", public, 6, 40000, 80), tuple(attrOriginal+1, "10.244.1.2", "10.10.0.2", 6, 8080, 40000),
			{Type: attrMark, Data: netfilter.Uint32Bytes(0x10)}, {Type: attrStatus, Data: netfilter.Uint32Bytes(0xffff)}},
		{tuple(attrOriginal, "2001:db8::1", "2001:db8::2", 58, 1, 2)},
		{nested(attrOriginal, nested(attrAddresses, netfilter.Attribute{Type: attrSource, Data: []byte{1}}))},
		{{Type: attrMark, Data: []byte{1, 2}}},
		{{Type: attrStatus}},
	} {
		m, err := netfilter.MarshalNetlink(netfilter.Header{SubsystemID: netfilter.NFSubsysCTNetlink}, attributes)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Data)
	}
	ours := gateway.DefaultOwnership().Forwarded()
	j := newJudge(gateway.State{Forwards: []*gateway.Forward{
		forward(public, udp, 53, 53, pod1), forward(public, tcp, 80, 90, pod1, pod2),
	}})
	f.Fuzz(func(t *testing.T, data []byte) {
		if f, whole := parseFlow(data, ours); whole && (f.Protocol == "" || f.State == "" || !f.Client.IsValid() || !f.Seen.IsValid()) {
			t.Errorf("parsed %+v", f)
		}
		// Parse the data as query.run does.
		var event conntrack.Event
		m := netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(netfilter.NFSubsysCTNetlink) << 8}, Data: data}
		if err := event.Unmarshal(m); err != nil {
			return
		}
		flow := toFlow(*event.Flow)
		if j.takesOver(flow) && flow.destination != netip.MustParseAddrPort(public+":53") {
			t.Errorf("would take over %+v", flow)
		}
		if event.Flow.Mark&ours.Mask == ours.Value && !flow.expected && j.keeps(flow) && flow.destination.Addr() != netip.MustParseAddr(public) {
			t.Errorf("would keep %+v", flow)
		}
	})
}
