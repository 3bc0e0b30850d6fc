// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nftables programs the rules of a gateway.State in one table of nf_tables for each family: it is a dataplane.Ruleset.
// It remembers what it wrote, so that a change costs only the difference, and reads the kernel only if another process may have
// written.
//
// From Linux 6.9 on, the table belongs to the socket of this process, and the kernel refuses changes by any other process. On
// older kernels, the kernel's generation number tells whether any process changed nf_tables.
//
// Its wing are the packages below it: rules decides what a State needs, ruleset models, prints and traces it, and netlink is
// the only one that touches the kernel. It needs no programs: neither nft nor iptables.
//
// It does not know Kubernetes, routes or kernel parameters, nor when to write: pkg/dataplane orders the writes.
package nftables
