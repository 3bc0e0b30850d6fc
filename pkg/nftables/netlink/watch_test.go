// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestListeners expects none on tables that no other process can change: for a listener, the kernel composes a message about each
// element of a transaction.
func TestListeners(t *testing.T) {
	testenv.RequireKernel(t)
	for _, test := range []struct {
		name   string
		shared bool
	}{
		{"owned tables", false},
		{"shared tables", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			tables := newTables(t, test.shared)
			want := 0
			if !tables.Owned() {
				want = 1
			}
			ctx, cancel := context.WithCancel(t.Context())
			calls := 0
			err := tables.Watch(ctx, func() {
				calls++
				if got := listeners(t); got != want {
					t.Errorf("%d sockets listen to nf_tables, want %d", got, want)
				}
				cancel()
			})
			if err != nil || calls != 1 {
				t.Errorf("%d calls, %v; want one call", calls, err)
			}
		})
	}
}

// listeners counts the sockets that receive changes of nf_tables in the thread's network namespace.
func listeners(t *testing.T) int {
	t.Helper()
	file, err := os.Open("/proc/thread-self/net/netlink")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found := 0
	lines := bufio.NewScanner(file)
	lines.Scan() // the names of the columns
	for lines.Scan() {
		var socket string
		var protocol, port, groups uint32
		if _, err := fmt.Sscanf(lines.Text(), "%s %d %d %x", &socket, &protocol, &port, &groups); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		if protocol == unix.NETLINK_NETFILTER && groups&(1<<(unix.NFNLGRP_NFTABLES-1)) != 0 {
			found++
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}
