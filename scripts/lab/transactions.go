// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CountTransactions starts to count transactions of smartnatd with nf_tables that change more of its tables than their owner. It
// uses `nft monitor`, which the caller must end.
func (h *Host) CountTransactions(ctx context.Context) (count func() int, monitor *Process, err error) {
	if monitor, err = h.Start("monitor", nil, "nft", "monitor"); err != nil {
		return nil, nil, err
	}
	// The monitor has begun once it sees a change.
	err = Poll(ctx, func(ctx context.Context) error {
		if _, err := h.Exec(ctx, "nft", "add table ip probe; delete table ip probe"); err != nil {
			return err
		}
		if !strings.Contains(monitor.Log(), "probe") {
			return fmt.Errorf("nft monitor has not begun: %s", monitor.Log())
		}
		return nil
	})
	return func() int { return countTransactions(monitor.Log()) }, monitor, err
}

// countTransactions counts them in the output of `nft monitor`.
func countTransactions(log string) (n int) {
	changed := false
	for line := range strings.Lines(log) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "# new generation"):
			if changed && strings.Contains(line, "(smartnatd)") {
				n++
			}
			changed = false
		case len(fields) > 3 && fields[1] != "table" && fields[3] == "smartnat": // "add rule ip smartnat ..."
			changed = true
		}
	}
	return n
}

// AwaitTransaction waits until the kernel reports the end of the nth transaction of smartnatd with nf_tables from now on. smartnatd
// may not have received the kernel's answer yet.
func (h *Host) AwaitTransaction(nth int, limit time.Duration) error {
	var events int
	err := h.Do(func() (err error) {
		const group = 1 << (unix.NFNLGRP_NFTABLES - 1)
		wait := unix.NsecToTimeval(int64(limit))
		if events, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err == nil {
			err = errors.Join(unix.Bind(events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group}),
				unix.SetsockoptTimeval(events, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("listening to nf_tables: %w", err)
	}
	defer func() { _ = unix.Close(events) }()
	buffer := make([]byte, 1<<16)
	for n := 0; n < nth; {
		length, _, err := unix.Recvfrom(events, buffer, 0)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS): // some events were lost
		case err != nil:
			return fmt.Errorf("waiting for transaction %d of smartnatd: %w", n+1, err)
		default:
			n += generations(buffer[:length])
		}
	}
	return nil
}

// generations counts the transactions of smartnatd that end in a datagram.
func generations(datagram []byte) (n int) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN && bytes.Contains(m.Data, []byte("smartnatd\x00")) {
			n++
		}
	}
	return n
}
