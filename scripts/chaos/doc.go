// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Chaos injects faults into the lab, in an order that a seed decides, while traffic of many kinds flows through its gateway. It
// reports the cost of each fault and fails if something forbidden happens. See README.md.
//
// schedule.go orders the faults and verdict.go judges the outcome, both without side effects; load.go generates the traffic and
// records its results (journal.go), faults*.go inject and heal faults, world.go sets up the lab, kernel.go compares the gateway's
// kernel with the desired state. Chaos is a tool of the project: no package of SmartNat may import it.
package main
