// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package gatewaytest makes values of pkg/gateway for tests, from text that is easy to read. All functions panic if the text is
// wrong.
package gatewaytest

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Owner is the Mapping, and the Service, of a new Forward.
const Owner = "default/echo"

// Addrs returns the addresses.
func Addrs(texts ...string) []netip.Addr { return each(netip.MustParseAddr, texts) }

// Prefixes returns the networks.
func Prefixes(texts ...string) []netip.Prefix { return each(netip.MustParsePrefix, texts) }

// Backends returns the backends. An example is "10.244.1.2:8080".
func Backends(texts ...string) []gateway.Backend {
	return each(func(text string) gateway.Backend {
		b := netip.MustParseAddrPort(text)
		return gateway.Backend{Address: b.Addr(), Port: b.Port()}
	}, texts)
}

// BackendsAt returns backends with the same port.
func BackendsAt(port uint16, addresses ...netip.Addr) []gateway.Backend {
	return each(func(a netip.Addr) gateway.Backend { return gateway.Backend{Address: a, Port: port} }, addresses)
}

func each[T, R any](convert func(T) R, items []T) []R {
	var results []R
	for _, item := range items {
		results = append(results, convert(item))
	}
	return results
}

// Forward returns a masqueraded Forward for tests to modify.
func Forward(address netip.Addr, protocol gateway.Protocol, first, last uint16, backends ...gateway.Backend) *gateway.Forward {
	return &gateway.Forward{
		Frontend: gateway.Frontend{Address: address, Protocol: protocol, Ports: gateway.PortRange{First: first, Last: last}},
		Owner:    Owner, Service: Owner, Masquerade: true, Backends: backends,
	}
}

// With returns a changed copy of a Forward.
func With(f *gateway.Forward, change func(*gateway.Forward)) *gateway.Forward {
	changed := *f
	change(&changed)
	return &changed
}

// From returns a copy of a Forward that allows these sources in addition.
func From(f *gateway.Forward, sources ...string) *gateway.Forward {
	return With(f, func(f *gateway.Forward) { f.Sources = slices.Concat(f.Sources, Prefixes(sources...)) })
}

// Copies returns copies that the caller may change.
func Copies(forwards []*gateway.Forward) []*gateway.Forward {
	return each(func(f *gateway.Forward) *gateway.Forward { return With(f, func(*gateway.Forward) {}) }, forwards)
}

// Sort sorts Forwards in the order of a State, and returns them.
func Sort(forwards []*gateway.Forward) []*gateway.Forward {
	slices.SortFunc(forwards, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) })
	return forwards
}
