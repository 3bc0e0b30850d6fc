// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package program

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch calls changed when it starts and whenever rules were or may have been written, including by this process. It returns
// nil when ctx ends and an error when the watch fails.
//
// nf_tables sends an event for each transaction. Legacy tables have no events, but the programs that write them hold a lock,
// and inotify reports when the lock file is closed. Watch misses legacy writers that bypass the programs or run in a mount
// namespace with its own /run.
func (r *Runner) Watch(ctx context.Context, changed func()) error {
	var err error
	if r.variant == NFTables {
		err = watchCommits(ctx, changed)
	} else {
		err = watchLock(ctx, cmp.Or(os.Getenv("XTABLES_LOCKFILE"), defaultLock), changed)
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// commits is a socket filter that passes the message that ends a transaction and drops the possibly thousands of messages
// about its content.
func commits() []unix.SockFilter {
	const typeInHeader = 4 // nlmsg_type in struct nlmsghdr; the filter reads it in network byte order although it is in host byte order
	newGeneration := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN))
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeInHeader},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(newGeneration), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

func watchCommits(ctx context.Context, changed func()) error {
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	defer context.AfterFunc(ctx, socket.Close)()
	defer socket.Close()
	filter := commits()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(socket.GetFd(), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	return receive(socket, changed)
}

func receive(socket *nl.NetlinkSocket, changed func()) error {
	for {
		changed()
		// ENOBUFS means that the socket overflowed. The lost messages carry no more information than this one.
		if _, _, err := socket.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("reading changes of nf_tables: %w", err)
		}
	}
}

// defaultLock is the lock file of the programs, unless XTABLES_LOCKFILE names another one.
const defaultLock = "/run/xtables.lock"

// watchLock uses inotify(7) itself: the programs only open and close the lock, and fsnotify has no event for that.
func watchLock(ctx context.Context, path string, changed func()) error {
	// Create the file if it is missing, as the programs do on their first run.
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("watching the lock of the legacy tables: %w", err)
	}
	_ = lock.Close()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watching the lock of the legacy tables: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer context.AfterFunc(ctx, func() { _ = events.Close() })()
	defer events.Close()
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CLOSE|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF); err != nil {
		return fmt.Errorf("watching %s: %w", path, err)
	}
	buffer := make([]byte, 4096) // many events at once mean the same as one
	for {
		changed()
		n, err := events.Read(buffer)
		if err != nil {
			return fmt.Errorf("watching %s: %w", path, err)
		}
		if gone(buffer[:n]) {
			return fmt.Errorf("watching %s: %w", path, os.ErrNotExist)
		}
	}
}

// gone reports whether the watched file was removed.
func gone(events []byte) bool {
	const maskInEvent = 4 // mask in struct inotify_event; events of a file carry no name
	for ; len(events) >= unix.SizeofInotifyEvent; events = events[unix.SizeofInotifyEvent:] {
		if binary.NativeEndian.Uint32(events[maskInEvent:])&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED) != 0 {
			return true
		}
	}
	return false
}
