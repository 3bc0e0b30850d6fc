// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftRule holds the parts of a rule that affect our connections.
type nftRule struct {
	// conditional means that the rule has any condition, marked that it matches our mark, and translated that it matches
	// translated destinations.
	conditional, marked, translated bool
	verdict                         fate
	// queues means that it hands packets to a program.
	queues bool
	// chain is the target of a jump or goto.
	chain string
	// key is what was loaded last: NFT_CT_STATUS or NFT_CT_MARK.
	key uint32
}

func readRule(attributes []byte, ours uint32) (nftRule, error) {
	var rule nftRule
	err := eachAttribute(attributes, func(d *netlink.AttributeDecoder) {
		if d.Type() == unix.NFTA_RULE_EXPRESSIONS {
			within(d, func(d *netlink.AttributeDecoder) { rule.expression(d, ours) })
		}
	})
	return rule, err
}

// expression reads an expression. nft compiles "ct status dnat" and "ct mark and 0x10 == 0x10" to ct, bitwise and cmp.
func (r *nftRule) expression(d *netlink.AttributeDecoder, ours uint32) {
	name := ""
	within(d, func(d *netlink.AttributeDecoder) {
		switch {
		case d.Type() == unix.NFTA_EXPR_NAME:
			name = d.String()
		case d.Type() == unix.NFTA_EXPR_DATA && name == "immediate":
			within(d, r.immediate)
		case d.Type() == unix.NFTA_EXPR_DATA && name == "ct":
			within(d, func(d *netlink.AttributeDecoder) {
				if d.Type() == unix.NFTA_CT_KEY {
					r.key = d.Uint32()
				}
			})
		case d.Type() == unix.NFTA_EXPR_DATA && name == "bitwise":
			within(d, func(d *netlink.AttributeDecoder) { r.bitwise(d, ours) })
		case d.Type() == unix.NFTA_EXPR_DATA && name == "match":
			r.match(d, ours)
		case d.Type() == unix.NFTA_EXPR_DATA && name == "target":
			within(d, func(d *netlink.AttributeDecoder) {
				if d.Type() == unix.NFTA_TARGET_NAME {
					r.target(d.String())
				}
			})
		}
	})
	switch name {
	case "counter", "log", "immediate", "target":
	case "reject":
		r.verdict = dropped
	case "queue":
		r.queues = true
	default:
		r.conditional = true
	}
}

// target takes the name of a target of iptables.
func (r *nftRule) target(name string) {
	switch name {
	case "REJECT":
		r.verdict = dropped
	case "NFQUEUE":
		r.queues = true
	}
}

// From linux/netfilter/xt_connmark.h (struct xt_connmark_mtinfo1) and linux/netfilter/xt_conntrack.h (struct
// xt_conntrack_mtinfo3, XT_CONNTRACK_STATE and XT_CONNTRACK_STATE_DNAT).
const (
	connmarkLength, connmarkMask, connmarkInvert               = 9, 4, 8
	conntrackLength, conntrackInvert, conntrackState, ofDNATed = 152, 148, 150, 1 << 7
	stateFlag                                                  = 1 << 0
)

// match reads a match of iptables-nft, such as "-m connmark --mark 0x10/0x10" or "-m conntrack --ctstate DNAT".
func (r *nftRule) match(d *netlink.AttributeDecoder, ours uint32) {
	var (
		name     string
		revision uint32
		info     []byte
	)
	within(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_MATCH_NAME:
			name = d.String()
		case unix.NFTA_MATCH_REV:
			revision = d.Uint32()
		case unix.NFTA_MATCH_INFO:
			info = d.Bytes()
		}
	})
	r.extension(name, revision, info, ours)
}

// extension takes a match of iptables.
func (r *nftRule) extension(name string, revision uint32, info []byte, ours uint32) {
	order := binary.NativeEndian
	switch {
	case name == "connmark" && revision == 1 && len(info) >= connmarkLength:
		r.marked = r.marked || info[connmarkInvert] == 0 && order.Uint32(info)&order.Uint32(info[connmarkMask:])&ours != 0
	case name == "conntrack" && revision == 3 && len(info) >= conntrackLength:
		r.translated = r.translated || order.Uint16(info[conntrackInvert:])&stateFlag == 0 && order.Uint16(info[conntrackState:])&ofDNATed != 0
	}
}

func (r *nftRule) bitwise(d *netlink.AttributeDecoder, ours uint32) {
	if d.Type() != unix.NFTA_BITWISE_MASK {
		return
	}
	within(d, func(d *netlink.AttributeDecoder) {
		mask := d.Bytes()
		if len(mask) != 4 {
			return
		}
		switch bits := binary.NativeEndian.Uint32(mask); r.key {
		case unix.NFT_CT_MARK:
			r.marked = r.marked || bits&ours != 0
		case unix.NFT_CT_STATUS:
			r.translated = r.translated || bits&statusDNAT != 0
		}
	})
}

func (r *nftRule) immediate(d *netlink.AttributeDecoder) {
	if d.Type() != unix.NFTA_IMMEDIATE_DATA {
		return
	}
	within(d, func(d *netlink.AttributeDecoder) {
		if d.Type() == unix.NFTA_DATA_VERDICT {
			within(d, r.readVerdict)
		}
	})
}

func (r *nftRule) readVerdict(d *netlink.AttributeDecoder) {
	switch d.Type() {
	case unix.NFTA_VERDICT_CODE:
		r.code(d.Uint32())
	case unix.NFTA_VERDICT_CHAIN:
		r.chain = d.String()
	}
}

// code takes a verdict of the kernel.
func (r *nftRule) code(verdict uint32) {
	switch verdict {
	case verdictAccept:
		r.verdict = accepted
	case verdictDrop:
		r.verdict = dropped
	case verdictQueue:
		r.queues = true
	}
}
