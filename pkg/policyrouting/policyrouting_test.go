// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package policyrouting

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func prefixes(s ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, p := range s {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

func addrs(s ...string) []netip.Addr {
	var as []netip.Addr
	for _, a := range s {
		as = append(as, netip.MustParseAddr(a))
	}
	return as
}

func TestBuild(t *testing.T) {
	for _, tc := range []struct {
		name  string
		state gateway.State
		want  string
	}{
		{name: "nothing"},
		{
			name: "two uplinks and service routes",
			state: gateway.State{
				Uplinks: []gateway.Uplink{
					{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24"), Gateways: addrs("198.51.100.1")},
					{Link: "eth2", Number: 2, Connected: prefixes("203.0.113.0/24", "203.0.114.0/25"), Gateways: addrs("203.0.113.1")},
				},
				ServiceRoutes: []gateway.ServiceRoute{
					{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: addrs("10.10.0.11", "10.10.0.12")},
					{Destination: netip.MustParsePrefix("10.244.0.0/16"), Via: addrs("10.10.0.11")},
				},
			},
			want: `
ip route add 10.96.0.0/16 proto 83 nexthop via 10.10.0.11 nexthop via 10.10.0.12
ip route add 10.244.0.0/16 via 10.10.0.11 proto 83
ip route add 203.0.114.0/25 dev eth2 table 7381 proto 83 scope link
ip route add 198.51.100.0/24 dev eth1 table 7380 proto 83 scope link
ip route add default via 198.51.100.1 dev eth1 table 7380 proto 83
ip route add 203.0.113.0/24 dev eth2 table 7381 proto 83 scope link
ip route add default via 203.0.113.1 dev eth2 table 7381 proto 83
ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83
ip rule add priority 7381 fwmark 0x200/0x1f00 lookup 7381 protocol 83
`,
		},
		{
			name: "both families",
			state: gateway.State{Uplinks: []gateway.Uplink{{
				Link: "eth1", Number: 3, Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64"),
				Gateways: addrs("198.51.100.1", "fe80::1"),
			}}},
			want: `
ip route add 198.51.100.0/24 dev eth1 table 7382 proto 83 scope link
ip route add default via 198.51.100.1 dev eth1 table 7382 proto 83
ip -6 route add 2001:db8:1::/64 dev eth1 table 7382 proto 83
ip -6 route add default via fe80::1 dev eth1 table 7382 proto 83
ip rule add priority 7381 fwmark 0x300/0x1f00 lookup 7382 protocol 83
ip -6 rule add priority 7381 fwmark 0x300/0x1f00 lookup 7382 protocol 83
`,
		},
		{
			name: "a gateway outside the networks of the link",
			state: gateway.State{Uplinks: []gateway.Uplink{{
				Link: "eth1", Number: 1, Connected: prefixes("198.51.100.10/32"), Gateways: addrs("192.0.2.1", "2001:db8::1"),
			}}},
			want: `
ip route add 198.51.100.10 dev eth1 table 7380 proto 83 scope link
ip route add default via 192.0.2.1 dev eth1 table 7380 proto 83 onlink
ip -6 route add default via 2001:db8::1 dev eth1 table 7380 proto 83 onlink
ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83
ip -6 rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83
`,
		},
		{
			name: "default routes without a gateway of the same family",
			state: gateway.State{Uplinks: []gateway.Uplink{
				{Link: "ppp0", Number: 1, Connected: prefixes("203.0.113.1/32"), Defaults: []gateway.DefaultRoute{{Link: "ppp0"}, {Link: "ppp0", IPv6: true}}},
				{Link: "eth1", Number: 2, Defaults: []gateway.DefaultRoute{{Link: "eth1", Gateway: netip.MustParseAddr("fe80::1")}}},
				{Link: "eth2", Number: 3, Defaults: []gateway.DefaultRoute{{Link: "eth2", Gateway: netip.MustParseAddr("2001:db8::1")}}},
			}},
			want: `
ip route add 203.0.113.1 dev ppp0 table 7380 proto 83 scope link
ip route add default dev ppp0 table 7380 proto 83 scope link
ip -6 route add default dev ppp0 table 7380 proto 83
ip -4 route add default via inet6 fe80::1 dev eth1 table 7381 proto 83
ip -4 route add default via inet6 2001:db8::1 dev eth2 table 7382 proto 83 onlink
ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83
ip rule add priority 7381 fwmark 0x200/0x1f00 lookup 7381 protocol 83
ip rule add priority 7381 fwmark 0x300/0x1f00 lookup 7382 protocol 83
ip -6 rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83
`,
		},
		{
			name: "egress of both families",
			state: gateway.State{
				Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24")}},
				Egresses: []gateway.Egress{
					{Address: netip.MustParseAddr("198.51.100.10"), Uplink: 1, Sources: addrs("10.244.1.2")},
					{Address: netip.MustParseAddr("198.51.100.11"), Uplink: 1, Sources: addrs("10.244.1.3")},
					{Address: netip.MustParseAddr("2001:db8:1::10"), Uplink: 1, Sources: addrs("fd00:244::2")},
				},
			},
			want: `
ip route add 198.51.100.0/24 dev eth1 table 7380 proto 83 scope link
ip rule add priority 7380 fwmark 0x10/0x10 lookup 254 suppress_prefixlength 0 protocol 83
ip -6 rule add priority 7380 fwmark 0x10/0x10 lookup 254 suppress_prefixlength 0 protocol 83
ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83
`,
		},
		{name: "an uplink without addresses", state: gateway.State{Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1}}}},
		{
			name: "a duplicate destination, and one without a next hop",
			state: gateway.State{ServiceRoutes: []gateway.ServiceRoute{
				{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: addrs("10.10.0.11")},
				{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: addrs("10.10.0.12")},
				{Destination: netip.MustParsePrefix("10.97.0.0/16")},
			}},
			want: `
ip route add 10.96.0.0/16 via 10.10.0.11 proto 83
`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := strings.Join(Build(tc.state, gateway.DefaultOwnership()).Commands(), "\n")
			if diff := cmp.Diff(sorted(tc.want), sorted(got)); diff != "" {
				t.Errorf("commands (-want +got):\n%s", diff)
			}
		})
	}
}

