// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package ipset reads and writes sets of networks (ipset(8), hash:net), whose lookup time in the kernel does not depend on
// the number of members. It touches only sets whose names begin with our prefix and does not know their purpose.
//
// It speaks netlink itself, with message types of vishvananda/netlink: that library's own functions add one member per
// message instead of thousands, and read foreign sets along with ours.
package ipset
