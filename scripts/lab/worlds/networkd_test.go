// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/scripts/lab"
)

// purges are what network managers do to foreign routes and rules when they start, when they are reloaded, or when a link changes
// (ManageForeignRoutes= and ManageForeignRoutingPolicyRules= of networkd.conf(5); systemd/systemd#19106, #22077, cilium/cilium#18706).
// Each ends with the manager's own configuration, which belongs to the gateway and not to smartnatd.
var purges = []struct{ name, script string }{
	{
		"networkd starts: rules one by one, then routes, five times in a row",
		`for i in 1 2 3 4 5; do
			for f in -4 -6; do
				for p in $(ip $f rule show | sed -n '/proto 83/s/:.*//p'); do ip $f rule del priority $p; done
				ip $f route flush table all proto 83
			done
		done`,
	},
	{"rules alone", `for f in -4 -6; do for p in $(ip $f rule show | sed -n '/proto 83/s/:.*//p'); do ip $f rule del priority $p; done; done`},
	{"routes alone", "for f in -4 -6; do ip $f route flush table all proto 83; done"},
	{
		"routes by their type, then its own again",
		`for f in -4 -6; do
			ip $f route save table main proto boot > /run/main$f; ip $f route save table 200 > /run/user$f
			ip $f route flush table all type unicast proto 83; ip $f route flush table main proto boot type unicast; ip $f route flush table 200
			ip $f route restore < /run/main$f; ip $f route restore < /run/user$f
		done`,
	},
	{
		"networkctl reconfigure of the second uplink: its addresses and routes go and come",
		`ip route save table main dev eth2 proto boot > /run/eth2; ip route save table 200 > /run/user
		 ip -6 route save table main dev eth2 proto boot > /run/eth2-6; ip -6 route save table 200 > /run/user-6
		 ip address flush dev eth2 scope global
		 for i in 0 1 2 3 4; do ip address add 203.0.113.1$i/24 dev eth2; ip address add 2001:db8:2::1$i/64 dev eth2 nodad; done
		 ip route restore < /run/eth2; ip route restore < /run/user
		 ip -6 route flush dev eth2 proto boot; ip -6 route restore < /run/eth2-6; ip -6 route flush table 200; ip -6 route restore < /run/user-6`,
	},
	{
		"the second uplink flaps, twice",
		`ip route save table main dev eth2 proto boot > /run/eth2; ip route save table 200 > /run/user
		 ip -6 route save table main dev eth2 proto boot > /run/eth2-6; ip -6 route save table 200 > /run/user-6
		 ip link set eth2 down; ip link set eth2 up; ip link set eth2 down; ip link set eth2 up
		 for i in 0 1 2 3 4; do ip address replace 2001:db8:2::1$i/64 dev eth2 nodad; done
		 ip route restore < /run/eth2; ip route restore < /run/user
		 ip -6 route restore < /run/eth2-6; ip -6 route restore < /run/user-6`,
	},
}

// TestNetworkdTakesForeignRulesAndRoutes checks that connections by the second uplink, which need smartnatd's rules and routes, survive
// all purges, and that the rules and routes of the gateway's owner do not change.
func TestNetworkdTakesForeignRulesAndRoutes(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		for _, line := range []string{
			"ip rule add from 203.0.113.10 lookup 200 priority 30000", "ip route add default via 203.0.113.1 table 200",
			"ip -6 rule add from 2001:db8:2::10 lookup 200 priority 30000", "ip -6 route add default via 2001:db8:2::1 table 200",
		} {
			w.gateway(t, line)
		}
		w.objects(t, service(t, "echo", []string{"8080/TCP", "8080/UDP"}, p1),
			mapping("echo", "echo", `addresses: [203.0.113.10, "2001:db8:2::10"], ports: [{port: 8080}, {port: 8080, protocol: udp}]`))
		w.start(t, twoUplinks)
		var flows []*lab.Flow
		for _, address := range []string{lab.External2, lab.External2v6} {
			for _, network := range []string{"tcp", "udp"} {
				w.await(t, lab.Client, network, lab.Join(address, 8080), by(p1, 8080))
				flows = append(flows, w.open(t, lab.Client, network, lab.Join(address, 8080), 0))
				awaitEcho(t, flows[len(flows)-1], by(p1, 8080))
			}
		}
		before := w.routing(t)
		for _, line := range []string{"proto 83", "lookup 200", "table 200"} {
			if !slices.ContainsFunc(before, func(s string) bool { return strings.Contains(s, line) }) {
				t.Fatalf("no %s among:\n%s", line, strings.Join(before, "\n"))
			}
		}
		for _, purge := range purges {
			t.Run(purge.name, func(t *testing.T) {
				if _, err := w.Host(lab.Gateway).Exec(timeout(t, patience), "sh", "-ec", purge.script); err != nil {
					t.Fatal(err)
				}
				for _, flow := range flows {
					awaitEcho(t, flow, by(p1, 8080))
				}
				w.awaitRouting(t, before)
			})
		}
	})
}

// routing returns the gateway's rules and routes, except for those that the kernel itself creates for neighbours and links.
func (w *world) routing(t *testing.T) []string {
	t.Helper()
	output, err := w.Host(lab.Gateway).Exec(timeout(t, patience), "sh", "-ec", `ip -4 rule; ip -6 rule
		ip -4 route show table all; ip -6 route show table all | grep -v 'fe80::\|ff00::\|^anycast'`)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	slices.Sort(lines)
	return lines
}

func (w *world) awaitRouting(t *testing.T, want []string) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		if diff := cmp.Diff(want, w.routing(t)); diff != "" {
			return fmt.Errorf("rules and routes (-want +got):\n%s", diff)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
