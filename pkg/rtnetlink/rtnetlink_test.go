// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rtnetlink

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/policyrouting"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// host creates a host with two uplinks, a cluster link, and foreign routes and rules.
func host(t *testing.T) *Client {
	t.Helper()
	testenv.RequireTool(t, "ip")
	testenv.NewNetNS(t)
	for _, line := range []string{
		"link add eth0 type veth peer name peer0", "link add eth1 type veth peer name peer1", "link add eth2 type veth peer name peer2",
		"link set eth0 addrgenmode none", "link set eth1 addrgenmode none", "link set eth2 addrgenmode none",
		"link set peer0 addrgenmode none", "link set peer1 addrgenmode none", "link set peer2 addrgenmode none",
		"link set eth0 up", "link set eth1 up", "link set eth2 up", "link set peer0 up", "link set peer1 up", "link set peer2 up",
		"addr add 10.10.0.2/24 dev eth0", "addr add 198.51.100.10/24 dev eth1", "addr add 203.0.113.10/24 dev eth2",
		"addr add 2001:db8:10::2/64 dev eth0 nodad", "addr add 2001:db8:1::10/64 dev eth1 nodad", "addr add 2001:db8:2::10/64 dev eth2 nodad",
		"route add default via 198.51.100.1",
		// Foreign, with only our table, our priority or our protocol.
		"route add 192.0.2.0/24 via 198.51.100.7 table 7380",
		"-6 route add 2001:db8:77::/64 via 2001:db8:1::7 table 7380",
		"route add 192.0.2.128/25 via 198.51.100.7 table 99 proto 83",
		"rule add priority 7380 fwmark 0x100/0x1f00 lookup 99",
		"rule add priority 7380 fwmark 0x10/0x10 lookup main suppress_prefixlength 0",
		"rule add priority 7381 fwmark 0x200/0x1f00 lookup 7381",
		"rule add priority 7382 fwmark 0x200/0x1f00 lookup 7381 protocol 83",
		"rule add priority 7380 fwmark 0x900/0x1f00 lookup 7380 protocol 84",
		"rule add priority 99 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
		"-6 rule add priority 7380 fwmark 0x100/0x1f00 lookup 99",
	} {
		ip(t, line)
	}
	testenv.AwaitLocal(t, "2001:db8:10::2", "2001:db8:1::10", "2001:db8:2::10")
	return New(gateway.DefaultOwnership())
}

func ip(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
	return string(out)
}

// kernel returns the entire policy routing as ip(8) prints it.
func kernel(t *testing.T) string {
	t.Helper()
	return ip(t, "rule") + ip(t, "-6 rule") + ip(t, "route show table all") + ip(t, "-6 route show table all")
}

func state() gateway.State {
	addrs := func(s ...string) []netip.Addr {
		var as []netip.Addr
		for _, a := range s {
			as = append(as, netip.MustParseAddr(a))
		}
		return as
	}
	return gateway.State{
		Uplinks: []gateway.Uplink{
			{
				Link: "eth1", Number: 1,
				Connected: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:1::/64")},
				Gateways:  addrs("198.51.100.1", "2001:db8:1::1"),
			},
			{
				Link: "eth2", Number: 2,
				Connected: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:2::/64")},
				Gateways:  addrs("192.0.2.99", "fe80::1"), // the first is not on the link
			},
			{Link: "eth0", Number: 3, Defaults: []gateway.DefaultRoute{{Link: "eth0"}, {Link: "eth0", IPv6: true}}},
			{Link: "peer1", Number: 4, Defaults: []gateway.DefaultRoute{{Link: "peer1", Gateway: netip.MustParseAddr("fe80::2")}}},
			{Link: "peer2", Number: 5, Defaults: []gateway.DefaultRoute{{Link: "peer2", Gateway: netip.MustParseAddr("2001:db8:9::1")}}},
		},
		ServiceRoutes: []gateway.ServiceRoute{
			{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: addrs("10.10.0.11", "10.10.0.12")},
			{Destination: netip.MustParsePrefix("10.244.1.0/24"), Via: addrs("10.10.0.11")},
			{Destination: netip.MustParsePrefix("fd00:96::/108"), Via: addrs("2001:db8:10::11", "2001:db8:10::12")},
			{Destination: netip.MustParsePrefix("fd00:244::/64"), Via: addrs("2001:db8:10::11")},
		},
		Egresses: []gateway.Egress{
			{Address: netip.MustParseAddr("198.51.100.10"), Uplink: 1, Sources: addrs("10.244.1.2")},
			{Address: netip.MustParseAddr("2001:db8:1::10"), Uplink: 1, Sources: addrs("fd00:244:1::2")},
		},
	}
}

