// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// portRule collects the protocol, destination and ports that a rule of nf_tables or of legacy iptables matches.
type portRule struct {
	protocol gateway.Protocol
	address  netip.Addr
	ports    []gateway.PortRange
	// loaded is what the last payload or meta expression loaded.
	loaded loaded
}

type loaded int

const (
	other loaded = iota
	protocolLoaded
	addressLoaded
	portLoaded
)

// claims returns a Claim without a Kind for each range of ports.
func (r *portRule) claims() []gateway.Claim {
	if r.protocol == "" {
		return nil
	}
	var claims []gateway.Claim
	for _, ports := range r.ports {
		if ports.First > 0 {
			claims = append(claims, gateway.Claim{Protocol: r.protocol, Address: r.address, Ports: ports})
		}
	}
	return claims
}

// expression reads an expression. iptables writes `--dport` like nft, or as an extension (match) in older versions.
func (r *portRule) expression(d *netlink.AttributeDecoder) {
	name := ""
	within(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_EXPR_NAME:
			name = d.String()
		case unix.NFTA_EXPR_DATA:
			switch name {
			case "meta":
				within(d, r.meta)
			case "payload":
				r.payload(d)
			case "cmp":
				within(d, r.compare)
			case "range":
				r.between(d)
			case "match":
				r.extension(d)
			}
		}
	})
}

func (r *portRule) meta(d *netlink.AttributeDecoder) {
	if d.Type() == unix.NFTA_META_KEY && d.Uint32() == unix.NFT_META_L4PROTO {
		r.loaded = protocolLoaded
	}
}

// Offsets and lengths in the headers of RFC 791, RFC 8200 and the transport protocols.
const (
	destination4, destination6 = 16, 24
	protocolByte4              = 9
	portOffset, portLength     = 2, 2
)

func (r *portRule) payload(d *netlink.AttributeDecoder) {
	var base, offset, length uint32
	within(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_PAYLOAD_BASE:
			base = d.Uint32()
		case unix.NFTA_PAYLOAD_OFFSET:
			offset = d.Uint32()
		case unix.NFTA_PAYLOAD_LEN:
			length = d.Uint32()
		}
	})
	switch {
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && offset == portOffset && length == portLength:
		r.loaded = portLoaded
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset == protocolByte4 && length == 1:
		r.loaded = protocolLoaded
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && (offset == destination4 && length == 4 || offset == destination6 && length == 16):
		r.loaded = addressLoaded
	default:
		r.loaded = other
	}
}

func (r *portRule) compare(d *netlink.AttributeDecoder) {
	if d.Type() != unix.NFTA_CMP_DATA {
		return
	}
	within(d, func(d *netlink.AttributeDecoder) {
		if d.Type() != unix.NFTA_DATA_VALUE {
			return
		}
		value := d.Bytes()
		switch {
		case r.loaded == protocolLoaded && len(value) == 1:
			r.protocol, _ = protocolNumbered(value[0])
		case r.loaded == addressLoaded:
			r.address, _ = netip.AddrFromSlice(value)
		case r.loaded == portLoaded && len(value) == portLength:
			r.ports = append(r.ports, gateway.Port(binary.BigEndian.Uint16(value)))
		}
	})
}

// between reads a range of ports.
func (r *portRule) between(d *netlink.AttributeDecoder) {
	var ports gateway.PortRange
	end := func(port *uint16) func(d *netlink.AttributeDecoder) {
		return func(d *netlink.AttributeDecoder) {
			if value := d.Bytes(); d.Type() == unix.NFTA_DATA_VALUE && len(value) == portLength {
				*port = binary.BigEndian.Uint16(value)
			}
		}
	}
	within(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_RANGE_FROM_DATA:
			within(d, end(&ports.First))
		case unix.NFTA_RANGE_TO_DATA:
			within(d, end(&ports.Last))
		}
	})
	if r.loaded == portLoaded {
		r.ports = append(r.ports, ports)
	}
}

func (r *portRule) extension(d *netlink.AttributeDecoder) {
	name := ""
	within(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_MATCH_NAME:
			name = d.String()
		case unix.NFTA_MATCH_INFO:
			r.match(name, d.Bytes())
		}
	})
}

// Sizes in struct xt_tcp, xt_udp and xt_multiport_v1 (linux/netfilter).
const (
	portMatchSize              = 8 // of what xt_tcp and xt_udp share: the ranges of source and destination ports
	multiportSize              = 48
	multiportMax               = 15
	multiportSource            = 0
	multiportFlags, multiports = 2, 32
)

// match reads an extension of iptables.
func (r *portRule) match(name string, info []byte) {
	at := func(i int) uint16 { return binary.NativeEndian.Uint16(info[i:]) }
	switch {
	case (name == "tcp" || name == "udp") && len(info) >= portMatchSize:
		if ports := (gateway.PortRange{First: at(4), Last: at(6)}); ports != (gateway.PortRange{Last: 65535}) {
			r.ports = append(r.ports, ports)
		}
	case name == "multiport" && len(info) >= multiportSize && info[0] != multiportSource:
		for i := 0; i < min(int(info[1]), multiportMax); i++ {
			ports := gateway.Port(at(multiportFlags + 2*i))
			if info[multiports+i] != 0 && i+1 < multiportMax { // the next item is the end of a range
				i++
				ports.Last = at(multiportFlags + 2*i)
			}
			r.ports = append(r.ports, ports)
		}
	}
}
