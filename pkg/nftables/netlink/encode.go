// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// These constants are missing in golang.org/x/sys (linux/netfilter/nf_tables.h).
const (
	setDescConcat   = 2    // NFTA_SET_DESC_CONCAT
	setFieldLength  = 1    // NFTA_SET_FIELD_LEN
	setExpr         = 17   // NFTA_SET_EXPR
	setElemKeyEnd   = 10   // NFTA_SET_ELEM_KEY_END
	setConcat       = 0x80 // NFT_SET_CONCAT
	rtTCPMSS        = 3    // NFT_RT_TCPMSS
	exthdrTCPOption = 1    // NFT_EXTHDR_OP_TCPOPT
	tcpOptionMSS    = 2    // TCPOPT_MAXSEG
	setTypeVerdict  = 0xffffff00
	ctHelperObject  = 3 // NFT_OBJECT_CT_HELPER
	flowTableName   = 1 // NFTA_FLOW_TABLE_NAME
	jenkinsHash     = 0 // NFT_HASH_JENKINS
)

// reversePath are the flags of the lookup of a ruleset.ReversePath.
const reversePath = unix.NFTA_FIB_F_SADDR | unix.NFTA_FIB_F_MARK | unix.NFTA_FIB_F_IIF | unix.NFTA_FIB_F_PRESENT

// encoder appends netlink attributes (netlink(7)) to a buffer.
type encoder []byte

func (e *encoder) bytes(kind uint16, value []byte) {
	*e = binary.NativeEndian.AppendUint16(*e, uint16(4+len(value)))
	*e = binary.NativeEndian.AppendUint16(*e, kind)
	*e = append(*e, value...)
	e.pad()
}

func (e *encoder) pad() {
	for len(*e)%4 != 0 {
		*e = append(*e, 0)
	}
}

func (e *encoder) data(kind uint16, value string) {
	*e = binary.NativeEndian.AppendUint16(*e, uint16(4+len(value)))
	*e = binary.NativeEndian.AppendUint16(*e, kind)
	*e = append(*e, value...)
	e.pad()
}

func (e *encoder) text(kind uint16, value string) { e.bytes(kind, append([]byte(value), 0)) }

func (e *encoder) number(kind uint16, n uint32) {
	*e = binary.NativeEndian.AppendUint16(*e, 8)
	*e = binary.NativeEndian.AppendUint16(*e, kind)
	*e = binary.BigEndian.AppendUint32(*e, n)
}

func (e *encoder) number64(kind uint16, n uint64) {
	*e = binary.NativeEndian.AppendUint16(*e, 12)
	*e = binary.NativeEndian.AppendUint16(*e, kind)
	*e = binary.BigEndian.AppendUint64(*e, n)
}

// nested appends an attribute that holds what fill appends.
func (e *encoder) nested(kind uint16, fill func()) {
	start := len(*e)
	*e = binary.NativeEndian.AppendUint16(*e, 0)
	*e = binary.NativeEndian.AppendUint16(*e, kind|unix.NLA_F_NESTED)
	fill()
	binary.NativeEndian.PutUint16((*e)[start:], uint16(len(*e)-start))
}

func (e *encoder) value(kind uint16, data string) {
	e.nested(kind, func() { e.data(unix.NFTA_DATA_VALUE, data) })
}

func (e *encoder) verdict(kind uint16, v ruleset.Verdict) {
	e.nested(kind, func() {
		e.nested(unix.NFTA_DATA_VERDICT, func() {
			e.number(unix.NFTA_VERDICT_CODE, uint32(v.Code))
			if v.Chain != "" {
				e.text(unix.NFTA_VERDICT_CHAIN, v.Chain)
			}
		})
	})
}

// comment encodes text as nft does in the userdata of tables and rules: type 0, length, text.
func comment(text string) []byte {
	return append([]byte{0, uint8(len(text) + 1)}, text+"\x00"...)
}

// register returns the kernel's number of a register: a multiple of 16 bytes has an older name.
func register(r ruleset.Register) uint32 {
	if r%4 == 0 {
		return unix.NFT_REG_1 + uint32(r)/4
	}
	return unix.NFT_REG32_00 + uint32(r)
}

func (e *encoder) rule(r ruleset.Rule, family uint8) (err error) {
	e.nested(unix.NFTA_RULE_EXPRESSIONS, func() {
		for _, x := range r.Exprs {
			e.nested(unix.NFTA_LIST_ELEM, func() {
				if failed := e.expr(x, family); failed != nil {
					err = failed
				}
			})
		}
	})
	if r.Comment != "" {
		e.bytes(unix.NFTA_RULE_USERDATA, comment(r.Comment))
	}
	return err
}

// expr appends the name and the attributes of an expression.
func (e *encoder) expr(x ruleset.Expr, family uint8) error {
	as := func(name string, fill func()) bool {
		e.text(unix.NFTA_EXPR_NAME, name)
		e.nested(unix.NFTA_EXPR_DATA, fill)
		return true
	}
	if e.load(x, as) || e.property(x, as) || e.lookup(x, as) || e.action(x, family, as) || e.segment(x, as) {
		return nil
	}
	return fmt.Errorf("an expression of type %T cannot be written", x)
}

