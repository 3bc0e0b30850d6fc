// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// boundaryCase is a link by which a neighbour's packets come in, other than the configured one, or not configured at all.
type boundaryCase struct {
	name string
	// kind is the kind of link that the case needs, on the gateway and maybe on the neighbour.
	kind           string
	gateway, rogue []string
	config         string
	// via and via6 are the gateway's addresses that the neighbour routes through, from and from6 its own.
	via, via6, from, from6 string
}

// on moves the addresses of eth1 to another link.
func on(link string, lines ...string) []string {
	return append(lines,
		"ip addr flush dev eth1", "ip link set "+link+" up", "ip link set eth1 up",
		"ip addr add 198.51.100.10/24 dev "+link, "ip addr add 2001:db8:1::10/64 dev "+link+" nodad",
		"ip route replace default via 198.51.100.1 dev "+link, "ip -6 route replace default via 2001:db8:1::1 dev "+link,
	)
}

// stacked creates a link on top of the one between the two hosts, with its own network.
func stacked(kind, options string) (gateway, rogue []string) {
	lines := func(parent, address, address6 string) []string {
		return []string{
			"ip link add link " + parent + " name above type " + kind + options, "ip link set above up",
			"ip addr add " + address + "/24 dev above", "ip addr add " + address6 + "/64 dev above nodad",
		}
	}
	// The parent link must not answer ARP for the addresses of the link on top of it.
	return append(lines("eth1", "192.168.77.1", "fd77::1"), "sysctl -qw net.ipv4.conf.eth1.arp_ignore=1"), lines("eth0", "192.168.77.66", "fd77::66")
}

func boundaryCases() []boundaryCase {
	direct := boundaryCase{via: lab.External1, via6: lab.External1v6, from: "198.51.100.66", from6: "2001:db8:1::66", config: twoUplinks}
	above := boundaryCase{via: "192.168.77.1", via6: "fd77::1", from: "192.168.77.66", from6: "fd77::66", config: twoUplinks}
	bridge, bond, vlan, macvlan, none := direct, direct, above, above, direct
	bridge.name, bridge.kind = "the uplink is a port of a bridge", "bridge"
	bridge.gateway = on("br-wan", "ip link add br-wan type bridge", "ip link set eth1 master br-wan")
	bond.name, bond.kind = "the uplink is a port of a bond", "bond"
	bond.gateway = on("bond0", "ip link add bond0 type bond mode active-backup", "ip link set eth1 down", "ip link set eth1 master bond0")
	vlan.name, vlan.kind = "a VLAN is on the uplink", "vlan"
	vlan.gateway, vlan.rogue = stacked("vlan", " id 5")
	macvlan.name, macvlan.kind = "a macvlan is on the uplink", "macvlan"
	macvlan.gateway, macvlan.rogue = stacked("macvlan", " mode bridge")
	none.name, none.config = "no uplink is configured", "servedAddresses: [198.51.100.10, \"2001:db8:1::10\"]\n"
	return []boundaryCase{bridge, bond, vlan, macvlan, none}
}

// TestBoundaryFollowsLinks lets a neighbour reach a pod through a host that forwards, until smartnatd runs: then only mapped ports are
// reachable, whatever link the packets come in by.
func TestBoundaryFollowsLinks(t *testing.T) {
	for _, tc := range boundaryCases() {
		t.Run(tc.name, func(t *testing.T) {
			eachPlane(t, func(t *testing.T, w *world) {
				rogue := w.Host(lab.Rogue)
				if tc.kind != "" {
					w.requireLinks(t, tc.kind)
				}
				w.pods(t, 8080)
				for _, line := range append(tc.gateway, "sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv6.conf.all.forwarding=1") {
					w.gateway(t, line)
				}
				for _, line := range append(tc.rogue, "ip route add 10.244.0.0/16 via "+tc.via, "ip -6 route add fd00:244::/32 via "+tc.via6) {
					if _, err := rogue.Exec(timeout(t, patience), strings.Fields(line)...); err != nil {
						t.Fatal(err)
					}
				}
				inside := map[string]string{p1.address: tc.from, p1.address6: tc.from6}
				for to := range inside { // without the boundary, the path is open
					w.await(t, lab.Rogue, "udp", lab.Join(to, 8080), by(p1, 8080))
				}
				w.objects(t, service(t, "echo", []string{"8080/UDP"}, p1), mapping("echo", "echo",
					`addresses: [198.51.100.10, "2001:db8:1::10"], ports: [{port: 1800, servicePort: 8080, protocol: udp}]`))
				w.start(t, tc.config)
				answering := []string{lab.Join(lab.External1, 1800), lab.Join(lab.External1v6, 1800)}
				w.expectUnreached(t, answering, func() {
					for to, own := range inside {
						for _, from := range []string{own, own[:len(own)-1] + "7"} {
							source, destination := netip.MustParseAddrPort(lab.Join(from, 4000)), netip.MustParseAddrPort(lab.Join(to, 8081))
							if err := rogue.SendUDP(source, destination, "unwanted"); err != nil {
								t.Fatal(err)
							}
							if err := rogue.SendTCP(source, destination, lab.SYN, 1, 0); err != nil {
								t.Fatal(err)
							}
						}
					}
				})
			})
		})
	}
}
