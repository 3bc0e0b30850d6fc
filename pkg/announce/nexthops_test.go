// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// routesOf reads routes such as "10.244.1.0/24 via 10.10.0.11 dev eth0 metric 5", one a line.
func routesOf(t *testing.T, lines string) []gateway.Route {
	t.Helper()
	var routes []gateway.Route
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		r := gateway.Route{Destination: netip.MustParsePrefix(words[0])}
		for i := 1; i+1 < len(words); i += 2 {
			switch words[i] {
			case "via":
				r.Gateway = netip.MustParseAddr(words[i+1])
			case "dev":
				r.Link = words[i+1]
			case "metric":
				if _, err := fmt.Sscan(words[i+1], &r.Metric); err != nil {
					t.Fatal(err)
				}
			}
		}
		routes = append(routes, r)
	}
	return routes
}

// TestNextHops gives two addresses that are announced, and one that must not be, endpoints behind next hops of which some do not answer.
func TestNextHops(t *testing.T) {
	const toNodes = "10.10.0.0/24 dev eth0\n10.244.1.0/24 via 10.10.0.11 dev eth0\n10.244.2.0/24 via 10.10.0.12 dev eth0\n"
	for _, test := range []struct {
		name, routes string
		// endpoints of 203.0.113.1, .2 and .3.
		endpoints   [3]string
		unreachable string
		// asked are the next hops, and withheld the addresses with the reasons.
		asked, withheld string
	}{
		{"all answer", toNodes, [3]string{"10.244.1.2 10.244.2.2", "10.244.2.2"}, "", "10.10.0.11 10.10.0.12", ""},
		{"one of two", toNodes, [3]string{"10.244.1.2 10.244.2.2", "10.244.2.2"}, "10.10.0.12", "10.10.0.11 10.10.0.12", "203.0.113.2: 10.10.0.12"},
		{"all silent", toNodes, [3]string{"10.244.1.2 10.244.1.3 10.244.2.2", "10.244.2.2"}, "10.10.0.11 10.10.0.12", "10.10.0.11 10.10.0.12",
			"203.0.113.1: 10.10.0.11, 10.10.0.12 203.0.113.2: 10.10.0.12"},
		{"an endpoint is a neighbour", toNodes, [3]string{"10.10.0.99 10.244.1.2", "10.244.1.2"}, "10.10.0.11", "10.10.0.11", "203.0.113.2: 10.10.0.11"},
		{"only a default route", toNodes, [3]string{"10.245.0.1", "10.244.1.2"}, "10.10.0.11", "10.10.0.11", "203.0.113.2: 10.10.0.11"},
		{"no endpoints", toNodes, [3]string{"", "10.244.1.2"}, "10.10.0.11", "10.10.0.11", "203.0.113.2: 10.10.0.11"},
		{"an address that is not announced", toNodes, [3]string{"10.244.1.2", "10.244.1.2", "10.244.2.2"}, "10.10.0.12", "10.10.0.11", ""},
		{"several next hops", "10.96.0.0/16 via 10.10.0.11 dev eth0\n10.96.0.0/16 via 10.10.0.12 dev eth0", [3]string{"10.96.0.5", "10.96.0.6"}, "10.10.0.11",
			"10.10.0.11 10.10.0.12", ""},
		{"the longest prefix", toNodes + "10.244.0.0/16 via 10.10.0.9 dev eth0\n", [3]string{"10.244.1.2", "10.244.3.2"}, "10.10.0.9", "10.10.0.9 10.10.0.11", "203.0.113.2: 10.10.0.9"},
		{"a longer prefix on the link", toNodes + "10.244.1.2/32 dev cni0\n", [3]string{"10.244.1.2", "10.244.1.3"}, "10.10.0.11", "10.10.0.11", "203.0.113.2: 10.10.0.11"},
		{"the lowest metric", "10.244.1.0/24 via 10.10.0.9 dev eth0 metric 9\n10.244.1.0/24 via 10.10.0.11 dev eth0 metric 2\n10.244.1.0/24 via 10.10.0.8 dev eth0 metric 8",
			[3]string{"10.244.1.2", "10.244.1.2"}, "10.10.0.8 10.10.0.9", "10.10.0.11", ""},
		{"IPv6 by link-local next hops", "fd00:244:1::/64 via fe80::1 dev eth0\nfd00:244:2::/64 via fe80::1 dev eth1", [3]string{"fd00:244:1::2", "fd00:244:2::2"}, "fe80::1%eth1",
			"fe80::1%eth0 fe80::1%eth1", "203.0.113.2: fe80::1%eth1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := Facts{Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/31"), netip.MustParsePrefix("203.0.113.2/32")}, Routes: routesOf(t, test.routes)}
			for i, endpoints := range test.endpoints {
				forward := &gateway.Forward{Frontend: gateway.Frontend{Address: netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}), Protocol: gateway.TCP, Ports: gateway.Port(80)}}
				for _, e := range strings.Fields(endpoints) {
					forward.Backends = append(forward.Backends, gateway.Backend{Address: netip.MustParseAddr(e), Port: 80})
				}
				f.State.Forwards = append(f.State.Forwards, forward)
			}
			for _, hop := range strings.Fields(test.unreachable) {
				f.Unreachable = append(f.Unreachable, netip.MustParseAddr(hop))
			}
			if got := strings.Trim(fmt.Sprint(NextHops(f)), "[]"); got != test.asked {
				t.Errorf("asked %s, want %s", got, test.asked)
			}
			var withheld []string
			for _, a := range Decide(f, nil) {
				if a.Why != "" {
					withheld = append(withheld, strings.Replace(a.Address.String()+": "+a.Why, "no next hop to its endpoints answers: ", "", 1))
				}
			}
			if got := strings.Join(withheld, " "); got != test.withheld {
				t.Errorf("withheld %s, want %s", got, test.withheld)
			}
		})
	}
}

func TestNextHopsAreBounded(t *testing.T) {
	f := Facts{Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")}}
	forward := &gateway.Forward{Frontend: gateway.Frontend{Address: netip.MustParseAddr("203.0.113.1")}}
	for i := range 2 * maxHops {
		pod, hop := netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), netip.AddrFrom4([4]byte{10, 10, byte(i >> 8), byte(i)})
		f.Routes = append(f.Routes, gateway.Route{Destination: netip.PrefixFrom(pod, 32), Gateway: hop})
		f.Unreachable = append(f.Unreachable, hop)
		forward.Backends = append(forward.Backends, gateway.Backend{Address: pod})
	}
	f.State.Forwards = []*gateway.Forward{forward}
	if hops := NextHops(f); len(hops) != maxHops || !slices.IsSortedFunc(hops, netip.Addr.Compare) {
		t.Errorf("%d next hops are asked, want %d", len(hops), maxHops)
	}
	if got, want := Decide(f, nil)[0].Why, "no next hop to its endpoints answers: 10.10.0.0, 10.10.0.1, 10.10.0.2 and 509 more"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
