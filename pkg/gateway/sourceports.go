// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import "net/netip"

// SourcePorts says how many source ports the masqueraded connections to a backend use.
type SourcePorts struct {
	Protocol Protocol
	// Backend is where the connections lead to.
	Backend netip.AddrPort
	InUse   int
}

// unprivilegedPorts are those from 1024 on: the most that the kernel itself chooses from.
const unprivilegedPorts = 1<<16 - 1024

// SourcePorts returns how many source ports the masqueraded connections to one backend can have at a time.
func (s *State) SourcePorts() int {
	if s.MasqueradePorts == (PortRange{}) {
		return unprivilegedPorts
	}
	return int(s.MasqueradePorts.Last-s.MasqueradePorts.First) + 1
}