// sorted sorts the lines, so that the table may list them in a readable order. TestOrder checks the real order.
func sorted(lines string) []string {
	s := strings.FieldsFunc(lines, func(r rune) bool { return r == '\n' })
	slices.Sort(s)
	return s
}

func TestOrder(t *testing.T) {
	state := gateway.State{Uplinks: []gateway.Uplink{{
		Link: "eth1", Number: 1,
		Connected: prefixes("198.51.100.0/24", "203.0.113.0/28"), Gateways: addrs("198.51.100.1"),
	}}}
	set := Build(state, gateway.DefaultOwnership())
	want := []string{
		"ip route add 203.0.113.0/28 dev eth1 table 7380 proto 83 scope link",
		"ip route add 198.51.100.0/24 dev eth1 table 7380 proto 83 scope link",
		"ip route add default via 198.51.100.1 dev eth1 table 7380 proto 83",
		"ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
	}
	if diff := cmp.Diff(want, set.Commands()); diff != "" {
		t.Errorf("additions (-want +got):\n%s", diff)
	}
	var removal []string
	for _, line := range slices.Backward(want) {
		line = strings.Replace(line, " add ", " del ", 1)
		removal = append(removal, line)
	}
	if diff := cmp.Diff(removal, Diff(set, Set{}).Commands()); diff != "" {
		t.Errorf("removals (-want +got):\n%s", diff)
	}
}

