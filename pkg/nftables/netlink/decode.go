// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// attributes calls each for every attribute of an answer, after the header of the family.
func attributes(answer netlink.Message, each func(d *netlink.AttributeDecoder)) error {
	if len(answer.Data) < nfgenmsgLength {
		return fmt.Errorf("an answer of %d bytes is cut off", len(answer.Data))
	}
	return decode(answer.Data[nfgenmsgLength:], each)
}

func decode(data []byte, each func(d *netlink.AttributeDecoder)) error {
	d, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		each(d)
	}
	return d.Err()
}

func nested(d *netlink.AttributeDecoder, each func(d *netlink.AttributeDecoder)) {
	d.Nested(func(d *netlink.AttributeDecoder) error {
		d.ByteOrder = binary.BigEndian
		for d.Next() {
			each(d)
		}
		return d.Err()
	})
}

func value(d *netlink.AttributeDecoder) (data string) {
	nested(d, func(d *netlink.AttributeDecoder) {
		if d.Type() == unix.NFTA_DATA_VALUE {
			data = string(d.Bytes())
		}
	})
	return data
}

// verdict decodes the attributes of a verdict.
func verdict(d *netlink.AttributeDecoder) (v ruleset.Verdict) {
	nested(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.Code = ruleset.VerdictCode(int32(d.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = d.String()
		}
	})
	return v
}

// chainOf decodes a chain, and the table that it belongs to.
func chainOf(answer netlink.Message) (table string, chain ruleset.Chain, err error) {
	var hook *ruleset.Hook
	var kind string
	err = attributes(answer, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_CHAIN_TABLE:
			table = d.String()
		case unix.NFTA_CHAIN_NAME:
			chain.Name = d.String()
		case unix.NFTA_CHAIN_TYPE:
			kind = d.String()
		case unix.NFTA_CHAIN_HOOK:
			hook = &ruleset.Hook{}
			nested(d, func(d *netlink.AttributeDecoder) {
				switch d.Type() {
				case unix.NFTA_HOOK_HOOKNUM:
					hook.Point = ruleset.HookPoint(d.Uint32())
				case unix.NFTA_HOOK_PRIORITY:
					hook.Priority = int32(d.Uint32())
				}
			})
		}
	})
	if hook != nil {
		hook.Type = ruleset.ChainType(kind)
		chain.Hook = hook
	}
	return table, chain, err
}

// ruleOf decodes a rule and its chain.
func ruleOf(answer netlink.Message) (chain string, r ruleset.Rule, err error) {
	err = attributes(answer, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = d.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			nested(d, func(d *netlink.AttributeDecoder) { r.Exprs = append(r.Exprs, exprOf(d)) })
		case unix.NFTA_RULE_USERDATA:
			r.Comment = commentOf(d.Bytes())
		}
	})
	return chain, r, err
}

func commentOf(userdata []byte) string {
	if len(userdata) < 3 || userdata[0] != 0 || int(userdata[1])+2 > len(userdata) {
		return ""
	}
	return strings.TrimRight(string(userdata[2:2+int(userdata[1])]), "\x00")
}

// fields holds the attributes of an expression.
type fields struct {
	numbers map[uint16]uint32
	data    map[uint16]string
	verdict ruleset.Verdict
}

func (f fields) register(kind uint16) ruleset.Register { return registerOf(f.numbers[kind]) }

func registerOf(number uint32) ruleset.Register {
	if number < unix.NFT_REG32_00 {
		return ruleset.Register(4 * (number - unix.NFT_REG_1))
	}
	return ruleset.Register(number - unix.NFT_REG32_00)
}

// exprOf decodes an expression. An expression that rules of ours do not use is Unknown.
func exprOf(d *netlink.AttributeDecoder) ruleset.Expr {
	var name string
	f := fields{numbers: map[uint16]uint32{}, data: map[uint16]string{}}
	nested(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_EXPR_NAME:
			name = d.String()
		case unix.NFTA_EXPR_DATA:
			nested(d, func(d *netlink.AttributeDecoder) { f.read(name, d) })
		}
	})
	if x := f.expr(name); x != nil {
		return x
	}
	return ruleset.Unknown{Name: name}
}

// read reads an attribute. Values of registers and verdicts are nested.
func (f *fields) read(name string, d *netlink.AttributeDecoder) {
	kind := d.Type()
	switch {
	case name == "immediate" && kind == unix.NFTA_IMMEDIATE_DATA:
		nested(d, func(d *netlink.AttributeDecoder) {
			switch d.Type() {
			case unix.NFTA_DATA_VALUE:
				f.data[kind] = string(d.Bytes())
			case unix.NFTA_DATA_VERDICT:
				f.verdict = verdict(d)
			}
		})
	case name == "bitwise" && (kind == unix.NFTA_BITWISE_MASK || kind == unix.NFTA_BITWISE_XOR), name == "cmp" && kind == unix.NFTA_CMP_DATA:
		f.data[kind] = value(d)
	default:
		bytes := d.Bytes()
		f.data[kind] = string(bytes)
		if len(bytes) == 4 {
			f.numbers[kind] = binary.BigEndian.Uint32(bytes)
		}
	}
}

