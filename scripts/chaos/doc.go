// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Chaos breaks things in the lab, in an order that a seed decides, while traffic of many kinds flows through its gateway; it
// tells what each fault cost and fails on what must never happen. See README.md.
//
// schedule.go decides what comes when and verdict.go judges, both without touching anything; load.go makes the traffic and
// writes down how it fared (journal.go), faults*.go break and mend, world.go has the lab, kernel.go compares the gateway's
// kernel with what it should hold. It is a program of the project's own work: nothing of SmartNat may know it.
package main
