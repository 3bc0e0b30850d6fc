// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package host reads the links of the host, their addresses, its default routes and which next hops answer, and reports
// changes. It changes nothing except the kernel's neighbour table, in which it triggers probes of the next hops. It does not
// know what its observations mean: pkg/calc does.
package host
