// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// BaseChain is a chain of nf_tables that is attached to a hook.
type BaseChain struct {
	// Family is the name in nft(8): ip, ip6 or inet.
	Family, Table, Name string
}

// From linux/netfilter.h (NF_DROP, NF_ACCEPT) and linux/netfilter/nf_conntrack_common.h (IPS_DST_NAT: the destination of a
// connection is translated).
const (
	verdictDrop, verdictAccept = 0, 1
	statusDNAT                 = 1 << 5
)

// chainDepth is the maximum depth of jumps in the kernel (NFT_JUMP_STACK_SIZE, net/netfilter/nf_tables.h).
const chainDepth = 16

// DroppingForwards returns the base chains in the forward hook that drop or reject all packets that none of their rules
// accepts, and that have no rule for the connections of Mappings. An accept in iptables ends only the evaluation of its own
// chain; other chains of the hook still see the packet (nft(8), VERDICT STATEMENT). A rule for Mappings accepts by our mark on
// the connection or by its status dnat. Further conditions of such a rule are ignored. A kernel without nf_tables has no such
// chains.
func DroppingForwards(own gateway.Ownership) ([]BaseChain, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("reading chains of nf_tables: %w", err)
	}
	found, err := (&forwardHook{conn: conn, ours: own.Forwarded().Mask}).dropping()
	err = errors.Join(err, conn.Close())
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading chains of nf_tables: %w", err)
	}
	return found, nil
}

type forwardHook struct {
	conn *netlink.Conn
	ours uint32
}

// fate is the result of a chain for the first packet of one of our connections.
type fate int

const (
	undecided fate = iota
	accepted
	dropped
)

func (h *forwardHook) dropping() ([]BaseChain, error) {
	chains, err := h.dump(unix.NFT_MSG_GETCHAIN, unix.AF_UNSPEC, nil)
	if err != nil {
		return nil, err
	}
	names := map[uint8]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6"}
	var found []BaseChain
	for _, message := range chains {
		family := message.Data[0]
		chain, policy, err := forwardChain(message.Data[nfgenmsgLength:])
		if err != nil {
			return nil, err
		}
		if chain.Family = names[family]; chain.Family == "" || chain.Name == "" {
			continue
		}
		becomes, err := h.follow(family, chain.Table, chain.Name, 0)
		if err != nil {
			return nil, err
		}
		if becomes == dropped || becomes == undecided && policy == verdictDrop {
			found = append(found, chain)
		}
	}
	return found, nil
}

// forwardChain reads a chain and its policy. It returns no name for a chain that is not in the forward hook.
func forwardChain(attributes []byte) (chain BaseChain, policy uint32, err error) {
	hook := uint32(unix.NF_INET_NUMHOOKS)
	policy = verdictAccept
	err = eachAttribute(attributes, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_CHAIN_TABLE:
			chain.Table = d.String()
		case unix.NFTA_CHAIN_NAME:
			chain.Name = d.String()
		case unix.NFTA_CHAIN_POLICY:
			policy = d.Uint32()
		case unix.NFTA_CHAIN_HOOK:
			within(d, func(d *netlink.AttributeDecoder) {
				if d.Type() == unix.NFTA_HOOK_HOOKNUM {
					hook = d.Uint32()
				}
			})
		}
	})
	if hook != unix.NF_INET_FORWARD {
		chain.Name = ""
	}
	return chain, policy, err
}

// follow evaluates the rules of a chain and of the chains to which they jump.
func (h *forwardHook) follow(family uint8, table, chain string, depth int) (fate, error) {
	if depth > chainDepth {
		return undecided, nil
	}
	rules, err := h.dump(unix.NFT_MSG_GETRULE, family, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_RULE_TABLE, table)
		e.String(unix.NFTA_RULE_CHAIN, chain)
	})
	if err != nil {
		return undecided, err
	}
	for _, message := range rules {
		rule, err := readRule(message.Data[nfgenmsgLength:], h.ours)
		if err != nil {
			return undecided, err
		}
		if rule.chain != "" {
			to, err := h.follow(family, table, rule.chain, depth+1)
			if err != nil || to == accepted || to == dropped && !rule.conditional {
				return to, err
			}
		}
		switch {
		case rule.verdict == accepted && (rule.ours || !rule.conditional):
			return accepted, nil
		case rule.verdict == dropped && !rule.conditional:
			return dropped, nil
		}
	}
	return undecided, nil
}

// nftRule holds the parts of a rule that affect our connections.
type nftRule struct {
	// conditional means that the rule has any condition, ours that it matches a property of our connections.
	conditional, ours bool
	verdict           fate
	// chain is the target of a jump or goto.
	chain string
	// mask holds the bits that our connections have in the status or mark that was loaded last.
	mask uint32
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
					r.mask = map[uint32]uint32{unix.NFT_CT_STATUS: statusDNAT, unix.NFT_CT_MARK: ours}[d.Uint32()]
				}
			})
		case d.Type() == unix.NFTA_EXPR_DATA && name == "bitwise":
			within(d, r.bitwise)
		}
	})
	switch name {
	case "counter", "log", "immediate":
	case "reject":
		r.verdict = dropped
	default:
		r.conditional = true
	}
}

func (r *nftRule) bitwise(d *netlink.AttributeDecoder) {
	if d.Type() != unix.NFTA_BITWISE_MASK {
		return
	}
	within(d, func(d *netlink.AttributeDecoder) {
		if mask := d.Bytes(); len(mask) == 4 && binary.NativeEndian.Uint32(mask)&r.mask != 0 {
			r.ours = true
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
		switch d.Uint32() {
		case verdictAccept:
			r.verdict = accepted
		case verdictDrop:
			r.verdict = dropped
		}
	case unix.NFTA_VERDICT_CHAIN:
		r.chain = d.String()
	}
}

// nfgenmsgLength is the length of the header after netlink's. It starts with the family.
const nfgenmsgLength = 4

func (h *forwardHook) dump(kind int, family uint8, attributes func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	encoder := netlink.NewAttributeEncoder()
	encoder.ByteOrder = binary.BigEndian
	if attributes != nil {
		attributes(encoder)
	}
	data, err := encoder.Encode()
	if err != nil {
		return nil, err
	}
	messages, err := h.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		return nil, err
	}
	for _, message := range messages {
		if len(message.Data) < nfgenmsgLength {
			return nil, fmt.Errorf("an answer of %d bytes is cut off", len(message.Data))
		}
	}
	return messages, nil
}

func eachAttribute(attributes []byte, read func(*netlink.AttributeDecoder)) error {
	decoder, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return err
	}
	decoder.ByteOrder = binary.BigEndian
	for decoder.Next() {
		read(decoder)
	}
	return decoder.Err()
}

// within reads the attributes nested in one.
func within(d *netlink.AttributeDecoder, read func(*netlink.AttributeDecoder)) {
	d.Nested(func(d *netlink.AttributeDecoder) error {
		for d.Next() {
			read(d)
		}
		return nil
	})
}
