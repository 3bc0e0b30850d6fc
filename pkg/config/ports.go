// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// ReservedPorts are a range of ports of a protocol.
type ReservedPorts struct {
	Protocol gateway.Protocol
	Ports    gateway.PortRange
}

// String returns "22/tcp" or "5000-5010/udp".
func (r ReservedPorts) String() string { return fmt.Sprintf("%s/%s", r.Ports, r.Protocol) }

// MarshalText returns the same as String.
func (r ReservedPorts) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText accepts "22/tcp" or "5000-5010/udp".
func (r *ReservedPorts) UnmarshalText(text []byte) error {
	ports, protocol, _ := strings.Cut(string(text), "/")
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	a, errFirst := strconv.ParseUint(first, 10, 16)
	b, errLast := strconv.ParseUint(last, 10, 16)
	r.Protocol = gateway.Protocol(strings.ToLower(protocol))
	r.Ports = gateway.PortRange{First: uint16(a), Last: uint16(b)}
	known := r.Protocol == gateway.TCP || r.Protocol == gateway.UDP || r.Protocol == gateway.SCTP
	if errFirst != nil || errLast != nil || a == 0 || a > b || !known {
		return fmt.Errorf("%.64q is not a range of tcp, udp or sctp ports", text)
	}
	return nil
}
