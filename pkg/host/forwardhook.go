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

// From linux/netfilter.h (NF_DROP, NF_ACCEPT, NF_QUEUE, whose upper bits are a number) and linux/netfilter/nf_conntrack_common.h (IPS_DST_NAT: the destination of a
// connection is translated).
const (
	verdictDrop, verdictAccept, verdictQueue = 0, 1, 3
	statusDNAT                               = 1 << 5
)

// chainDepth is the maximum depth of jumps in the kernel (NFT_JUMP_STACK_SIZE, net/netfilter/nf_tables.h).
const chainDepth = 16

// ReadChains returns the base chains of other programs in nf_tables that affect connections of Mappings.
//
// Dropping are those in the forward hook that drop or reject all packets that none of their rules accepts, and that have no rule for the
// connections of Mappings. An accept in iptables ends only the evaluation of its own
// chain; other chains of the hook still see the packet (nft(8), VERDICT STATEMENT). A rule for Mappings accepts by our mark on
// the connection or by its status dnat, in the words of nft or of iptables-nft. Further conditions of such a rule are ignored.
//
// Queuing are those on the way of forwarded packets from which a rule is reached that hands packets to a program, whatever its
// conditions; targets of verdict maps are not followed. A kernel without nf_tables has no such chains.
func ReadChains(own gateway.Ownership) (gateway.OtherChains, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return gateway.OtherChains{}, fmt.Errorf("reading chains of nf_tables: %w", err)
	}
	hook := newForwardHook(conn, own)
	found, err := hook.read()
	err = errors.Join(err, conn.Close())
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return gateway.OtherChains{}, nil
	}
	if err != nil {
		return gateway.OtherChains{}, fmt.Errorf("reading chains of nf_tables: %w", err)
	}
	return found, nil
}

func newForwardHook(conn *netlink.Conn, own gateway.Ownership) *forwardHook {
	return &forwardHook{conn: conn, own: own, ours: own.Forwarded().Mask, rules: map[chainKey][]nftRule{}, fates: map[fateKey]fate{}}
}

type forwardHook struct {
	conn *netlink.Conn
	own  gateway.Ownership
	ours uint32
	// rules holds the rules of chains that were read.
	rules map[chainKey][]nftRule
	// fates holds the results of chains that were followed: many rules may jump to the same chain.
	fates map[fateKey]fate
}

type chainKey struct {
	family      uint8
	table, name string
}

// fateKey is a chain, for a connection whose destination is translated or not.
type fateKey struct {
	chainKey
	translated bool
}

// fate is the result of a chain for the first packet of one of our connections.
type fate int

const (
	undecided fate = iota
	accepted
	dropped
)

func (h *forwardHook) read() (gateway.OtherChains, error) {
	var found gateway.OtherChains
	chains, err := h.dump(unix.NFT_MSG_GETCHAIN, unix.AF_UNSPEC, nil)
	if err != nil {
		return found, err
	}
	names := map[uint8]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6"}
	for _, message := range chains {
		family := message.Data[0]
		chain, err := readHooked(message.Data[nfgenmsgLength:])
		if err != nil {
			return found, err
		}
		if chain.Family = names[family]; chain.Family == "" || h.own.OwnsTable(chain.Table) {
			continue
		}
		if err := h.judge(chain, family, &found); err != nil {
			return found, err
		}
	}
	return found, nil
}

// hooked is a chain with the hook that it is attached to, or unix.NF_INET_NUMHOOKS.
type hooked struct {
	gateway.BaseChain
	hook, policy uint32
	// nat means that only the first packets of connections meet it.
	nat bool
}

// judge adds the chain if it affects connections of Mappings.
func (h *forwardHook) judge(chain hooked, family uint8, to *gateway.OtherChains) error {
	key := chainKey{family, chain.Table, chain.Name}
	onTheWay := chain.hook == unix.NF_INET_PRE_ROUTING || chain.hook == unix.NF_INET_FORWARD || chain.hook == unix.NF_INET_POST_ROUTING
	if onTheWay && !chain.nat {
		queues, err := h.queues(key, map[chainKey]bool{})
		if err != nil {
			return err
		}
		if queues {
			to.Queuing = append(to.Queuing, chain.BaseChain)
		}
	}
	if chain.hook != unix.NF_INET_FORWARD {
		return nil
	}
	for _, chain.EgressOnly = range []bool{false, true} {
		becomes, err := h.follow(key, !chain.EgressOnly, 0)
		if err != nil {
			return err
		}
		if becomes == dropped || becomes == undecided && chain.policy == verdictDrop {
			to.Dropping = append(to.Dropping, chain.BaseChain)
			break
		}
	}
	return nil
}

