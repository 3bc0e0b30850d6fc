// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ha decides all about a pair of gateways that can be decided without touching one: the config files of keepalived and
// conntrackd (render.go), what the boxes tell each other and how they must match (facts.go), and when a box that misses its neighbours
// gives up the virtual addresses (probe.go). Values in, values out: pkg/ha/pair has the sockets and programs.
package ha
