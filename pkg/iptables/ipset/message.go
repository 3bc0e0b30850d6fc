// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ipset

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

const (
	typeName = "hash:net"
	// listHeader requests sets without members (IPSET_FLAG_LIST_HEADER).
	listHeader = 1 << 2
	// maxMembers is the maximum size of a set. The kernel allocates memory only for existing members.
	maxMembers = 1 << 24
	// membersPerMessage keeps the attribute with the members below 64 KiB.
	membersPerMessage = 1000
	// dumpAttempts is the maximum number of attempts for a dump that a change interrupts.
	dumpAttempts = 5
)

var families = map[gateway.Family]uint8{gateway.IPv4: unix.AF_INET, gateway.IPv6: unix.AF_INET6}

// request is an ipset message to the kernel.
type request struct{ *nl.NetlinkRequest }

func newRequest(command int) request {
	r := request{nl.NewNetlinkRequest(unix.NFNL_SUBSYS_IPSET<<8|command, nl.GetIpsetFlags(command))}
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	r.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	return r
}

func (r request) name(attribute int, name string) request {
	r.AddData(nl.NewRtAttr(attribute, nl.ZeroTerminated(name)))
	return r
}

func (r request) number(attribute int, n uint32) request {
	r.AddData(nl.NewRtAttr(attribute|int(nl.NLA_F_NET_BYTEORDER), binary.BigEndian.AppendUint32(nil, n)))
	return r
}

// execute returns the answers without their common header.
func (r request) execute() ([][]byte, error) {
	var answers [][]byte
	var err error
	for range dumpAttempts {
		if answers, err = r.Execute(unix.NETLINK_NETFILTER, 0); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno >= nl.IPSET_ERR_PRIVATE {
		return nil, nl.IPSetError(errno)
	}
	if err != nil {
		return nil, err
	}
	for i := range answers {
		answers[i] = answers[i][min(nl.SizeofNfgenmsg, len(answers[i])):]
	}
	return answers, nil
}

// appendMember encodes a member as an entry of IPSET_ATTR_ADT.
func appendMember(entries *nl.RtAttr, p netip.Prefix) {
	kind := nl.IPSET_ATTR_IPADDR_IPV4
	if p.Addr().Is6() {
		kind = nl.IPSET_ATTR_IPADDR_IPV6
	}
	data := entries.AddRtAttr(nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED), nil)
	ip := data.AddRtAttr(nl.IPSET_ATTR_IP|int(nl.NLA_F_NESTED), nil)
	ip.AddRtAttr(kind|int(nl.NLA_F_NET_BYTEORDER), p.Addr().AsSlice())
	data.AddRtAttr(nl.IPSET_ATTR_CIDR, nl.Uint8Attr(uint8(p.Bits())))
}

// answer is the content of one message about a set.
type answer struct {
	name     string
	family   gateway.Family
	revision uint8
	// count is the number of members in the set.
	count   uint32
	members []netip.Prefix
}

func parse(message []byte) answer {
	var a answer
	for _, attribute := range attributesOf(message) {
		switch value := attribute.Data; attribute.Type & nl.NLA_TYPE_MASK {
		case nl.IPSET_ATTR_SETNAME:
			a.name = unix.ByteSliceToString(value)
		case nl.IPSET_ATTR_REVISION:
			a.revision = first(value)
		case nl.IPSET_ATTR_FAMILY:
			a.family = gateway.IPv4
			if first(value) == unix.AF_INET6 {
				a.family = gateway.IPv6
			}
		case nl.IPSET_ATTR_DATA:
			for _, header := range attributesOf(value) {
				if header.Type&nl.NLA_TYPE_MASK == nl.IPSET_ATTR_ELEMENTS && len(header.Data) == 4 {
					a.count = binary.BigEndian.Uint32(header.Data)
				}
			}
		case nl.IPSET_ATTR_ADT:
			for _, entry := range attributesOf(value) {
				if p, ok := parseMember(entry.Data); ok {
					a.members = append(a.members, p)
				}
			}
		}
	}
	return a
}

// attributesOf returns the attributes of a message, or none if it is malformed. The parser of vishvananda/netlink panics on
// some malformed messages.
func attributesOf(message []byte) []mdlayher.Attribute {
	attributes, err := mdlayher.UnmarshalAttributes(message)
	if err != nil {
		return nil
	}
	return attributes
}

func parseMember(entry []byte) (netip.Prefix, bool) {
	var address netip.Addr
	bits := -1
	for _, attribute := range attributesOf(entry) {
		switch attribute.Type & nl.NLA_TYPE_MASK {
		case nl.IPSET_ATTR_IP:
			for _, ip := range attributesOf(attribute.Data) {
				address, _ = netip.AddrFromSlice(ip.Data)
			}
		case nl.IPSET_ATTR_CIDR:
			bits = int(first(attribute.Data))
		}
	}
	if bits < 0 {
		bits = address.BitLen()
	}
	p := netip.PrefixFrom(address, bits)
	return p, p.IsValid()
}

func first(value []byte) uint8 {
	if len(value) == 0 {
		return 0
	}
	return value[0]
}
