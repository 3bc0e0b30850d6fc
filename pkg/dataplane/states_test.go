// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"math/rand/v2"
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(s ...string) []netip.Addr { return gatewaytest.Addrs(s...) }

func prefixes(s ...string) []netip.Prefix { return gatewaytest.Prefixes(s...) }

var (
	uplink1 = gateway.Uplink{
		Link: "eth1", Number: 1,
		Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64"), Gateways: addrs("198.51.100.1", "2001:db8:1::1"),
	}
	uplink2 = gateway.Uplink{
		Link: "eth2", Number: 2,
		Connected: prefixes("203.0.113.0/24", "2001:db8:2::/64"), Gateways: addrs("203.0.113.1", "fe80::1"),
	}
	egress4 = gateway.Egress{Address: addr("198.51.100.10"), Uplink: 1, Owner: "default/echo", Sources: addrs("10.244.1.2", "10.244.2.2")}
	egress6 = gateway.Egress{Address: addr("2001:db8:2::10"), Uplink: 2, Owner: "default/echo", Sources: addrs("fd00:244:1::2")}
	shared  = []gateway.LinkAddresses{
		{Link: "eth0", Addresses: addrs("10.10.0.100", "10.10.0.101", "fd00:10::100")}, {Link: "eth2", Addresses: addrs("203.0.113.100")},
	}
	services = gateway.ServiceRoute{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: addrs("10.10.0.11", "10.10.0.12")}
)

func forward(address string, port uint16, backends ...string) *gateway.Forward {
	f := gatewaytest.Forward(addr(address), gateway.TCP, port, port, gatewaytest.BackendsAt(8080, addrs(backends...)...)...)
	f.Direct = true
	return f
}

// full returns a state with an example of everything.
func full() gateway.State {
	limited := forward("198.51.100.10", 8081, "10.244.1.2")
	limited.Sources = prefixes("192.0.2.0/24")
	return gateway.State{
		Forwards: []*gateway.Forward{
			forward("198.51.100.10", 8080, "10.244.1.2", "10.244.2.2"),
			limited,
			forward("203.0.113.10", 8080, "10.244.1.2", "10.244.2.2"),
			forward("2001:db8:1::10", 8080, "fd00:244:1::2"),
		},
		Uplinks:       []gateway.Uplink{uplink1, uplink2},
		ServiceRoutes: []gateway.ServiceRoute{services},
		Egresses:      []gateway.Egress{egress4, egress6},
	}
}

// random returns states that resemble each other.
func random(r *rand.Rand) gateway.State {
	var state gateway.State
	for _, u := range []gateway.Uplink{uplink1, uplink2} {
		if r.IntN(4) == 0 {
			continue
		}
		if r.IntN(3) == 0 {
			u.Gateways = []netip.Addr{u.Gateways[0].Next()}
		}
		state.Uplinks = append(state.Uplinks, u)
	}
	if r.IntN(3) > 0 {
		route := services
		route.Via = route.Via[:1+r.IntN(2)]
		state.ServiceRoutes = []gateway.ServiceRoute{route}
	}
	for _, l := range shared {
		if n := r.IntN(len(l.Addresses) + 1); n > 0 {
			l.Addresses = l.Addresses[len(l.Addresses)-n:]
			state.MasqueradeAddresses = append(state.MasqueradeAddresses, l)
		}
	}
	if r.IntN(3) == 0 {
		state.Sync = gateway.SyncEndpoint{Address: addr("10.99.0.1"), Link: "eth3", Port: uint16(3780 + r.IntN(2))}
	}
	if r.IntN(2) == 0 {
		state.MasqueradePorts = gateway.PortRange{First: 1024, Last: 65535}
	}
	for _, e := range []gateway.Egress{egress4, egress6} {
		if r.IntN(2) == 0 {
			e.Sources = e.Sources[:1+r.IntN(len(e.Sources))]
			state.Egresses = append(state.Egresses, e)
		}
	}
	for _, address := range []string{"198.51.100.10", "203.0.113.10", "2001:db8:1::10"} {
		backends := []string{"10.244.1.2", "10.244.2.2", "10.244.2.3"}
		if addr(address).Is6() {
			backends = []string{"fd00:244:1::2", "fd00:244:2::2"}
		}
		first := r.IntN(50)
		many := sources(200)[first : first+30+r.IntN(100)]
		for port := range uint16(60) {
			if r.IntN(3) == 0 {
				continue
			}
			f := forward(address, 8000+port*7, backends[:r.IntN(len(backends)+1)]...)
			f.Consistent = port%10 == 3
			if r.IntN(4) == 0 && f.Address.Is4() {
				f.Sources = prefixes("192.0.2.0/24")
			}
			if port%10 == 9 && f.Address.Is4() { // a Mapping of its own, usually with many sources
				f.Owner = "default/limited-" + address
				f.Sources = many
			}
			state.Forwards = append(state.Forwards, f)
		}
	}
	gatewaytest.Sort(state.Forwards)
	return state
}
