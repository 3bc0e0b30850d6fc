// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Flow is the connection that the question is about.
type Flow struct {
	Protocol    gateway.Protocol
	Source      netip.Addr
	Destination netip.AddrPort
}

// String returns "203.0.113.7 to 198.51.100.10:5432/tcp".
func (f Flow) String() string { return fmt.Sprintf("%s to %s", f.Source, f.target()) }

// target returns "198.51.100.10:5432/tcp".
func (f Flow) target() string { return fmt.Sprintf("%s/%s", f.Destination, f.Protocol) }

// protocols are those that a Mapping can forward.
var protocols = []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP}

// ParseArguments parses a flow as a command takes it: an IP address, and ADDRESS:PORT[/PROTOCOL], by default tcp.
func ParseArguments(source, target string) (Flow, error) {
	destination, protocol, found := strings.Cut(target, "/")
	if !found {
		protocol = string(gateway.TCP)
	}
	return ParseFlow(source, destination, strings.ToLower(protocol))
}

// ParseFlow parses a flow. source is an IP address, destination ADDRESS:PORT, protocol tcp, udp or sctp.
func ParseFlow(source, destination, protocol string) (Flow, error) {
	flow := Flow{Protocol: gateway.Protocol(protocol)}
	if !slices.Contains(protocols, flow.Protocol) {
		return flow, fmt.Errorf("protocol %q: want tcp, udp or sctp", protocol)
	}
	var err error
	if flow.Source, err = netip.ParseAddr(source); err != nil || flow.Source.Zone() != "" {
		return flow, fmt.Errorf("source %q: want an IP address such as 203.0.113.7", source)
	}
	if flow.Destination, err = netip.ParseAddrPort(destination); err != nil || flow.Destination.Addr().Zone() != "" || flow.Destination.Port() == 0 {
		return flow, fmt.Errorf("destination %q: want ADDRESS:PORT such as 198.51.100.10:5432 or [2001:db8::10]:5432", destination)
	}
	flow.Source = flow.Source.Unmap()
	flow.Destination = netip.AddrPortFrom(flow.Destination.Addr().Unmap(), flow.Destination.Port())
	if flow.Source.Is6() != flow.Destination.Addr().Is6() {
		return flow, fmt.Errorf("source %s and destination %s: want addresses of one family", flow.Source, flow.Destination)
	}
	return flow, nil
}
