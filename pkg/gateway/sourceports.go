// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import "net/netip"

// SourcePorts is the number of source ports that masqueraded connections to a backend use.
type SourcePorts struct {
	Protocol Protocol
	// Backend is the destination of the connections.
	Backend netip.AddrPort
	InUse   int
	// Addresses is the number of source addresses that share the connections. Each has its own ports.
	Addresses int
}

// unprivilegedPorts is the number of ports from 1024 on, the largest range that the kernel chooses from by itself.
const unprivilegedPorts = 1<<16 - 1024

// SourcePorts returns the maximum number of concurrent masqueraded connections to one backend from one source address.
func (s *State) SourcePorts() int {
	if s.MasqueradePorts == (PortRange{}) {
		return unprivilegedPorts
	}
	return int(s.MasqueradePorts.Last-s.MasqueradePorts.First) + 1
}