func (f fields) text(kind uint16) string { return strings.TrimRight(f.data[kind], "\x00") }

func (f fields) has(kind uint16) bool { _, found := f.data[kind]; return found }

// expr returns the expression, or nil if it is none of ours.
func (f fields) expr(name string) ruleset.Expr {
	switch name {
	case "payload":
		return ruleset.Payload{
			Base: ruleset.PayloadBase(f.numbers[unix.NFTA_PAYLOAD_BASE]), Offset: f.numbers[unix.NFTA_PAYLOAD_OFFSET],
			Len: f.numbers[unix.NFTA_PAYLOAD_LEN], To: f.register(unix.NFTA_PAYLOAD_DREG),
		}
	case "meta":
		if f.has(unix.NFTA_META_SREG) {
			return ruleset.SetMeta{Key: ruleset.MetaKey(f.numbers[unix.NFTA_META_KEY]), From: f.register(unix.NFTA_META_SREG)}
		}
		return ruleset.Meta{Key: ruleset.MetaKey(f.numbers[unix.NFTA_META_KEY]), To: f.register(unix.NFTA_META_DREG)}
	case "ct":
		if f.has(unix.NFTA_CT_SREG) {
			return ruleset.SetCt{Key: ruleset.CtKey(f.numbers[unix.NFTA_CT_KEY]), From: f.register(unix.NFTA_CT_SREG)}
		}
		return ruleset.Ct{Key: ruleset.CtKey(f.numbers[unix.NFTA_CT_KEY]), To: f.register(unix.NFTA_CT_DREG)}
	case "bitwise":
		return ruleset.Bitwise{
			From: f.register(unix.NFTA_BITWISE_SREG), To: f.register(unix.NFTA_BITWISE_DREG),
			Mask: f.data[unix.NFTA_BITWISE_MASK], Xor: f.data[unix.NFTA_BITWISE_XOR],
		}
	case "cmp":
		op := f.numbers[unix.NFTA_CMP_OP]
		if op != unix.NFT_CMP_EQ && op != unix.NFT_CMP_NEQ {
			return nil
		}
		return ruleset.Compare{From: f.register(unix.NFTA_CMP_SREG), Data: f.data[unix.NFTA_CMP_DATA], Not: op == unix.NFT_CMP_NEQ}
	case "immediate":
		if f.numbers[unix.NFTA_IMMEDIATE_DREG] == unix.NFT_REG_VERDICT {
			return f.verdict
		}
		return ruleset.Immediate{To: f.register(unix.NFTA_IMMEDIATE_DREG), Data: f.data[unix.NFTA_IMMEDIATE_DATA]}
	case "counter":
		return ruleset.Counter{}
	case "lookup":
		return f.lookup()
	case "hash":
		return f.hash()
	}
	return f.action(name)
}

func (f fields) hash() ruleset.Expr {
	if f.numbers[unix.NFTA_HASH_TYPE] != jenkinsHash || f.numbers[unix.NFTA_HASH_OFFSET] != 0 {
		return nil
	}
	return ruleset.Hash{
		From: f.register(unix.NFTA_HASH_SREG), To: f.register(unix.NFTA_HASH_DREG), Len: f.numbers[unix.NFTA_HASH_LEN],
		Modulus: f.numbers[unix.NFTA_HASH_MODULUS], Seed: f.numbers[unix.NFTA_HASH_SEED],
	}
}

func (f fields) lookup() ruleset.Expr {
	set, from := f.text(unix.NFTA_LOOKUP_SET), f.register(unix.NFTA_LOOKUP_SREG)
	not := f.numbers[unix.NFTA_LOOKUP_FLAGS]&unix.NFT_LOOKUP_F_INV != 0
	switch {
	case !f.has(unix.NFTA_LOOKUP_DREG):
		return ruleset.Lookup{Set: set, From: from, Not: not}
	case f.numbers[unix.NFTA_LOOKUP_DREG] == unix.NFT_REG_VERDICT:
		return ruleset.Lookup{Set: set, From: from, Verdict: true}
	}
	return ruleset.LookupMap{Set: set, From: from, To: f.register(unix.NFTA_LOOKUP_DREG)}
}

