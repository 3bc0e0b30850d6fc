// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package netfilter holds chains and rules as comparable values, and all that can be said of them without a kernel: how
// iptables-restore and iptables-save spell them (both back ends, both families), what differs between two sets of them
// and the smallest batch that leads from one to the other, and what happens to a packet that meets them.
//
// It is pure. It knows how iptables spells a rule and not why SmartNat wants one: that is pkg/rules.
package netfilter
