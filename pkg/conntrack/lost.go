// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"fmt"

	"github.com/ti-mo/conntrack"
)

// Lost returns the number of first packets since boot that the kernel dropped because it could not add their connection:
// usually because all source ports for masquerading to one backend were in use (insert_failed of conntrack(8) -S), or because
// the table was full (drop). The counters of each CPU have 32 bits and wrap.
func Lost() (uint64, error) {
	conn, err := conntrack.Dial(nil)
	if err != nil {
		return 0, fmt.Errorf("opening a netlink socket to conntrack: %w", err)
	}
	defer conn.Close()
	stats, err := conn.Stats()
	if err != nil {
		return 0, fmt.Errorf("reading conntrack's counters: %w", err)
	}
	lost := uint64(0)
	for _, cpu := range stats {
		lost += uint64(cpu.InsertFailed) + uint64(cpu.Drop)
	}
	return lost, nil
}
