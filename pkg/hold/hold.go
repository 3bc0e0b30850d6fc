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

// A process that was killed lets go of its table a moment later than of the lock that its successor waits for.
const (
	releaseTimeout = time.Second
	releasePoll    = 10 * time.Millisecond
)

// answerTimeout is for an answer that is there once the kernel has taken what was sent.
const answerTimeout = 5 * time.Second

// Take switches connection tracking and translation on, for IPv6 too where that is asked for, until the socket is closed by all who
// have it, which the end of a process does. It fails where the kernel has no such tables.
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
		// What the kernel says of a table that is another's, and of who may not write at all.
		case !errors.Is(err, unix.EPERM), time.Now().After(deadline):
			return nil, fmt.Errorf("making the table %s of nf_tables, with an owner (Linux 5.12): %w", Table(own), err)
		}
	}
}

// Owns tells what is wrong where a socket, kept of a process that went, does not hold what Take would: because it holds it for
// other families, say, or in another network namespace.
func Owns(socket *os.File, own gateway.Ownership, ipv6 bool) error {
	table := Table(own)
	owner, err := ownerOf(table, family(ipv6))
	if err != nil {
		return fmt.Errorf("asking for the owner of the table %s of nf_tables: %w", table, err)
	}
	port, err := portOf(socket)
	if err != nil {
		return fmt.Errorf("reading the address of the socket %s: %w", socket.Name(), err)
	}
	if port != owner {
		return fmt.Errorf("the table %s of nf_tables is not that socket's: its owner is port %d of netlink, not %d", table, owner, port)
	}
	return nil
}

// Table is the name of ours.
func Table(own gateway.Ownership) string { return own.SetPrefix + "hold" }

func family(ipv6 bool) uint8 {
	if ipv6 {
		return unix.NFPROTO_INET
	}
	return unix.NFPROTO_IPV4
}

// send returns the socket that the batch was written by.
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
	_, err := conn.Receive() // that the last one was done, or which one failed first
	return err
}

// ownerOf is the port of the socket that owns a table; 0 when none does.
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

// portOf is the address of a socket (netlink(7), nl_pid).
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
	return 0, fmt.Errorf("it is a %T, not of netlink", address)
}
