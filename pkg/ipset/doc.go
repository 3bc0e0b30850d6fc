// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package ipset reads and writes sets of networks (ipset(8), hash:net), which the kernel looks up at once however many
// members they have. It touches those alone whose names begin with our prefix, and never knows what they are for.
//
// It speaks to the kernel itself, in the words of vishvananda/netlink: that library adds one member a message, where
// thousands fit in one, and reads sets of others along with ours.
package ipset