// TestUplinkRulesMove expects that uplink rules with the old priority are deleted only after the rules with the new priority
// exist.
func TestUplinkRulesMove(t *testing.T) {
	own := gateway.DefaultOwnership()
	want := Build(gateway.State{Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24")}}}, own)
	have := Set{Rules: slices.Clone(want.Rules), Routes: want.Routes}
	have.Rules[0].Priority = own.RulePriority
	if !OurPriority(have.Rules[0].Priority, own) || !OurPriority(want.Rules[0].Priority, own) || OurPriority(own.RulePriority+2, own) {
		t.Error("OurPriority must accept exactly the two priorities")
	}
	changes := []string{
		"ip rule add priority 7381 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
		"ip rule del priority 7380 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
	}
	if diff := cmp.Diff(changes, Diff(have, want).Commands()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestDiff(t *testing.T) {
	route := func(table int, dst string, gateways ...string) Route {
		return Route{Table: table, Destination: netip.MustParsePrefix(dst), Gateways: addrs(gateways...), Protocol: 83}
	}
	metric := func(r Route, m int) Route { r.Metric = m; return r }
	rule := func(table int) Rule {
		return Rule{Priority: 7380, Mark: gateway.Mark{Value: 0x100, Mask: 0x1f00}, Table: table, Protocol: 83}
	}
	for _, tc := range []struct {
		name       string
		have, want Set
		changes    []string
	}{
		{
			name: "equal",
			have: Set{Rules: []Rule{rule(7380)}, Routes: []Route{route(7380, "0.0.0.0/0", "192.0.2.1")}},
			want: Set{Rules: []Rule{rule(7380)}, Routes: []Route{route(7380, "0.0.0.0/0", "192.0.2.1")}},
		},
		{
			name:    "another gateway replaces the route",
			have:    Set{Routes: []Route{route(7380, "0.0.0.0/0", "192.0.2.1")}},
			want:    Set{Routes: []Route{route(7380, "0.0.0.0/0", "192.0.2.2")}},
			changes: []string{"ip route replace default via 192.0.2.2 table 7380 proto 83"},
		},
		{
			name:    "the same destination in another table is another route",
			have:    Set{Routes: []Route{route(7380, "0.0.0.0/0", "192.0.2.1")}},
			want:    Set{Routes: []Route{route(7381, "0.0.0.0/0", "192.0.2.1")}},
			changes: []string{"ip route add default via 192.0.2.1 table 7381 proto 83", "ip route del default via 192.0.2.1 table 7380 proto 83"},
		},
		{
			name:    "another metric is another route",
			have:    Set{Routes: []Route{metric(route(254, "10.96.0.0/16", "192.0.2.1"), 5)}},
			want:    Set{Routes: []Route{route(254, "10.96.0.0/16", "192.0.2.1")}},
			changes: []string{"ip route add 10.96.0.0/16 via 192.0.2.1 proto 83", "ip route del 10.96.0.0/16 via 192.0.2.1 proto 83 metric 5"},
		},
		{
			name:    "one of two routes with the same key stays",
			have:    Set{Routes: []Route{route(254, "10.96.0.0/16", "192.0.2.1"), route(254, "10.96.0.0/16", "192.0.2.2")}},
			want:    Set{Routes: []Route{route(254, "10.96.0.0/16", "192.0.2.2")}},
			changes: []string{"ip route del 10.96.0.0/16 via 192.0.2.1 proto 83"},
		},
		{
			name: "two unwanted routes with the same key: the first is replaced",
			have: Set{Routes: []Route{route(254, "10.96.0.0/16", "192.0.2.1"), route(254, "10.96.0.0/16", "192.0.2.2")}},
			want: Set{Routes: []Route{route(254, "10.96.0.0/16", "192.0.2.3")}},
			changes: []string{
				"ip route replace 10.96.0.0/16 via 192.0.2.3 proto 83", "ip route del 10.96.0.0/16 via 192.0.2.2 proto 83",
			},
		},
		{
			name: "rules are added after their routes and deleted before them",
			have: Set{Rules: []Rule{rule(7380)}, Routes: []Route{route(7380, "0.0.0.0/0", "192.0.2.1")}},
			want: Set{Rules: []Rule{rule(7381)}, Routes: []Route{route(7381, "0.0.0.0/0", "192.0.2.1")}},
			changes: []string{
				"ip route add default via 192.0.2.1 table 7381 proto 83",
				"ip rule add priority 7380 fwmark 0x100/0x1f00 lookup 7381 protocol 83",
				"ip rule del priority 7380 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
				"ip route del default via 192.0.2.1 table 7380 proto 83",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changes := Diff(tc.have, tc.want)
			if diff := cmp.Diff(tc.changes, changes.Commands()); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			halves := changes.Additions().Append(changes.Removals())
			if diff := cmp.Diff(changes.Commands(), halves.Commands()); diff != "" {
				t.Errorf("Additions and Removals are incomplete (-changes +both):\n%s", diff)
			}
			if changes.Empty() != (len(tc.changes) == 0) || changes.Rules()+changes.Routes() != len(tc.changes) {
				t.Errorf("Empty %t, Rules %d, Routes %d for %d changes", changes.Empty(), changes.Rules(), changes.Routes(), len(tc.changes))
			}
		})
	}
}
