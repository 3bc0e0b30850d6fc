// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestUplinkWithoutAGateway covers default routes with a device and no gateway (PPPoE, WireGuard, VTI), and IPv4 routes with an IPv6 next
// hop (mossdef-org/pbr#101, openwrt/packages#26083, opnsense/core#850): replies must still leave by that link.
func TestUplinkWithoutAGateway(t *testing.T) {
	for _, route := range []struct{ name, route string }{
		{"a device only", "ip route replace default dev eth2 metric 200"},
		{"a next hop of IPv6", "ip -4 route replace default via inet6 2001:db8:2::1 dev eth2 metric 200"},
	} {
		t.Run(route.name, func(t *testing.T) {
			eachPlane(t, func(t *testing.T, w *world) {
				w.pods(t, 8080)
				w.gateway(t, route.route)
				// The router acts as the other end: it answers ARP for all addresses.
				if err := w.Host(lab.Router).SetSysctl("net.ipv4.conf.all.proxy_arp", "1"); err != nil {
					t.Fatal(err)
				}
				w.objects(t, service(t, "echo", []string{"8080/TCP"}, p1),
					mapping("echo", "echo", `addresses: [198.51.100.10, 203.0.113.10], ports: [{port: 8080}]`))
				w.start(t, twoUplinks)
				w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 8080), by(p1, 8080))
				w.await(t, lab.Client, "tcp", lab.Join(lab.External2, 8080), by(p1, 8080))
				if table := w.gateway(t, "ip route show table 7381"); table == "" {
					t.Error("the second uplink has no table")
				}
			})
		})
	}
}
