// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// TableInfo describes a table.
type TableInfo struct {
	Exists bool
	// Managed means that smartnatd created it.
	Managed bool
	// Owner is the netlink port of the socket that owns the table, or 0.
	Owner uint32
}

// Table returns what the kernel knows about a table, without its content.
func (c *Client) Table(name string, family gateway.Family) (info TableInfo, err error) {
	var e encoder
	e.text(unix.NFTA_TABLE_NAME, name)
	err = c.execute(message(unix.NFT_MSG_GETTABLE, 0, protocolFamily(family), e), func(answer netlink.Message) error {
		info.Exists = true
		return attributes(answer, func(d *netlink.AttributeDecoder) {
			switch d.Type() {
			case tableUserdata:
				info.Managed = commentOf(d.Bytes()) == tableComment
			case tableOwnerID:
				info.Owner = d.Uint32()
			}
		})
	})
	if errors.Is(err, unix.ENOENT) {
		return TableInfo{}, nil
	}
	if err != nil {
		return TableInfo{}, fmt.Errorf("reading table %s: %w", name, err)
	}
	return info, nil
}

// Managed reports whether smartnatd created the table or its BridgeTable.
func (c *Client) Managed(name string, family gateway.Family) (bool, error) {
	table, err := c.Table(name, family)
	if err != nil || table.Managed {
		return table.Managed, err
	}
	bridge, err := c.Table(ruleset.BridgeTable(name, family), ruleset.BridgeFamily)
	return bridge.Managed, err
}

// Port returns the netlink port of the Client (netlink(7), nl_pid).
func (c *Client) Port() (port uint32, err error) {
	controlErr := c.raw.Control(func(fd uintptr) {
		var address unix.Sockaddr
		if address, err = unix.Getsockname(int(fd)); err == nil {
			port = address.(*unix.SockaddrNetlink).Pid
		}
	})
	return port, errors.Join(err, controlErr)
}

// execute sends a request and passes every answer. It does not use the receiving half of the netlink package, which reads pages
// of 4 KiB: the kernel walks a set from its start for each part of a dump.
func (c *Client) execute(request netlink.Message, each func(netlink.Message) error) error {
	if err := c.conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	request.Header.Flags |= netlink.Acknowledge
	sent, err := c.conn.Send(request)
	if err != nil {
		return err
	}
	var errs []error
	readErr := c.raw.Read(func(fd uintptr) bool {
		for {
			n, _, failed := unix.Recvfrom(int(fd), c.replies, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(failed, unix.EAGAIN):
				return false
			case errors.Is(failed, unix.EINTR):
				continue
			case failed != nil:
				errs = append(errs, failed)
				return true
			}
			done, broken := eachAnswer(c.replies[:n], sent.Header.Sequence, func(m netlink.Message) {
				if err := each(m); err != nil && len(errs) == 0 {
					errs = append(errs, err)
				}
			})
			if broken != nil {
				errs = append(errs, broken)
			}
			if done || broken != nil {
				return true
			}
		}
	})
	return errors.Join(append(errs, readErr)...)
}

// eachAnswer passes the answers in a datagram to a request. done means that no more follow.
func eachAnswer(datagram []byte, sequence uint32, each func(netlink.Message)) (done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return false, fmt.Errorf("an answer of %d bytes is cut off: %w", len(datagram), err)
	}
	for _, m := range messages {
		switch {
		case m.Header.Seq != sequence:
		case m.Header.Type == unix.NLMSG_DONE, m.Header.Type == unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return true, fmt.Errorf("an answer of %d bytes is cut off", len(datagram))
			}
			if code := int32(binary.NativeEndian.Uint32(m.Data)); code < 0 {
				return true, syscall.Errno(-code)
			}
			return true, nil
		default:
			each(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(m.Header.Type)}, Data: m.Data})
		}
	}
	return false, nil
}

// dump passes all objects of a kind in a table. All kinds name their table by the same attribute.
func (c *Client) dump(kind int, table string, family uint8, each func(answer netlink.Message) error) error {
	var e encoder
	e.text(unix.NFTA_TABLE_NAME, table)
	return c.execute(message(kind, netlink.Dump, family, e), each)
}

// readAttempts bounds how often a table is read while other processes change nf_tables.
const readAttempts = 5

// Read returns a table with all elements, except for those of dynamic sets, and the chains of its BridgeTable.
func (c *Client) Read(name string, family gateway.Family) (ruleset.Table, error) {
	for attempt := 1; ; attempt++ {
		before, err := c.Generation()
		if err != nil {
			return ruleset.Table{}, err
		}
		table, err := c.readBoth(name, family)
		after, genErr := c.Generation()
		if genErr != nil || before == after && err == nil || attempt == readAttempts {
			if err := errors.Join(err, genErr); err != nil {
				return ruleset.Table{}, fmt.Errorf("reading table %s: %w", name, err)
			}
			return table, nil
		}
	}
}

