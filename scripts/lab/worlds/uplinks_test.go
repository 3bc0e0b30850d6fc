// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

// requireLinks skips the test unless this kernel has links of the kind.
func (w *world) requireLinks(t *testing.T, kind string) {
	t.Helper()
	options := map[string]string{"vlan": " id 9", "vrf": " table 9"}[kind]
	rogue := w.Host(lab.Rogue)
	output, err := rogue.Exec(timeout(t, patience), strings.Fields("ip link add link eth0 name probe type "+kind+options)...)
	if err != nil && (strings.Contains(output, "Unknown device type") || strings.Contains(output, "not supported")) {
		testenv.Lacks(t, "links of type "+kind)
	}
	if _, err := rogue.Exec(timeout(t, patience), "ip", "link", "del", "probe"); err != nil {
		t.Fatal(err)
	}
}

// uplinkCase is a gateway that serves addresses on or by another kind of link than an Ethernet card.
type uplinkCase struct {
	name, kind string
	config     string
	// prepare sets up the gateway and the router.
	prepare func(t *testing.T, w *world)
	// external are the served addresses, one of each family.
	external []string
}

func uplinkCases() []uplinkCase {
	return []uplinkCase{
		{
			// Addresses that a routing protocol announces: they are on no card, and every uplink leads to them.
			name: "addresses on a dummy link", kind: "dummy", external: []string{"198.18.0.10", "2001:db8:d::10"},
			config: twoUplinks + "servedAddresses: [198.18.0.10, \"2001:db8:d::10\"]\n",
			prepare: func(t *testing.T, w *world) {
				w.each(t, lab.Gateway, "ip link add anycast type dummy", "ip link set anycast up",
					"ip addr add 198.18.0.10/32 dev anycast", "ip addr add 2001:db8:d::10/128 dev anycast nodad")
				// The packets come in by the uplink that is not in the default route of the lowest metric.
				w.each(t, lab.Router, "ip route add 198.18.0.10 via "+lab.External2, "ip -6 route add 2001:db8:d::10 via "+lab.External2v6,
					"ip6tables -I FORWARD -i eth2 -s 2001:db8:d::10 -j ACCEPT") // see lab.filterSources: it is no forged source
			},
		},
		{
			name: "an uplink in a VRF", kind: "vrf", external: []string{lab.External2, lab.External2v6},
			config: "uplinks: [{interface: eth1}, {interface: eth2, gateways: [203.0.113.1, \"2001:db8:2::1\"]}]\n",
			prepare: func(t *testing.T, w *world) {
				// Joining a VRF takes the IPv6 addresses and the routes of a link away. The VRF's table needs routes to the pods.
				w.each(t, lab.Gateway, "ip link add wan type vrf table 100", "ip link set wan up", "ip link set eth2 master wan",
					"ip -6 addr replace 2001:db8:2::10/64 dev eth2 nodad",
					"ip route add 10.244.0.0/16 via "+lab.Node1Address+" dev eth0 table 100",
					"ip -6 route add fd00:244:1::/64 via "+lab.Node1Address6+" dev eth0 table 100",
					"ip route add default via 203.0.113.1 dev eth2 table 100", "ip -6 route add default via 2001:db8:2::1 dev eth2 table 100")
			},
		},
		{
			name: "an uplink of WireGuard", kind: "wireguard", external: []string{"198.18.0.10", "2001:db8:d::10"},
			config: "uplinks: [{interface: eth1}, {interface: wg0}]\n",
			prepare: func(t *testing.T, w *world) {
				w.wireguard(t)
				w.each(t, lab.Gateway, "ip addr add 198.18.0.10/24 dev wg0", "ip addr add 2001:db8:d::10/64 dev wg0 nodad",
					"ip route add default dev wg0 metric 300", "ip -6 route add default dev wg0 metric 3000")
				w.each(t, lab.Router, "ip route add 198.18.0.0/24 dev wg0", "ip -6 route add 2001:db8:d::/64 dev wg0")
			},
		},
	}
}