// action returns an expression that acts on the packet or on a set.
func (f fields) action(name string) ruleset.Expr {
	switch name {
	case "numgen":
		if f.numbers[unix.NFTA_NG_TYPE] != unix.NFT_NG_RANDOM {
			return nil
		}
		return ruleset.Random{Modulus: f.numbers[unix.NFTA_NG_MODULUS], Offset: f.numbers[unix.NFTA_NG_OFFSET], To: f.register(unix.NFTA_NG_DREG)}
	case "dynset":
		if f.numbers[unix.NFTA_DYNSET_OP] != unix.NFT_DYNSET_OP_UPDATE || len(f.data[unix.NFTA_DYNSET_TIMEOUT]) != 8 {
			return nil
		}
		return ruleset.Update{
			Set: f.text(unix.NFTA_DYNSET_SET_NAME), From: f.register(unix.NFTA_DYNSET_SREG_KEY),
			Milliseconds: binary.BigEndian.Uint64([]byte(f.data[unix.NFTA_DYNSET_TIMEOUT])),
		}
	case "objref":
		if f.numbers[unix.NFTA_OBJREF_IMM_TYPE] != ctHelperObject {
			return nil
		}
		return ruleset.AssignHelper{Name: f.text(unix.NFTA_OBJREF_IMM_NAME)}
	case "flow_offload":
		return ruleset.AddFlow{Flowtable: f.text(flowTableName)}
	case "fib":
		if f.numbers[unix.NFTA_FIB_RESULT] != unix.NFT_FIB_RESULT_OIF || f.numbers[unix.NFTA_FIB_FLAGS] != reversePath {
			return nil
		}
		return ruleset.ReversePath{To: f.register(unix.NFTA_FIB_DREG)}
	case "nat":
		x := ruleset.NAT{
			Destination: f.numbers[unix.NFTA_NAT_TYPE] == unix.NFT_NAT_DNAT, Address: f.register(unix.NFTA_NAT_REG_ADDR_MIN),
			Flags: f.numbers[unix.NFTA_NAT_FLAGS] &^ mapAddresses,
		}
		x.HasPorts, x.FirstPort, x.LastPort = f.ports(unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX)
		return x
	case "masq":
		x := ruleset.Masquerade{Flags: f.numbers[unix.NFTA_MASQ_FLAGS]}
		x.HasPorts, x.FirstPort, x.LastPort = f.ports(unix.NFTA_MASQ_REG_PROTO_MIN, unix.NFTA_MASQ_REG_PROTO_MAX)
		return x
	case "reject":
		x := ruleset.Reject{Type: f.numbers[unix.NFTA_REJECT_TYPE]}
		if code := f.data[unix.NFTA_REJECT_ICMP_CODE]; code != "" && x.Type == ruleset.RejectICMP {
			x.Code = uint32(code[0])
		}
		return x
	case "rt":
		if f.numbers[unix.NFTA_RT_KEY] != rtTCPMSS {
			return nil
		}
		return ruleset.PathMSS{To: f.register(unix.NFTA_RT_DREG)}
	case "byteorder":
		return ruleset.SwapPort{From: f.register(unix.NFTA_BYTEORDER_SREG), To: f.register(unix.NFTA_BYTEORDER_DREG)}
	case "exthdr":
		if f.numbers[unix.NFTA_EXTHDR_OP] != exthdrTCPOption || !f.has(unix.NFTA_EXTHDR_SREG) {
			return nil
		}
		return ruleset.LowerMSS{From: f.register(unix.NFTA_EXTHDR_SREG)}
	}
	return nil
}

// mapAddresses is the flag of NAT that the kernel adds for an address (NF_NAT_RANGE_MAP_IPS).
const mapAddresses = 1

func (f fields) ports(first, last uint16) (has bool, from, to ruleset.Register) {
	if !f.has(first) {
		return false, 0, 0
	}
	return true, f.register(first), f.register(last)
}

// helperOf decodes a ct helper object, and the table that it belongs to. Its Port is unknown.
func helperOf(answer netlink.Message) (table string, h gateway.Helper, err error) {
	err = attributes(answer, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_OBJ_TABLE:
			table = d.String()
		case unix.NFTA_OBJ_NAME:
			h.Name = d.String()
		case unix.NFTA_OBJ_DATA:
			nested(d, func(d *netlink.AttributeDecoder) {
				if d.Type() == unix.NFTA_CT_HELPER_L4PROTO {
					h.Protocol = protocolOf(d.Uint8())
				}
			})
		}
	})
	return table, h, err
}

func protocolOf(number uint8) gateway.Protocol {
	for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP} {
		if protocolNumber(p) == number {
			return p
		}
	}
	return ""
}
