// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package traffic turns readings of the kernel's counters into totals for each Mapping and port. It is pure: its caller reads the
// kernel, and passes what it read.
//
// # What is counted
//
// Connections, packets and bytes are those of conntrack, which counts for each connection anyway. A connection that ends is
// counted once, by the kernel's message about its end. For the rest, a reading adds what the open connections have carried so
// far. So a packet costs nothing extra, and a connection costs one message.
//
// Packets that are dropped or rejected never become connections. The rules that refuse them count them by address, protocol and
// port.
//
// # What totals promise
//
// They never decrease, and no connection is counted twice, whatever happens between a reading and the end of a connection. They
// may miss connections whose messages the kernel had to drop, which Lost records. They belong to a Mapping: they go with it, and
// start at zero for the next owner of a port. They do not survive a restart of the process.
package traffic