func readHooked(attributes []byte) (hooked, error) {
	chain := hooked{hook: unix.NF_INET_NUMHOOKS, policy: verdictAccept}
	err := eachAttribute(attributes, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_CHAIN_TABLE:
			chain.Table = d.String()
		case unix.NFTA_CHAIN_NAME:
			chain.Name = d.String()
		case unix.NFTA_CHAIN_POLICY:
			chain.policy = d.Uint32()
		case unix.NFTA_CHAIN_TYPE:
			chain.nat = d.String() == "nat"
		case unix.NFTA_CHAIN_HOOK:
			within(d, func(d *netlink.AttributeDecoder) {
				if d.Type() == unix.NFTA_HOOK_HOOKNUM {
					chain.hook = d.Uint32()
				}
			})
		}
	})
	return chain, err
}

// queues reports whether a rule of a chain, or of those to which its rules jump, hands packets to a program.
func (h *forwardHook) queues(chain chainKey, visited map[chainKey]bool) (bool, error) {
	if visited[chain] {
		return false, nil
	}
	visited[chain] = true
	rules, err := h.rulesOf(chain)
	if err != nil {
		return false, err
	}
	for _, rule := range rules {
		if rule.queues {
			return true, nil
		}
		if rule.chain == "" {
			continue
		}
		if queues, err := h.queues(chainKey{chain.family, chain.table, rule.chain}, visited); err != nil || queues {
			return queues, err
		}
	}
	return false, nil
}

// follow evaluates the rules of a chain and of the chains to which they jump, for a connection whose destination is translated or not.
func (h *forwardHook) follow(chain chainKey, translated bool, depth int) (fate, error) {
	if depth > chainDepth {
		return undecided, nil
	}
	key := fateKey{chain, translated}
	if known, found := h.fates[key]; found {
		return known, nil
	}
	becomes, err := h.decide(chain, translated, depth)
	if err == nil {
		h.fates[key] = becomes
	}
	return becomes, err
}

func (h *forwardHook) decide(chain chainKey, translated bool, depth int) (fate, error) {
	rules, err := h.rulesOf(chain)
	if err != nil {
		return undecided, err
	}
	for _, rule := range rules {
		if rule.chain != "" {
			to, err := h.follow(chainKey{chain.family, chain.table, rule.chain}, translated, depth+1)
			if err != nil || to == accepted || to == dropped && !rule.conditional {
				return to, err
			}
		}
		switch {
		case rule.verdict == accepted && (rule.marked || translated && rule.translated || !rule.conditional):
			return accepted, nil
		case rule.verdict == dropped && !rule.conditional:
			return dropped, nil
		}
	}
	return undecided, nil
}

// rulesOf returns the rules of a chain.
func (h *forwardHook) rulesOf(chain chainKey) ([]nftRule, error) {
	if rules, found := h.rules[chain]; found {
		return rules, nil
	}
	messages, err := h.dump(unix.NFT_MSG_GETRULE, chain.family, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_RULE_TABLE, chain.table)
		e.String(unix.NFTA_RULE_CHAIN, chain.name)
	})
	if err != nil {
		return nil, err
	}
	rules := make([]nftRule, 0, len(messages))
	for _, message := range messages {
		rule, err := readRule(message.Data[nfgenmsgLength:], h.ours)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	h.rules[chain] = rules
	return rules, nil
}

// nfgenmsgLength is the length of the header after netlink's. It starts with the family.
const nfgenmsgLength = 4

func (h *forwardHook) dump(kind int, family uint8, attributes func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	return h.request(kind, family, netlink.Dump, attributes)
}

func (h *forwardHook) request(kind int, family uint8, flags netlink.HeaderFlags, attributes func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
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
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
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
