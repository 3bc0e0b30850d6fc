// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"fmt"

	"github.com/ti-mo/conntrack"
)

// Lost returns how many first packets the kernel has dropped since boot because their connection could not be remembered: as a
// rule all source ports of the masquerade to one backend were in use (insert_failed of conntrack(8) -S, and drop, where the
// table is full). The counters of the CPUs have 32 bits and wrap.
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
