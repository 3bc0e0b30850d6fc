// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ways

import (
	"fmt"
	"net/netip"
)

// The exposed ports are consecutive, ten for each Mapping with its own Service, with three endpoints each.
const (
	FirstPort       = 20000
	PortsPerMapping = 10
	FirstTarget     = 8080
	Endpoints       = 3
)

// Families are the names of the IP families.
var Families = []string{"IPv4", "IPv6"}

// The second byte of a pod's address selects the host that the router sends its packets through.
const (
	PlainPods   = 244
	TrackedPods = 245
)

// Endpoint returns the address of the k-th endpoint of a Mapping. Endpoints alternate between two nodes and their addresses.
func Endpoint(family string, pods, mapping, k int) netip.Addr {
	n := mapping*Endpoints + k
	node, host := n%2+1, 2+n/2%250
	if family == "IPv4" {
		return netip.AddrFrom4([4]byte{10, byte(pods), byte(node), byte(host)})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:%d:%d::%x", pods, node, host))
}

// PodTargets returns the sockets behind all ports, as reached without SmartNat.
func PodTargets(family string, pods, ports int) []netip.AddrPort {
	var targets []netip.AddrPort
	for p := range ports {
		for k := range Endpoints {
			targets = append(targets, netip.AddrPortFrom(Endpoint(family, pods, p/PortsPerMapping, k), uint16(FirstTarget+p%PortsPerMapping)))
		}
	}
	return targets
}

// MappedTargets returns the ports on the gateway's address.
func MappedTargets(address string, ports int) []netip.AddrPort {
	var targets []netip.AddrPort
	for p := range ports {
		targets = append(targets, netip.AddrPortFrom(netip.MustParseAddr(address), uint16(FirstPort+p)))
	}
	return targets
}
