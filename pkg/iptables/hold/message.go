// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package hold

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// These constants are missing in golang.org/x/sys (linux/netfilter/nf_tables.h, nf_conntrack_tuple_common.h).
const (
	tableOwner        = 0x2 // NFT_TABLE_F_OWNER
	tableUserdata     = 6   // NFTA_TABLE_USERDATA
	tableOwnerPort    = 7   // NFTA_TABLE_OWNER
	directionOriginal = 0   // IP_CT_DIR_ORIGINAL
)

// The table has two chains. A NAT chain needs a hook; this one has the hook that only the first packet of a connection to the
// host itself passes, and it is empty. No packet reaches the other chain, which holds the rule that requires connection
// tracking.
const (
	natChain     = "nat"
	trackChain   = "track"
	natHook      = unix.NF_INET_LOCAL_IN
	natPriority  = 100 // same as iptables
	tableComment = "keeps connection tracking and NAT on for smartnatd"
)

// batch returns the messages that create the table in one transaction. It fails if the table exists. On success the kernel
// answers only the last message.
func batch(table string, family uint8) ([]netlink.Message, error) {
	var errs []error
	message := func(kind int, flags netlink.HeaderFlags, attributes func(*netlink.AttributeEncoder)) netlink.Message {
		message, err := message(kind, family, netlink.Create|flags, attributes)
		errs = append(errs, err)
		return message
	}
	messages := []netlink.Message{
		boundary(unix.NFNL_MSG_BATCH_BEGIN),
		message(unix.NFT_MSG_NEWTABLE, netlink.Excl, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_TABLE_NAME, table)
			e.Uint32(unix.NFTA_TABLE_FLAGS, tableOwner)
			e.Bytes(tableUserdata, comment(tableComment))
		}),
		message(unix.NFT_MSG_NEWCHAIN, 0, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_CHAIN_TABLE, table)
			e.String(unix.NFTA_CHAIN_NAME, natChain)
			e.String(unix.NFTA_CHAIN_TYPE, "nat")
			e.Nested(unix.NFTA_CHAIN_HOOK, func(e *netlink.AttributeEncoder) error {
				e.Uint32(unix.NFTA_HOOK_HOOKNUM, natHook)
				e.Uint32(unix.NFTA_HOOK_PRIORITY, natPriority)
				return nil
			})
		}),
		message(unix.NFT_MSG_NEWCHAIN, 0, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_CHAIN_TABLE, table)
			e.String(unix.NFTA_CHAIN_NAME, trackChain)
		}),
		message(unix.NFT_MSG_NEWRULE, netlink.Append|netlink.Acknowledge, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_RULE_TABLE, table)
			e.String(unix.NFTA_RULE_CHAIN, trackChain)
			e.Nested(unix.NFTA_RULE_EXPRESSIONS, ofTheOriginalDirection)
		}),
		boundary(unix.NFNL_MSG_BATCH_END),
	}
	return messages, errors.Join(errs...)
}

// message returns a request about tables of a family.
func message(kind int, family uint8, flags netlink.HeaderFlags, attributes func(*netlink.AttributeEncoder)) (netlink.Message, error) {
	encoder := netlink.NewAttributeEncoder()
	encoder.ByteOrder = binary.BigEndian
	attributes(encoder)
	data, err := encoder.Encode()
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append(nfgenmsg(family, 0), data...),
	}, err
}

// tableQuestion returns a request for a table.
func tableQuestion(table string, family uint8) (netlink.Message, error) {
	return message(unix.NFT_MSG_GETTABLE, family, 0, func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_TABLE_NAME, table) })
}

// readOwner returns the netlink port of the owner in the answers, or 0 if the table has none.
func readOwner(answers []netlink.Message) (port uint32, err error) {
	for _, answer := range answers {
		if len(answer.Data) < nfgenmsgLength {
			return 0, fmt.Errorf("an answer of %d bytes is cut off", len(answer.Data))
		}
		decoder, err := netlink.NewAttributeDecoder(answer.Data[nfgenmsgLength:])
		if err != nil {
			return 0, err
		}
		decoder.ByteOrder = binary.BigEndian
		for decoder.Next() {
			if decoder.Type() == tableOwnerPort {
				port = decoder.Uint32()
			}
		}
		if err := decoder.Err(); err != nil {
			return 0, err
		}
	}
	return port, nil
}

// ofTheOriginalDirection adds the expressions of a match that requires connection tracking.
func ofTheOriginalDirection(e *netlink.AttributeEncoder) error {
	expression(e, "ct", func(e *netlink.AttributeEncoder) {
		e.Uint32(unix.NFTA_CT_KEY, unix.NFT_CT_DIRECTION)
		e.Uint32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
	})
	// The ct expression alone is enough for the kernel. The comparison makes the rule complete, so that nft can list it.
	expression(e, "cmp", func(e *netlink.AttributeEncoder) {
		e.Uint32(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
		e.Uint32(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ)
		e.Nested(unix.NFTA_CMP_DATA, func(e *netlink.AttributeEncoder) error {
			e.Bytes(unix.NFTA_DATA_VALUE, []byte{directionOriginal})
			return nil
		})
	})
	return nil
}

func expression(e *netlink.AttributeEncoder, name string, data func(*netlink.AttributeEncoder)) {
	e.Nested(unix.NFTA_LIST_ELEM, func(e *netlink.AttributeEncoder) error {
		e.String(unix.NFTA_EXPR_NAME, name)
		e.Nested(unix.NFTA_EXPR_DATA, func(e *netlink.AttributeEncoder) error {
			data(e)
			return nil
		})
		return nil
	})
}

// boundary returns the message that begins or ends a batch.
func boundary(kind netlink.HeaderType) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request},
		Data:   nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
	}
}

const nfgenmsgLength = 4

// nfgenmsg returns the header that follows the netlink header.
func nfgenmsg(family uint8, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// comment encodes text as nft does in the userdata of a table: type 0, length, text.
func comment(text string) []byte {
	return append([]byte{0, uint8(len(text) + 1)}, text+"\x00"...)
}