// named appends an expression with a name, and returns true.
type named func(name string, fill func()) bool

// load appends an expression that writes or compares a register.
func (e *encoder) load(x ruleset.Expr, as named) bool {
	switch x := x.(type) {
	case ruleset.Payload:
		return as("payload", func() {
			e.number(unix.NFTA_PAYLOAD_DREG, register(x.To))
			e.number(unix.NFTA_PAYLOAD_BASE, uint32(x.Base))
			e.number(unix.NFTA_PAYLOAD_OFFSET, x.Offset)
			e.number(unix.NFTA_PAYLOAD_LEN, x.Len)
		})
	case ruleset.Bitwise:
		return as("bitwise", func() {
			e.number(unix.NFTA_BITWISE_SREG, register(x.From))
			e.number(unix.NFTA_BITWISE_DREG, register(x.To))
			e.number(unix.NFTA_BITWISE_LEN, uint32(len(x.Mask)))
			e.value(unix.NFTA_BITWISE_MASK, x.Mask)
			e.value(unix.NFTA_BITWISE_XOR, x.Xor)
		})
	case ruleset.Compare:
		return as("cmp", func() {
			e.number(unix.NFTA_CMP_SREG, register(x.From))
			op := uint32(unix.NFT_CMP_EQ)
			if x.Not {
				op = unix.NFT_CMP_NEQ
			}
			e.number(unix.NFTA_CMP_OP, op)
			e.value(unix.NFTA_CMP_DATA, x.Data)
		})
	case ruleset.Immediate:
		return as("immediate", func() {
			e.number(unix.NFTA_IMMEDIATE_DREG, register(x.To))
			e.value(unix.NFTA_IMMEDIATE_DATA, x.Data)
		})
	case ruleset.Verdict:
		return as("immediate", func() {
			e.number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
			e.verdict(unix.NFTA_IMMEDIATE_DATA, x)
		})
	case ruleset.Random:
		return as("numgen", func() {
			e.number(unix.NFTA_NG_DREG, register(x.To))
			e.number(unix.NFTA_NG_MODULUS, x.Modulus)
			e.number(unix.NFTA_NG_TYPE, unix.NFT_NG_RANDOM)
			e.number(unix.NFTA_NG_OFFSET, x.Offset)
		})
	case ruleset.Hash:
		return as("hash", func() {
			e.number(unix.NFTA_HASH_SREG, register(x.From))
			e.number(unix.NFTA_HASH_DREG, register(x.To))
			e.number(unix.NFTA_HASH_LEN, x.Len)
			e.number(unix.NFTA_HASH_MODULUS, x.Modulus)
			e.number(unix.NFTA_HASH_SEED, x.Seed)
			e.number(unix.NFTA_HASH_TYPE, jenkinsHash)
		})
	}
	return false
}

// property appends an expression that loads or sets a property of the packet or the connection.
func (e *encoder) property(x ruleset.Expr, as named) bool {
	meta := func(key ruleset.MetaKey, attribute uint16, r ruleset.Register) bool {
		return as("meta", func() {
			e.number(unix.NFTA_META_KEY, uint32(key))
			e.number(attribute, register(r))
		})
	}
	ct := func(key ruleset.CtKey, attribute uint16, r ruleset.Register) bool {
		return as("ct", func() {
			e.number(unix.NFTA_CT_KEY, uint32(key))
			e.number(attribute, register(r))
		})
	}
	switch x := x.(type) {
	case ruleset.Meta:
		return meta(x.Key, unix.NFTA_META_DREG, x.To)
	case ruleset.SetMeta:
		return meta(x.Key, unix.NFTA_META_SREG, x.From)
	case ruleset.Ct:
		return ct(x.Key, unix.NFTA_CT_DREG, x.To)
	case ruleset.SetCt:
		return ct(x.Key, unix.NFTA_CT_SREG, x.From)
	}
	return false
}

