// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package host reads what the host looks like, its links, their addresses, its default routes and which next hops answer,
// and says when that changes. It changes nothing but the kernel's own memory of neighbours, which it has asked for the next
// hops, and what is to be made of what it sees, it never knows: that is pkg/calc.
package host
