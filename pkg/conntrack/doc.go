// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package conntrack ends connections that the rules no longer make, which the kernel would otherwise continue to translate.
//
// It reads only connections that carry our mark, and those without our mark that are for an address which we expose, or
// unanswered and from a pod that leaves. It deletes connections one by one and never flushes the table. It does not know how a
// State becomes rules.
//
// It uses ti-mo/conntrack because vishvananda/netlink reads the whole table and compares marks itself. Here the kernel filters,
// by mark and by the scope of a change, so a connection of another program or of an unchanged Mapping costs a comparison in the
// kernel and no message. Only the count of source ports, which needs most of the table, uses vishvananda/netlink, one message
// at a time.
package conntrack
