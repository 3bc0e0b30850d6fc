// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ti-mo/netfilter"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Connection is a connection that a Mapping translated.
type Connection struct {
	// Client connected to External, and Backend answers.
	Client, External, Backend netip.AddrPort
}

// Connections returns the current connections of a client to an external address and port, sorted. The kernel filters.
func Connections(own gateway.Ownership, protocol gateway.Protocol, client netip.Addr, external netip.AddrPort) ([]Connection, error) {
	conn, err := netfilter.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket to conntrack: %w", err)
	}
	defer conn.Close()
	q := query{mark: own.Forwarded(), scope: scope{protocol: protocol, port: external.Port(), source: client, destination: external.Addr()}}
	flows, err := q.run(conn)
	if err != nil {
		return nil, fmt.Errorf("reading connections: %w", err)
	}
	var connections []Connection
	for _, f := range flows {
		// Compare again, because an older kernel does not filter.
		flow := toFlow(f)
		if f.Mark&q.mark.Mask == q.mark.Value && flow.protocol == protocol && flow.source.Addr() == client && flow.destination == external {
			connections = append(connections, Connection{flow.source, flow.destination, flow.answeredBy})
		}
	}
	slices.SortFunc(connections, func(a, b Connection) int { return a.Client.Compare(b.Client) })
	return connections, nil
}