// lookup appends an expression that refers to a set, an object, a Flowtable or routes.
func (e *encoder) lookup(x ruleset.Expr, as named) bool {
	switch x := x.(type) {
	case ruleset.Lookup:
		return as("lookup", func() {
			e.text(unix.NFTA_LOOKUP_SET, x.Set)
			e.number(unix.NFTA_LOOKUP_SREG, register(x.From))
			if x.Verdict {
				e.number(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
			}
			if x.Not {
				e.number(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
			}
		})
	case ruleset.LookupMap:
		return as("lookup", func() {
			e.text(unix.NFTA_LOOKUP_SET, x.Set)
			e.number(unix.NFTA_LOOKUP_SREG, register(x.From))
			e.number(unix.NFTA_LOOKUP_DREG, register(x.To))
		})
	case ruleset.Update:
		return as("dynset", func() {
			e.text(unix.NFTA_DYNSET_SET_NAME, x.Set)
			e.number(unix.NFTA_DYNSET_SREG_KEY, register(x.From))
			e.number(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE)
			e.number64(unix.NFTA_DYNSET_TIMEOUT, x.Milliseconds)
		})
	case ruleset.ReversePath:
		return as("fib", func() {
			e.number(unix.NFTA_FIB_DREG, register(x.To))
			e.number(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_OIF)
			e.number(unix.NFTA_FIB_FLAGS, reversePath)
		})
	case ruleset.AddFlow:
		return as("flow_offload", func() { e.text(flowTableName, x.Flowtable) })
	case ruleset.AssignHelper:
		return as("objref", func() {
			e.number(unix.NFTA_OBJREF_IMM_TYPE, ctHelperObject)
			e.text(unix.NFTA_OBJREF_IMM_NAME, x.Name)
		})
	}
	return false
}

// action appends an expression that acts on the packet or its connection.
func (e *encoder) action(x ruleset.Expr, family uint8, as named) bool {
	switch x := x.(type) {
	case ruleset.Counter:
		return as("counter", func() {})
	case ruleset.NAT:
		return as("nat", func() { e.nat(x, family) })
	case ruleset.Masquerade:
		return as("masq", func() {
			if x.Flags != 0 {
				e.number(unix.NFTA_MASQ_FLAGS, x.Flags)
			}
			if x.HasPorts {
				e.number(unix.NFTA_MASQ_REG_PROTO_MIN, register(x.FirstPort))
				e.number(unix.NFTA_MASQ_REG_PROTO_MAX, register(x.LastPort))
			}
		})
	case ruleset.Reject:
		return as("reject", func() {
			e.number(unix.NFTA_REJECT_TYPE, x.Type)
			if x.Type == ruleset.RejectICMP {
				e.bytes(unix.NFTA_REJECT_ICMP_CODE, []byte{byte(x.Code)})
			}
		})
	}
	return false
}

// segment appends an expression that limits the TCP segment size.
func (e *encoder) segment(x ruleset.Expr, as named) bool {
	switch x := x.(type) {
	case ruleset.PathMSS:
		return as("rt", func() {
			e.number(unix.NFTA_RT_DREG, register(x.To))
			e.number(unix.NFTA_RT_KEY, rtTCPMSS)
		})
	case ruleset.SwapPort:
		return as("byteorder", func() {
			e.number(unix.NFTA_BYTEORDER_SREG, register(x.From))
			e.number(unix.NFTA_BYTEORDER_DREG, register(x.To))
			e.number(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
			e.number(unix.NFTA_BYTEORDER_LEN, 2)
			e.number(unix.NFTA_BYTEORDER_SIZE, 2)
		})
	case ruleset.LowerMSS:
		return as("exthdr", func() {
			e.number(unix.NFTA_EXTHDR_SREG, register(x.From))
			e.bytes(unix.NFTA_EXTHDR_TYPE, []byte{tcpOptionMSS})
			e.number(unix.NFTA_EXTHDR_OFFSET, 2)
			e.number(unix.NFTA_EXTHDR_LEN, 2)
			e.number(unix.NFTA_EXTHDR_OP, exthdrTCPOption)
		})
	}
	return false
}

func (e *encoder) nat(x ruleset.NAT, family uint8) {
	kind := uint32(unix.NFT_NAT_SNAT)
	if x.Destination {
		kind = unix.NFT_NAT_DNAT
	}
	e.number(unix.NFTA_NAT_TYPE, kind)
	e.number(unix.NFTA_NAT_FAMILY, uint32(family))
	e.number(unix.NFTA_NAT_REG_ADDR_MIN, register(x.Address))
	if x.HasPorts {
		e.number(unix.NFTA_NAT_REG_PROTO_MIN, register(x.FirstPort))
		e.number(unix.NFTA_NAT_REG_PROTO_MAX, register(x.LastPort))
	}
	if x.Flags != 0 {
		e.number(unix.NFTA_NAT_FLAGS, x.Flags)
	}
}

// after returns the key that follows in network byte order, or "" after the last one.
func after(key string) string {
	bytes := []byte(key)
	for i := len(bytes) - 1; i >= 0; i-- {
		if bytes[i]++; bytes[i] != 0 {
			return string(bytes)
		}
	}
	return ""
}

// before returns the preceding key in network byte order.
func before(key string) string {
	bytes := []byte(key)
	for i := len(bytes) - 1; i >= 0; i-- {
		if bytes[i]--; bytes[i] != 0xff {
			break
		}
	}
	return string(bytes)
}

// message returns a request.
func message(kind int, flags netlink.HeaderFlags, family uint8, attributes []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append(nfgenmsg(family, 0), attributes...),
	}
}

const nfgenmsgLength = 4

// nfgenmsg returns the header that follows the netlink header.
func nfgenmsg(family uint8, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}
