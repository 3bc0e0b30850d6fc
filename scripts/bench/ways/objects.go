// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ways

import (
	"fmt"
	"net/netip"
)

// What is exposed: dense ports, ten to a Mapping with a Service of its own, three endpoints each.
const (
	FirstPort       = 20000
	PortsPerMapping = 10
	FirstTarget     = 8080
	Endpoints       = 3
)

// Families are those of IP, by the names that people give them.
var Families = []string{"IPv4", "IPv6"}

// The second number of the pods' addresses says by which host the router sends what is for them.
const (
	PlainPods   = 244
	TrackedPods = 245
)

// Endpoint is the address of an endpoint of the nth Mapping. They take turns on two nodes and on the addresses there.
func Endpoint(family string, pods, mapping, k int) netip.Addr {
	n := mapping*Endpoints + k
	node, host := n%2+1, 2+n/2%250
	if family == "IPv4" {
		return netip.AddrFrom4([4]byte{10, byte(pods), byte(node), byte(host)})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:%d:%d::%x", pods, node, host))
}

// PodTargets are the sockets behind all ports, as one would reach them without SmartNat.
func PodTargets(family string, pods, ports int) []netip.AddrPort {
	var targets []netip.AddrPort
	for p := range ports {
		for k := range Endpoints {
			targets = append(targets, netip.AddrPortFrom(Endpoint(family, pods, p/PortsPerMapping, k), uint16(FirstTarget+p%PortsPerMapping)))
		}
	}
	return targets
}

// MappedTargets are the ports on the gateway's address.
func MappedTargets(address string, ports int) []netip.AddrPort {
	var targets []netip.AddrPort
	for p := range ports {
		targets = append(targets, netip.AddrPortFrom(netip.MustParseAddr(address), uint16(FirstPort+p)))
	}
	return targets
}
