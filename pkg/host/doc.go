// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package host reads what the host looks like, its links, their addresses and its default routes, and says when that
// changes. It changes nothing, and what is to be made of it, it never knows: that is pkg/calc.
package host
