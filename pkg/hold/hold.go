// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package hold

import (
	"errors"
	"fmt"
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

// Hold is the socket that owns the table.
type Hold struct{ conn *netlink.Conn }

// Take switches connection tracking and translation on, for IPv6 too where that is asked for, until Close or the end of the
// process. It fails where the kernel has no such tables.
func Take(own gateway.Ownership, ipv6 bool) (*Hold, error) {
	messages, err := batch(Table(own), ipv6)
	if err != nil {
		return nil, fmt.Errorf("encoding a table of nf_tables: %w", err)
	}
	for deadline := time.Now().Add(releaseTimeout); ; time.Sleep(releasePoll) {
		conn, err := send(messages)
		switch {
		case err == nil:
			return &Hold{conn}, nil
		// What the kernel says of a table that is another's, and of who may not write at all.
		case !errors.Is(err, unix.EPERM), time.Now().After(deadline):
			return nil, fmt.Errorf("making the table %s of nf_tables, with an owner (Linux 5.12): %w", Table(own), err)
		}
	}
}

// Table is the name of ours.
func Table(own gateway.Ownership) string { return own.SetPrefix + "hold" }

// Close gives both back to the rules that ask for them.
func (h *Hold) Close() error { return h.conn.Close() }

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