func (c *Client) readBoth(name string, family gateway.Family) (ruleset.Table, error) {
	table, err := c.read(name, family)
	if err != nil {
		return table, err
	}
	bridgeTable := ruleset.BridgeTable(name, family)
	info, err := c.Table(bridgeTable, ruleset.BridgeFamily)
	if err != nil || !info.Exists {
		return table, err
	}
	bridge, err := c.read(bridgeTable, ruleset.BridgeFamily)
	table.Bridge = bridge.Chains
	return table, err
}

func (c *Client) read(name string, family gateway.Family) (ruleset.Table, error) {
	table := ruleset.Table{Family: family}
	number := protocolFamily(family)
	chains := map[string]int{}
	errs := []error{
		c.dump(unix.NFT_MSG_GETCHAIN, name, number, func(answer netlink.Message) error {
			of, chain, err := chainOf(answer)
			if of == name {
				chains[chain.Name] = len(table.Chains)
				table.Chains = append(table.Chains, chain)
			}
			return err
		}),
		c.dump(unix.NFT_MSG_GETRULE, name, number, func(answer netlink.Message) error {
			chain, rule, err := ruleOf(answer)
			if i, found := chains[chain]; found && err == nil {
				table.Chains[i].Rules = append(table.Chains[i].Rules, rule)
			}
			return err
		}),
		c.dump(unix.NFT_MSG_GETSET, name, number, func(answer netlink.Message) error {
			of, set, err := setOf(answer)
			if of == name {
				table.Sets = append(table.Sets, set)
			}
			return err
		}),
		c.dump(unix.NFT_MSG_GETFLOWTABLE, name, number, func(answer netlink.Message) error {
			of, flowtable, err := flowtableOf(answer)
			if of == name {
				table.Flowtables = append(table.Flowtables, flowtable)
			}
			return err
		}),
		c.dump(unix.NFT_MSG_GETOBJ, name, number, func(answer netlink.Message) error {
			of, helper, err := helperOf(answer)
			if of == name {
				table.Helpers = append(table.Helpers, helper)
			}
			return err
		}),
	}
	for i := range table.Sets {
		if !table.Sets[i].Dynamic {
			listed, err := c.elements(name, table.Sets[i].Name, number)
			table.Sets[i].Elements = joinRanges(table.Sets[i].Schema, listed)
			errs = append(errs, err)
		}
	}
	slices.SortFunc(table.Chains, func(x, y ruleset.Chain) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(table.Sets, func(x, y ruleset.Set) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(table.Flowtables, func(x, y ruleset.Flowtable) int { return strings.Compare(x.Name, y.Name) })
	return table, errors.Join(errs...)
}

func (c *Client) elements(table, set string, family uint8) (elements []rawElement, err error) {
	var e encoder
	e.text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	e.text(unix.NFTA_SET_ELEM_LIST_SET, set)
	err = c.execute(message(unix.NFT_MSG_GETSETELEM, netlink.Dump, family, e), func(answer netlink.Message) (err error) {
		elements, err = elementsOf(elements, answer)
		return err
	})
	return elements, err
}

// Counts returns the elements of a set with counters, or none if there is no such set. whole is not set if the set or its table
// changed meanwhile, so that elements may be missing.
func (c *Client) Counts(table, set string, family gateway.Family) (counts []ruleset.Count, whole bool, err error) {
	var e encoder
	e.text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	e.text(unix.NFTA_SET_ELEM_LIST_SET, set)
	err = c.execute(message(unix.NFT_MSG_GETSETELEM, netlink.Dump, protocolFamily(family), e), func(answer netlink.Message) (err error) {
		counts, err = countsOf(counts, answer)
		return err
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, true, nil
	case errors.Is(err, unix.EINTR):
		return counts, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("reading the counters in set %s of table %s: %w", set, table, err)
	}
	return counts, true, nil
}

// Generation returns a number that changes with every change of nf_tables in the network namespace.
func (c *Client) Generation() (id uint32, err error) {
	err = c.execute(message(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil), func(answer netlink.Message) error {
		return attributes(answer, func(d *netlink.AttributeDecoder) {
			if d.Type() == unix.NFTA_GEN_ID {
				id = d.Uint32()
			}
		})
	})
	if err != nil {
		return 0, fmt.Errorf("reading the generation of nf_tables: %w", err)
	}
	return id, nil
}

// commits is a socket filter that passes the message that ends a transaction and drops the possibly thousands of messages
// about its content.
func commits() []bpf.RawInstruction {
	const typeInHeader = 4 // nlmsg_type in struct nlmsghdr; the filter reads it in network byte order although it is in host byte order
	newGeneration := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN))
	return []bpf.RawInstruction{
		{Op: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeInHeader},
		{Op: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(newGeneration), Jf: 1},
		{Op: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Op: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// Watch calls changed once at the start and then whenever nf_tables may have changed, by any process including this one. It
// returns nil when ctx ends, and an error if it can no longer watch.
func Watch(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	if err := errors.Join(conn.SetBPF(commits()), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	for {
		changed()
		// ENOBUFS means that the socket overflowed. The lost messages carry no more information than this one.
		if _, err := conn.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("reading changes of nf_tables: %w", err)
		}
	}
}
