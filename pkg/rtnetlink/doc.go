// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package rtnetlink reads and writes routes and rules of policy routing in the kernel.
//
// It sees only what is ours by its route protocol and its table or priority, and changes nothing else. What a host
// should have it never knows: that is pkg/policyrouting.
package rtnetlink