func observe(t *testing.T, c *Client) policyrouting.Set {
	t.Helper()
	set, err := c.Observe()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// reach applies the difference to want and checks the result.
func reach(t *testing.T, c *Client, want policyrouting.Set) {
	t.Helper()
	changes := policyrouting.Diff(observe(t, c), want)
	done, err := c.Apply(changes)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(changes.Commands(), done.Commands()); diff != "" {
		t.Errorf("Apply returned other changes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Commands(), observe(t, c).Commands()); diff != "" {
		t.Errorf("state in the kernel (-want +got):\n%s", diff)
	}
}

func TestApplyAndRemove(t *testing.T) {
	c := host(t)
	before := kernel(t)
	if set := observe(t, c); len(set.Rules)+len(set.Routes) > 0 {
		t.Fatalf("foreign routes or rules read as ours: %q", set.Commands())
	}
	want := policyrouting.Build(state(), gateway.DefaultOwnership())
	reach(t, c, want)

	table := ip(t, "route show table 7381")
	for _, line := range []string{"default via 192.0.2.99 dev eth2 proto 83 onlink", "203.0.113.0/24 dev eth2 proto 83 scope link"} {
		if !strings.Contains(table, line) {
			t.Errorf("table 7381 lacks %q:\n%s", line, table)
		}
	}
	if rules := ip(t, "rule"); !strings.Contains(rules, "from all fwmark 0x200/0x1f00 lookup 7381 proto 83") {
		t.Errorf("the rule of the second uplink is missing:\n%s", rules)
	}

	if _, err := c.Apply(policyrouting.Diff(policyrouting.Set{}, want)); err != nil {
		t.Errorf("applying existing routes and rules: %v", err)
	}
	reach(t, c, want)
	removal := policyrouting.Diff(want, policyrouting.Set{})
	for _, round := range []string{"removed", "removed again"} {
		if _, err := c.Apply(removal); err != nil {
			t.Errorf("%s: %v", round, err)
		}
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("%s: not restored (-before +after):\n%s", round, diff)
		}
	}
}

// TestCommandsAreTheSame: the commands that `smartnatd render` prints have the same effect as the Client.
func TestCommandsAreTheSame(t *testing.T) {
	c := host(t)
	want := policyrouting.Build(state(), gateway.DefaultOwnership())
	for _, line := range want.Commands() {
		ip(t, strings.TrimPrefix(line, "ip "))
	}
	if diff := cmp.Diff(want.Commands(), observe(t, c).Commands()); diff != "" {
		t.Errorf("effect of the iproute2 commands (-want +got):\n%s", diff)
	}
	byHand := kernel(t)
	reach(t, c, policyrouting.Set{})
	reach(t, c, want)
	if diff := cmp.Diff(byHand, kernel(t)); diff != "" {
		t.Errorf("effect of the client differs (-iproute2 +client):\n%s", diff)
	}
	for _, line := range policyrouting.Diff(want, policyrouting.Set{}).Commands() {
		ip(t, strings.TrimPrefix(line, "ip "))
	}
	if set := observe(t, c); len(set.Rules)+len(set.Routes) > 0 {
		t.Errorf("the removal commands left %q", set.Commands())
	}
}

func TestReplace(t *testing.T) {
	c := host(t)
	before := kernel(t)
	hops := func(v4, v6 []string) gateway.State {
		s := gateway.State{ServiceRoutes: []gateway.ServiceRoute{
			{Destination: netip.MustParsePrefix("10.96.0.0/16")}, {Destination: netip.MustParsePrefix("fd00:96::/108")},
		}}
		for i, via := range [][]string{v4, v6} {
			for _, a := range via {
				s.ServiceRoutes[i].Via = append(s.ServiceRoutes[i].Via, netip.MustParseAddr(a))
			}
		}
		return s
	}
	for _, step := range []struct {
		name   string
		v4, v6 []string
	}{
		{"one", []string{"10.10.0.11"}, []string{"2001:db8:10::11"}},
		{"another one", []string{"10.10.0.12"}, []string{"2001:db8:10::12"}},
		{"three", []string{"10.10.0.11", "10.10.0.12", "10.10.0.13"}, []string{"2001:db8:10::11", "2001:db8:10::12", "2001:db8:10::13"}},
		{"two others", []string{"10.10.0.12", "10.10.0.14"}, []string{"2001:db8:10::12", "2001:db8:10::14"}},
		{"one again", []string{"10.10.0.14"}, []string{"2001:db8:10::14"}},
		{"none", nil, nil},
	} {
		t.Logf("next hops: %s", step.name) // no subtest: its goroutine would be in another namespace
		reach(t, c, policyrouting.Build(hops(step.v4, step.v6), gateway.DefaultOwnership()))
	}
	if diff := cmp.Diff(before, kernel(t)); diff != "" {
		t.Errorf("not as before (-before +after):\n%s", diff)
	}
}

func TestForeignRouteInTheWay(t *testing.T) {
	c := host(t)
	ip(t, "route add 10.96.0.0/16 via 10.10.0.99 proto static")
	ip(t, "-6 route add fd00:96::/108 via 2001:db8:10::99 proto static")
	want := policyrouting.Build(state(), gateway.DefaultOwnership())
	done, err := c.Apply(policyrouting.Diff(policyrouting.Set{}, want))
	if err == nil || strings.Count(err.Error(), "not ours (protocol static)") != 2 {
		t.Errorf("err = %v, want an error for two foreign routes", err)
	}
	if got, all := done.Routes()+done.Rules(), len(want.Rules)+len(want.Routes); got != all-2 {
		t.Errorf("%d of %d changes done, want all except two", got, all)
	}
	for _, show := range []string{"route show 10.96.0.0/16", "-6 route show fd00:96::/108"} {
		if out := ip(t, show); !strings.Contains(out, "proto static") {
			t.Errorf("ip %s: %q: a foreign route was changed", show, out)
		}
	}
	if _, err := c.Apply(policyrouting.Changes{DeleteRoutes: want.Routes}); err != nil {
		t.Error(err)
	}
	if out := ip(t, "route show 10.96.0.0/16"); !strings.Contains(out, "proto static") {
		t.Errorf("a foreign route was deleted: %q", out)
	}
}

func TestForeignRuleStays(t *testing.T) {
	c := host(t)
	rule := policyrouting.Rule{Priority: 7380, Mark: gateway.Mark{Value: 0x100, Mask: 0x1f00}, Table: 99, Protocol: 83}
	reach(t, c, policyrouting.Set{Rules: []policyrouting.Rule{rule}})
	reach(t, c, policyrouting.Set{})
	if rules := ip(t, "rule"); !strings.Contains(rules, "7380:\tfrom all fwmark 0x100/0x1f00 lookup 99") {
		t.Errorf("the identical foreign rule is gone:\n%s", rules)
	}
}

// TestUplinkRulesMove: uplink rules that an older version wrote with another priority are recognized and moved.
func TestUplinkRulesMove(t *testing.T) {
	c := host(t)
	before := kernel(t)
	for _, line := range []string{
		"rule add priority 7380 fwmark 0x100/0x1f00 lookup 7380 protocol 83", "-6 rule add priority 7380 fwmark 0x100/0x1f00 lookup 7380 protocol 83",
		"rule add priority 7380 fwmark 0x200/0x1f00 lookup 7381 protocol 83", "-6 rule add priority 7380 fwmark 0x200/0x1f00 lookup 7381 protocol 83",
	} {
		ip(t, line)
	}
	reach(t, c, policyrouting.Build(state(), gateway.DefaultOwnership()))
	// Five uplinks have an IPv4 route and three have an IPv6 route.
	for family, uplinks := range map[string]int{"-4": 5, "-6": 3} {
		rules := ip(t, family+" rule show priority 7380")
		if strings.Count(rules, "proto 83") != 1 || !strings.Contains(rules, "lookup main suppress_prefixlength 0 proto 83") {
			t.Errorf("want only the egress rule at priority 7380:\n%s", rules)
		}
		if rules := ip(t, family+" rule show priority 7381"); strings.Count(rules, "proto 83") != uplinks {
			t.Errorf("want %d uplink rules at priority 7381:\n%s", uplinks, rules)
		}
	}
	reach(t, c, policyrouting.Set{})
	if diff := cmp.Diff(before, kernel(t)); diff != "" {
		t.Errorf("not as before (-before +after):\n%s", diff)
	}
}

func TestOneBadRouteStopsNothing(t *testing.T) {
	c := host(t)
	ip(t, "link del eth2")
	ip(t, "link set eth0 down")
	want := policyrouting.Build(state(), gateway.DefaultOwnership())
	_, err := c.Apply(policyrouting.Diff(policyrouting.Set{}, want))
	for _, text := range []string{"finding the link eth2", "dev eth2 table 7381", "no link of this host reaches the gateway"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("err = %v, want %q in it", err, text)
		}
	}
	set := observe(t, c)
	if len(set.Rules) != len(want.Rules) {
		t.Errorf("%d rules, want %d", len(set.Rules), len(want.Rules))
	}
	for _, r := range want.Routes {
		if r.Link == "eth1" && !containsRoute(set, r) {
			t.Errorf("missing: %s", r)
		}
	}
	// Routes that disappeared with their link are not an error.
	if _, err := c.Apply(policyrouting.Diff(want, policyrouting.Set{})); err != nil {
		t.Errorf("removal: %v", err)
	}
	if set := observe(t, c); len(set.Rules)+len(set.Routes) > 0 {
		t.Errorf("left behind: %q", set.Commands())
	}
}

func containsRoute(set policyrouting.Set, r policyrouting.Route) bool {
	for _, o := range set.Routes {
		if o.Equal(r) {
			return true
		}
	}
	return false
}
