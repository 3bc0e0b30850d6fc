// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// Flags of tables (nft_table_flags).
const (
	tableDormant = 0x1
	tableOwner   = 0x2
	tablePersist = 0x4 // Linux 6.9

	tableUserdata = 6 // NFTA_TABLE_USERDATA
	tableOwnerID  = 7 // NFTA_TABLE_OWNER
)

// tableComment marks tables that smartnatd made.
const tableComment = "managed by smartnatd"

// elementBytes bounds the elements of a message: a netlink attribute holds less than 64 KiB.
const elementBytes = 60_000

// Transaction collects changes of one table, and of those that Append adds. The kernel executes them in order. Its methods must not be called after an error.
type Transaction struct {
	table    string
	family   uint8
	messages []netlink.Message
	// names describes each message, for errors.
	names []string
	err   error
}

// NewTransaction returns an empty Transaction for a table.
func NewTransaction(table string, family gateway.Family) *Transaction {
	return &Transaction{table: table, family: protocolFamily(family)}
}

func protocolFamily(family gateway.Family) uint8 {
	switch family {
	case gateway.IPv4:
		return unix.NFPROTO_IPV4
	case ruleset.BridgeFamily:
		return unix.NFPROTO_BRIDGE
	}
	return unix.NFPROTO_IPV6
}

// Append adds the changes of another table.
func (t *Transaction) Append(o *Transaction) {
	t.messages, t.names = append(t.messages, o.messages...), append(t.names, o.names...)
	if t.err == nil {
		t.err = o.err
	}
}

// Empty reports whether there is nothing to change.
func (t *Transaction) Empty() bool { return len(t.messages) == 0 }

func (t *Transaction) add(name string, kind int, flags netlink.HeaderFlags, fill func(e *encoder)) {
	var e encoder
	fill(&e)
	t.messages = append(t.messages, message(kind, flags, t.family, e))
	t.names = append(t.names, name)
}

// AddTable creates the table, or keeps it.
func (t *Transaction) AddTable(flags uint32) {
	t.add("table", unix.NFT_MSG_NEWTABLE, netlink.Create, func(e *encoder) {
		e.text(unix.NFTA_TABLE_NAME, t.table)
		e.number(unix.NFTA_TABLE_FLAGS, flags)
		e.bytes(tableUserdata, comment(tableComment))
	})
}

// DeleteTable deletes the table with everything in it.
func (t *Transaction) DeleteTable() {
	t.add("table", unix.NFT_MSG_DELTABLE, 0, func(e *encoder) { e.text(unix.NFTA_TABLE_NAME, t.table) })
}

// AddSet creates a set without elements.
func (t *Transaction) AddSet(s ruleset.Set) {
	t.add("set "+s.Name, unix.NFT_MSG_NEWSET, netlink.Create|netlink.Excl, func(e *encoder) {
		e.text(unix.NFTA_SET_TABLE, t.table)
		e.text(unix.NFTA_SET_NAME, s.Name)
		e.number(unix.NFTA_SET_ID, uint32(len(t.messages)+1))
		e.schema(s.Schema)
	})
}

// DeleteSet deletes a set that no rule uses.
func (t *Transaction) DeleteSet(name string) {
	t.add("set "+name, unix.NFT_MSG_DELSET, 0, func(e *encoder) {
		e.text(unix.NFTA_SET_TABLE, t.table)
		e.text(unix.NFTA_SET_NAME, name)
	})
}

// AddElements adds elements to a set.
func (t *Transaction) AddElements(set string, schema ruleset.Schema, elements []ruleset.Element) {
	t.elements(set, schema, elements, unix.NFT_MSG_NEWSETELEM, netlink.Create|netlink.Excl)
}

// DeleteElements deletes elements of a set.
func (t *Transaction) DeleteElements(set string, schema ruleset.Schema, elements []ruleset.Element) {
	t.elements(set, schema, elements, unix.NFT_MSG_DELSETELEM, 0)
}

func (t *Transaction) elements(set string, schema ruleset.Schema, elements []ruleset.Element, kind int, flags netlink.HeaderFlags) {
	for len(elements) > 0 {
		t.add("elements of set "+set, kind, flags, func(e *encoder) {
			*e = make(encoder, 0, min(elementBytes, 256+120*len(elements)))
			e.text(unix.NFTA_SET_ELEM_LIST_TABLE, t.table)
			e.text(unix.NFTA_SET_ELEM_LIST_SET, set)
			e.nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
				for len(elements) > 0 && len(*e) < elementBytes {
					e.element(schema, elements[0])
					elements = elements[1:]
				}
			})
		})
	}
}

