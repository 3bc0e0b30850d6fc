// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

// Family is an address family. The kernel keeps separate rules, routes and connections for each.
type Family int

// The families, by the version of the protocol.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)
