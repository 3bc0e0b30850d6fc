// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// datatypes are the numbers that nft gives to the types of keys and values (datatype.h of nftables). The kernel only stores
// them.
var datatypes = map[ruleset.Datatype]uint32{
	ruleset.IPv4Type: 7, ruleset.IPv6Type: 8, ruleset.ProtocolType: 12, ruleset.PortType: 13, ruleset.MarkType: 19, ruleset.LinkType: 41,
	ruleset.VerdictType: setTypeVerdict,
}

// layout returns the type and length of a key or value.
func layout(parts [4]ruleset.Datatype) (kind, length uint32) {
	const bitsPerType = 6 // TYPE_BITS of nftables
	if parts[1] == ruleset.NoType {
		return datatypes[parts[0]], uint32(parts[0].Size())
	}
	for _, part := range parts {
		if part == ruleset.NoType {
			break
		}
		kind, length = kind<<bitsPerType|datatypes[part], length+uint32(part.Padded())
	}
	return kind, length
}

func setFlags(s ruleset.Schema) (flags uint32) {
	if s.IsMap() {
		flags |= unix.NFT_SET_MAP
	}
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.Dynamic {
		flags |= unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL
	}
	if s.Concatenated() {
		flags |= setConcat
	}
	return flags
}

func (e *encoder) schema(s ruleset.Schema) {
	e.number(unix.NFTA_SET_FLAGS, setFlags(s))
	kind, length := layout(s.Key)
	e.number(unix.NFTA_SET_KEY_TYPE, kind)
	e.number(unix.NFTA_SET_KEY_LEN, length)
	if s.IsMap() {
		kind, length = layout(s.Data)
		e.number(unix.NFTA_SET_DATA_TYPE, kind)
		e.number(unix.NFTA_SET_DATA_LEN, length)
	}
	if order := byteOrders(s); len(order) > 0 {
		e.bytes(unix.NFTA_SET_USERDATA, order)
	}
	if s.Size > 0 || s.Concatenated() {
		e.nested(unix.NFTA_SET_DESC, func() {
			if s.Size > 0 {
				e.number(unix.NFTA_SET_DESC_SIZE, s.Size)
			}
			if s.Concatenated() {
				e.fields(s.Key)
			}
		})
	}
	if s.Counters {
		e.nested(setExpr, func() {
			e.text(unix.NFTA_EXPR_NAME, "counter")
			e.nested(unix.NFTA_EXPR_DATA, func() {})
		})
	}
}

// byteOrders tells nft that a key or value of one part is in the order of the host, without which it prints link names as "". The
// kernel only stores it (udata.h of libnftnl: enum nftnl_udata_set_types, a type, a length and a number).
func byteOrders(s ruleset.Schema) (userdata []byte) {
	const keyOrder, dataOrder, hostOrder = 0, 1, 1
	for kind, parts := range [][4]ruleset.Datatype{keyOrder: s.Key, dataOrder: s.Data} {
		if parts[1] == ruleset.NoType && (parts[0] == ruleset.LinkType || parts[0] == ruleset.MarkType) {
			userdata = binary.NativeEndian.AppendUint32(append(userdata, byte(kind), 4), hostOrder)
		}
	}
	return userdata
}

// fields appends the lengths of the parts of a key.
func (e *encoder) fields(parts [4]ruleset.Datatype) {
	e.nested(setDescConcat, func() {
		for _, part := range parts {
			if part != ruleset.NoType {
				e.nested(unix.NFTA_LIST_ELEM, func() { e.number(setFieldLength, uint32(part.Size())) })
			}
		}
	})
}

// element appends an element. A range without concatenation is two elements, its first key and the key after its last one.
func (e *encoder) element(s ruleset.Schema, x ruleset.Element) {
	e.nested(unix.NFTA_LIST_ELEM, func() {
		e.value(unix.NFTA_SET_ELEM_KEY, x.Key)
		if x.Last != "" && s.Concatenated() {
			e.value(setElemKeyEnd, x.Last)
		}
		switch {
		case s.Data[0] == ruleset.VerdictType:
			e.verdict(unix.NFTA_SET_ELEM_DATA, x.Verdict)
		case s.IsMap():
			e.value(unix.NFTA_SET_ELEM_DATA, x.Data)
		}
	})
	if end := after(x.Last); s.Interval && !s.Concatenated() && end != "" {
		e.nested(unix.NFTA_LIST_ELEM, func() {
			e.value(unix.NFTA_SET_ELEM_KEY, end)
			e.number(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		})
	}
}
