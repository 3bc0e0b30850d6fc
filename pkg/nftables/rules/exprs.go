// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"encoding/binary"
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// rule joins groups of expressions.
func rule(comment string, groups ...[]ruleset.Expr) ruleset.Rule {
	n := 0
	for _, g := range groups {
		n += len(g)
	}
	r := ruleset.Rule{Comment: comment, Exprs: make([]ruleset.Expr, 0, n)}
	for _, g := range groups {
		r.Exprs = append(r.Exprs, g...)
	}
	return r
}

type exprs = []ruleset.Expr

// native returns a number as the kernel holds marks and states in registers.
func native(n uint32) string { return string(binary.NativeEndian.AppendUint32(nil, n)) }

// port returns a port as the packet holds it, in a register.
func port(p uint16) string { return string(binary.BigEndian.AppendUint16(nil, p)) + "\x00\x00" }

func linkKey(link string) string {
	var name [16]byte // IFNAMSIZ
	copy(name[:15], link)
	return string(name[:])
}

func addressKey(a netip.Addr) string { return string(a.AsSlice()) }

// protocols holds the numbers of the protocols (RFC 5237).
var protocolNumbers = map[gateway.Protocol]byte{gateway.TCP: 6, gateway.UDP: 17, gateway.SCTP: 132}

func protocolKey(p gateway.Protocol) string { return string([]byte{protocolNumbers[p], 0, 0, 0}) }

func key(parts ...ruleset.Datatype) (k [4]ruleset.Datatype) {
	copy(k[:], parts)
	return k
}

// addressType and the following describe addresses of a family.
func addressType(family gateway.Family) ruleset.Datatype {
	if family == gateway.IPv4 {
		return ruleset.IPv4Type
	}
	return ruleset.IPv6Type
}

// words returns the number of registers that an address takes.
func words(family gateway.Family) ruleset.Register {
	return ruleset.Register(addressType(family).Padded() / 4)
}

func source(family gateway.Family) ruleset.Payload {
	if family == gateway.IPv4 {
		return ruleset.Payload{Base: ruleset.NetworkHeader, Offset: 12, Len: 4}
	}
	return ruleset.Payload{Base: ruleset.NetworkHeader, Offset: 8, Len: 16}
}

func destination(family gateway.Family) ruleset.Payload {
	if family == gateway.IPv4 {
		return ruleset.Payload{Base: ruleset.NetworkHeader, Offset: 16, Len: 4}
	}
	return ruleset.Payload{Base: ruleset.NetworkHeader, Offset: 24, Len: 16}
}

// frontendKey loads address, protocol and port that the packet is for.
func frontendKey(family gateway.Family) exprs { return frontendKeyAt(family, 0) }

// frontendKeyAt loads the key to registers from the first on.
func frontendKeyAt(family gateway.Family, first ruleset.Register) exprs {
	n := first + words(family)
	address := destination(family)
	address.To = first
	return exprs{
		address,
		ruleset.Meta{Key: ruleset.MetaL4Proto, To: n},
		ruleset.Payload{Base: ruleset.TransportHeader, Offset: 2, Len: 2, To: n + 1},
	}
}

// lookup continues if the set has the key of the expressions.
func lookup(keys exprs, set string) exprs { return append(keys, ruleset.Lookup{Set: set}) }

// lookupVerdict executes the verdict of the key.
func lookupVerdict(keys exprs, set string) exprs {
	return append(keys, ruleset.Lookup{Set: set, Verdict: true})
}

func inLink(set string) exprs  { return lookup(exprs{ruleset.Meta{Key: ruleset.MetaIIFName}}, set) }
func outLink(set string) exprs { return lookup(exprs{ruleset.Meta{Key: ruleset.MetaOIFName}}, set) }

func protocolIs(p gateway.Protocol) exprs {
	return exprs{ruleset.Meta{Key: ruleset.MetaL4Proto}, ruleset.Compare{Data: string([]byte{protocolNumbers[p]})}}
}

func connectionMark(m gateway.Mark) exprs {
	return exprs{ruleset.Ct{Key: ruleset.CtMark}, masked(m.Mask), ruleset.Compare{Data: native(m.Value)}}
}

func packetMark(m gateway.Mark) exprs {
	return exprs{ruleset.Meta{Key: ruleset.MetaMark}, masked(m.Mask), ruleset.Compare{Data: native(m.Value)}}
}

func masked(mask uint32) ruleset.Bitwise { return ruleset.Bitwise{Mask: native(mask), Xor: native(0)} }

// withMark replaces bits of a mark in a register.
func withMark(m gateway.Mark) ruleset.Bitwise {
	return ruleset.Bitwise{Mask: native(^m.Mask), Xor: native(m.Value)}
}

func setConnectionMark(m gateway.Mark) exprs {
	return exprs{ruleset.Ct{Key: ruleset.CtMark}, withMark(m), ruleset.SetCt{Key: ruleset.CtMark}}
}

func setPacketMark(m gateway.Mark) exprs {
	return exprs{ruleset.Meta{Key: ruleset.MetaMark}, withMark(m), ruleset.SetMeta{Key: ruleset.MetaMark}}
}

func stateIs(bits uint32) exprs { return anyBit(ruleset.Ct{Key: ruleset.CtState}, bits) }

func statusIs(bits uint32) exprs { return anyBit(ruleset.Ct{Key: ruleset.CtStatus}, bits) }

func anyBit(load ruleset.Expr, bits uint32) exprs {
	return exprs{load, masked(bits), ruleset.Compare{Data: native(0), Not: true}}
}

func direction(d byte) exprs {
	return exprs{ruleset.Ct{Key: ruleset.CtDirection}, ruleset.Compare{Data: string([]byte{d})}}
}

func goTo(chain string) exprs                { return exprs{ruleset.Verdict{Code: ruleset.Goto, Chain: chain}} }
func jump(chain string) exprs                { return exprs{ruleset.Verdict{Code: ruleset.Jump, Chain: chain}} }
func verdict(code ruleset.VerdictCode) exprs { return exprs{ruleset.Verdict{Code: code}} }
