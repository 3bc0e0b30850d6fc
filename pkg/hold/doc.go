// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package hold keeps connection tracking and address translation switched on in the kernel while smartnatd runs.
//
// The kernel does both only while some rule asks for them. Who removes all rules switches them off, and what established
// connections send until ours are back is neither known nor translated: the host takes it for its own, and ends them with a
// reset. So somebody has to go on asking whom `nft flush ruleset` does not reach: a table of nf_tables that has an owner
// (NFT_TABLE_F_OWNER, Linux 5.12) is left to the socket that made it, and goes with it, however the process ends. Who starts
// smartnatd again may keep the socket meanwhile, as systemd does, and hand it on to the next process. One that stays by itself
// (NFT_TABLE_F_PERSIST, Linux 6.9) has no owner from then on, and nft_flush of the kernel passes over nothing but what has: it
// would outlive the flush of iptables' tables, and not `nft flush ruleset`.
//
// It writes this one table, and reads of it whose it is. It never knows a rule that does something to a packet, nor which program
// writes those: iptables-legacy is served as well.
package hold
