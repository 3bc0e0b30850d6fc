// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package conntrack ends connections that the rules do not make any more, which the kernel would go on translating by what
// it remembers of them.
//
// It reads those connections alone that carry our mark, and unanswered ones that carry none, to what we expose and of pods that
// leave; it deletes one exact connection at a time, and never flushes. It never knows how a State becomes rules.
//
// It speaks to the kernel through ti-mo/conntrack rather than vishvananda/netlink, which reads the whole table to look for
// marks by itself: here the kernel filters, by mark and by what changed, so that a connection of others, or of a Mapping
// that stays as it is, costs a look in the kernel and no message. Only the count of source ports, which looks at most of
// the table, reads it through vishvananda/netlink, one message at a time.
package conntrack
