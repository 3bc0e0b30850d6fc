// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package netlink reads and writes one table of nf_tables through netlink (linux/netfilter/nf_tables.h). A Transaction takes
// effect as a whole or not at all.
//
// It encodes and decodes the values of pkg/nftables/ruleset and decides nothing: it knows neither a State nor what a rule is
// for.
package netlink