// AddChain creates a chain without rules.
func (t *Transaction) AddChain(c ruleset.Chain) {
	t.add("chain "+c.Name, unix.NFT_MSG_NEWCHAIN, netlink.Create|netlink.Excl, func(e *encoder) {
		e.text(unix.NFTA_CHAIN_TABLE, t.table)
		e.text(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Hook == nil {
			return
		}
		e.nested(unix.NFTA_CHAIN_HOOK, func() {
			e.number(unix.NFTA_HOOK_HOOKNUM, uint32(c.Hook.Point))
			e.number(unix.NFTA_HOOK_PRIORITY, uint32(c.Hook.Priority))
		})
		e.number(unix.NFTA_CHAIN_POLICY, uint32(ruleset.Accept))
		e.text(unix.NFTA_CHAIN_TYPE, string(c.Hook.Type))
	})
}

// DeleteChain deletes a chain that has no rules and to which no rule or element leads.
func (t *Transaction) DeleteChain(name string) {
	t.add("chain "+name, unix.NFT_MSG_DELCHAIN, 0, func(e *encoder) {
		e.text(unix.NFTA_CHAIN_TABLE, t.table)
		e.text(unix.NFTA_CHAIN_NAME, name)
	})
}

// FlushChain deletes all rules of a chain.
func (t *Transaction) FlushChain(name string) {
	t.add("rules of chain "+name, unix.NFT_MSG_DELRULE, 0, func(e *encoder) {
		e.text(unix.NFTA_RULE_TABLE, t.table)
		e.text(unix.NFTA_RULE_CHAIN, name)
	})
}

// AddRules appends rules to a chain.
func (t *Transaction) AddRules(chain string, rules []ruleset.Rule) {
	for i, r := range rules {
		t.add(fmt.Sprintf("rule %d of chain %s", i+1, chain), unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(e *encoder) {
			e.text(unix.NFTA_RULE_TABLE, t.table)
			e.text(unix.NFTA_RULE_CHAIN, chain)
			if err := e.rule(r, t.family); err != nil && t.err == nil {
				t.err = fmt.Errorf("rule %d of chain %s: %w", i+1, chain, err)
			}
		})
	}
}

// AddHelper creates a ct helper object.
func (t *Transaction) AddHelper(h gateway.Helper) {
	t.add("helper "+h.Name, unix.NFT_MSG_NEWOBJ, netlink.Create, func(e *encoder) {
		e.text(unix.NFTA_OBJ_TABLE, t.table)
		e.text(unix.NFTA_OBJ_NAME, h.Name)
		e.number(unix.NFTA_OBJ_TYPE, ctHelperObject)
		e.nested(unix.NFTA_OBJ_DATA, func() {
			e.text(unix.NFTA_CT_HELPER_NAME, h.Name)
			e.bytes(unix.NFTA_CT_HELPER_L4PROTO, []byte{protocolNumber(h.Protocol)})
		})
	})
}

// DeleteHelper deletes a ct helper object that no rule uses.
func (t *Transaction) DeleteHelper(name string) {
	t.add("helper "+name, unix.NFT_MSG_DELOBJ, 0, func(e *encoder) {
		e.text(unix.NFTA_OBJ_TABLE, t.table)
		e.text(unix.NFTA_OBJ_NAME, name)
		e.number(unix.NFTA_OBJ_TYPE, ctHelperObject)
	})
}

func protocolNumber(p gateway.Protocol) uint8 {
	return map[gateway.Protocol]uint8{gateway.TCP: unix.IPPROTO_TCP, gateway.UDP: unix.IPPROTO_UDP, gateway.SCTP: unix.IPPROTO_SCTP}[p]
}

// batch returns the messages of the transaction. The kernel acknowledges the last one.
func (t *Transaction) batch() []netlink.Message {
	boundary := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)}
	}
	messages := slices.Concat([]netlink.Message{boundary(unix.NFNL_MSG_BATCH_BEGIN)}, t.messages, []netlink.Message{boundary(unix.NFNL_MSG_BATCH_END)})
	messages[len(messages)-2].Header.Flags |= netlink.Acknowledge
	return messages
}
