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

// Client reads and writes tables through one socket, which owns the tables that it creates if the kernel permits that: no other
// socket can change them then, not even `nft flush ruleset`. It is not safe for concurrent use.
type Client struct {
	conn  *netlink.Conn
	raw   syscall.RawConn
	flags uint32
	// replies is the buffer for the answers to a transaction.
	replies []byte
	sendBuf int
}

// Options configures a Client.
type Options struct {
	// Shared leaves tables without an owner, as on kernels before Linux 6.9.
	Shared bool
}

// answerTimeout bounds the wait for an answer of the kernel, which is ready once it has processed the request.
const answerTimeout = 30 * time.Second

// New returns a Client for the network namespace of the calling thread.
func New(opts Options) (*Client, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("connecting to nf_tables: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to nf_tables: %w", err), conn.Close())
	}
	c := &Client{conn: conn, raw: raw, replies: make([]byte, 64<<10)}
	if !opts.Shared {
		c.flags = tableOwner | tablePersist
	}
	return c, nil
}

// Close closes the socket. Its tables stay, and have no owner any more.
func (c *Client) Close() error { return c.conn.Close() }

// Owns reports whether the Client owns the tables that it creates. It is certain after the first Commit with AddTable.
func (c *Client) Owns() bool { return c.flags&tableOwner != 0 }

// TableFlags returns the flags for AddTable.
func (c *Client) TableFlags() uint32 { return c.flags }

// Share makes the Client create tables without an owner.
func (c *Client) Share() { c.flags = 0 }

// Commit executes a transaction. If it fails, nothing has changed. The error is gateway.ErrRefused if the kernel refuses
// something in the transaction itself.
func (c *Client) Commit(t *Transaction) error {
	if t.err != nil {
		return t.err
	}
	if t.Empty() {
		return nil
	}
	messages := t.batch()
	if err := c.growSendBuffer(messages); err != nil {
		return err
	}
	sent, err := c.conn.SendMessages(messages)
	if err != nil {
		return fmt.Errorf("writing table %s: %w", t.table, err)
	}
	failures, acknowledged, err := c.receiveAnswers(sent[len(sent)-2].Header.Sequence)
	switch {
	case err != nil:
		return fmt.Errorf("writing table %s: %w", t.table, err)
	case len(failures) == 0 && acknowledged:
		return nil
	case len(failures) == 0:
		return fmt.Errorf("writing table %s: the kernel did not answer", t.table)
	}
	first := failures[0]
	name := "transaction"
	if i := slices.IndexFunc(sent, func(m netlink.Message) bool { return m.Header.Sequence == first.sequence }); i > 0 && i <= len(t.names) {
		name = t.names[i-1]
	}
	err = fmt.Errorf("writing table %s: %s: %w", t.table, name, first.errno)
	if isRefusal(first.errno) {
		return fmt.Errorf("%w: %w", gateway.ErrRefused, err)
	}
	return err
}

// isRefusal reports whether the kernel refuses a message because of its content.
func isRefusal(errno syscall.Errno) bool {
	return slices.Contains([]syscall.Errno{
		unix.EINVAL, unix.EOPNOTSUPP, unix.ENOENT, unix.ERANGE, unix.EOVERFLOW, unix.ELOOP, unix.EMLINK, unix.E2BIG, unix.EEXIST, unix.ENFILE,
	}, errno)
}

// growSendBuffer makes room for a transaction, which is one datagram.
func (c *Client) growSendBuffer(messages []netlink.Message) error {
	size := 0
	for _, m := range messages {
		size += unix.NLMSG_HDRLEN + (len(m.Data)+3)/4*4
	}
	const reserve = 1 << 16
	if size+reserve <= c.sendBuf {
		return nil
	}
	if err := c.conn.SetWriteBuffer(size + reserve); err != nil {
		return fmt.Errorf("enlarging the send buffer to %d bytes: %w", size+reserve, err)
	}
	c.sendBuf = size + reserve
	return nil
}

// failure is a message that the kernel refused.
type failure struct {
	sequence uint32
	errno    syscall.Errno
}

// receiveAnswers receives all answers to a batch. The kernel has processed it when the call that sends it returns, so they wait
// on the socket.
func (c *Client) receiveAnswers(last uint32) (failures []failure, acknowledged bool, err error) {
	readErr := c.raw.Read(func(fd uintptr) bool {
		for {
			n, _, failed := unix.Recvfrom(int(fd), c.replies, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(failed, unix.EAGAIN):
				return true
			case errors.Is(failed, unix.EINTR):
				continue
			case failed != nil:
				err = failed // ENOBUFS: more answers than fit
				return true
			}
			found, done, broken := parseAnswers(c.replies[:n], last)
			failures, acknowledged = append(failures, found...), acknowledged || done
			if broken != nil {
				err = broken
				return true
			}
		}
	})
	return failures, acknowledged, errors.Join(err, readErr)
}

// parseAnswers returns the failures in a datagram, and whether it acknowledges a message.
func parseAnswers(datagram []byte, last uint32) (failures []failure, acknowledged bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return nil, false, fmt.Errorf("an answer of %d bytes is cut off: %w", len(datagram), err)
	}
	for _, m := range messages {
		if m.Header.Type != unix.NLMSG_ERROR {
			continue
		}
		if len(m.Data) < 4 {
			return nil, false, fmt.Errorf("an answer of %d bytes is cut off", len(datagram))
		}
		if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
			failures = append(failures, failure{m.Header.Seq, syscall.Errno(-code)})
		} else {
			acknowledged = acknowledged || m.Header.Seq == last
		}
	}
	return failures, acknowledged, nil
}

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
