// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package hold

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// releaseTimeout is how long Take waits for the table of a killed predecessor, which disappears a moment after its lock is
// released.
const (
	releaseTimeout = time.Second
	releasePoll    = 10 * time.Millisecond
)

// answerTimeout bounds the wait for an answer of the kernel, which is ready once it has processed the request.
const answerTimeout = 5 * time.Second

// Take activates connection tracking and NAT for IPv4, and for IPv6 if requested. They stay active until every process that
// holds the returned socket has closed it or exited. Take fails if the kernel lacks tables with an owner.
func Take(own gateway.Ownership, ipv6 bool) (*netlink.Conn, error) {
	messages, err := batch(Table(own), family(ipv6))
	if err != nil {
		return nil, fmt.Errorf("encoding a table of nf_tables: %w", err)
	}
	for deadline := time.Now().Add(releaseTimeout); ; time.Sleep(releasePoll) {
		conn, err := send(messages)
		switch {
		case err == nil:
			return conn, nil
		// EPERM means that another socket owns the table, or that this process lacks the privilege.
		case !errors.Is(err, unix.EPERM), time.Now().After(deadline):
			return nil, fmt.Errorf("creating the nf_tables table %s with an owner (needs Linux 5.12): %w", Table(own), err)
		}
	}
}

// Owns returns an error unless socket, which a previous process left, owns the table that Take would create. It may own one
// for other families or in another network namespace.
func Owns(socket *os.File, own gateway.Ownership, ipv6 bool) error {
	table := Table(own)
	owner, err := ownerOf(table, family(ipv6))
	if err != nil {
		return fmt.Errorf("reading the owner of the nf_tables table %s: %w", table, err)
	}
	port, err := portOf(socket)
	if err != nil {
		return fmt.Errorf("reading the address of the socket %s: %w", socket.Name(), err)
	}
	if port != owner {
		return fmt.Errorf("the nf_tables table %s belongs to another socket: its owner is netlink port %d, not %d", table, owner, port)
	}
	return nil
}

// Table returns the name of the table.
func Table(own gateway.Ownership) string { return own.SetPrefix + "hold" }

func family(ipv6 bool) uint8 {
	if ipv6 {
		return unix.NFPROTO_INET
	}
	return unix.NFPROTO_IPV4
}

// send sends a batch and returns the socket that it used.
func send(messages []netlink.Message) (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	if err := exchange(conn, messages); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func exchange(conn *netlink.Conn, messages []netlink.Message) error {
	if _, err := conn.SendMessages(messages); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	_, err := conn.Receive() // the acknowledgement of the last message, or the first error
	return err
}

// ownerOf returns the netlink port of the socket that owns a table, or 0 if the table has no owner.
func ownerOf(table string, family uint8) (port uint32, err error) {
	question, err := tableQuestion(table, family)
	if err != nil {
		return 0, err
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, err
	}
	answers, err := conn.Execute(question)
	if err != nil {
		return 0, err
	}
	return readOwner(answers)
}

// portOf returns the netlink port of a socket (netlink(7), nl_pid).
func portOf(socket *os.File) (uint32, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var address unix.Sockaddr
	var asked error
	if err := raw.Control(func(fd uintptr) { address, asked = unix.Getsockname(int(fd)) }); err != nil || asked != nil {
		return 0, errors.Join(err, asked)
	}
	if address, ok := address.(*unix.SockaddrNetlink); ok {
		return address.Pid, nil
	}
	return 0, fmt.Errorf("%T is not a netlink address", address)
}
