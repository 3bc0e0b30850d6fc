// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package hold keeps connection tracking and NAT active in the kernel while smartnatd runs.
//
// The kernel runs both only while some rule needs them. If another program removes all rules, they stop: packets of
// established connections are no longer translated until the rules are back, so the host treats them as its own and resets
// the connections. Rules that `nft flush ruleset` does not remove prevent this. A table of nf_tables with an owner
// (NFT_TABLE_F_OWNER, Linux 5.12) belongs to the socket that created it and disappears with that socket, however the process
// ends. systemd can keep the socket across a restart and pass it to the next process. A persistent table
// (NFT_TABLE_F_PERSIST, Linux 6.9) is no alternative: once its owner has exited, `nft flush ruleset` removes it.
//
// The package writes only this table and reads only its owner. It holds no rule that affects packets and works with
// iptables-legacy as well.
package hold