// TestOtherKindsOfUplinks exchanges messages with a pod by addresses on other kinds of links, before and after a restart. Replies must leave
// as the requests came in, since the router drops forged sources; and nothing but Mappings may be reachable by those links.
func TestOtherKindsOfUplinks(t *testing.T) {
	for _, tc := range uplinkCases() {
		t.Run(tc.name, func(t *testing.T) {
			eachPlane(t, func(t *testing.T, w *world) {
				w.requireLinks(t, tc.kind)
				w.pods(t, 8080)
				tc.prepare(t, w)
				w.openInside(t, tc)
				w.objects(t, service(t, "echo", []string{"8080/TCP", "8080/UDP"}, p1), mapping("echo", "echo",
					`addresses: ["`+strings.Join(tc.external, `", "`)+`"], masquerade: false, ports: [{port: 1800, servicePort: 8080}, {port: 1800, servicePort: 8080, protocol: udp}]`))
				w.start(t, tc.config)
				var flows []*lab.Flow
				var answering []string
				for _, external := range tc.external {
					address := lab.Join(external, 1800)
					for _, network := range []string{"tcp", "udp"} {
						w.await(t, lab.Client, network, address, by(p1, 8080))
						flows = append(flows, w.open(t, lab.Client, network, address, 0))
					}
					answering = append(answering, address)
				}
				w.stop(t)
				w.start(t, tc.config)
				for _, flow := range flows {
					awaitEcho(t, flow, by(p1, 8080))
				}
				w.expectUnreached(t, answering, func() { w.sendInside(t) })
			})
		})
	}
}

// each runs commands on a host that must succeed.
func (w *world) each(t *testing.T, host string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if _, err := w.Host(host).Exec(timeout(t, patience), strings.Fields(line)...); err != nil {
			t.Fatal(err)
		}
	}
}

// openInside makes the router route to the pods by the uplink and the gateway forward, and waits until packets from the client reach a pod.
func (w *world) openInside(t *testing.T, tc uplinkCase) {
	t.Helper()
	by4, by6 := "via "+lab.External2, "via "+lab.External2v6
	if tc.kind == "wireguard" {
		by4, by6 = "dev wg0", "dev wg0"
	}
	w.each(t, lab.Router, "ip route add 10.244.0.0/16 "+by4, "ip -6 route add fd00:244::/32 "+by6)
	w.each(t, lab.Gateway, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=2")
	capture, err := w.PodHost("", p1.name).Capture("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = capture.Close() }()
	seen := map[netip.Addr]bool{}
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		w.sendInside(t)
		packets, err := capture.Packets()
		for _, packet := range packets {
			if packet.Destination.Port() == 8081 {
				seen[packet.Destination.Addr()] = true
			}
		}
		if err == nil && len(seen) < 2 {
			err = fmt.Errorf("packets to %v only reached the pod", seen)
		}
		return err
	}); err != nil {
		t.Fatalf("without the boundary: %v", err)
	}
}

// sendInside sends packets from the client to a pod.
func (w *world) sendInside(t *testing.T) {
	t.Helper()
	for _, pair := range [][2]string{{lab.ClientAddress, p1.address}, {lab.ClientAddress6, p1.address6}} {
		source, destination := netip.MustParseAddrPort(lab.Join(pair[0], 4000)), netip.MustParseAddrPort(lab.Join(pair[1], 8081))
		if err := w.Host(lab.Client).SendUDP(source, destination, "unwanted"); err != nil {
			t.Fatal(err)
		}
		if err := w.Host(lab.Client).SendTCP(source, destination, lab.SYN, 1, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// wireguard connects the gateway and the router by a tunnel over the second uplink.
func (w *world) wireguard(t *testing.T) {
	t.Helper()
	testenv.RequireTool(t, "wg")
	public := map[string]string{}
	hosts := []struct{ name, peer, endpoint string }{{lab.Gateway, lab.Router, "203.0.113.1:51820"}, {lab.Router, lab.Gateway, lab.External2 + ":51820"}}
	for _, h := range hosts {
		host := w.Host(h.name)
		private, err := host.Exec(timeout(t, patience), "wg", "genkey")
		if err != nil {
			t.Fatal(err)
		}
		key, err := host.ExecInput(timeout(t, patience), private, "wg", "pubkey")
		if err != nil {
			t.Fatal(err)
		}
		if err := host.WriteFile("/etc/wg0.key", private); err != nil {
			t.Fatal(err)
		}
		public[h.name] = strings.TrimSpace(key)
	}
	for _, h := range hosts {
		w.each(t, h.name, "ip link add wg0 type wireguard",
			"wg set wg0 listen-port 51820 private-key /etc/wg0.key peer "+public[h.peer]+" endpoint "+h.endpoint+" allowed-ips 0.0.0.0/0,::/0",
			"ip link set wg0 up")
	}
}
