// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// oneLink makes the gateway reach both the outside and the nodes by eth0, the only network card of a small server.
func (w *world) oneLink(t *testing.T) {
	t.Helper()
	for _, line := range []string{ // the lab's bridges are in the namespace of the test
		"link add patch type veth peer name patch1", "link set patch master cluster", "link set patch1 master outside1",
		"link set patch up", "link set patch1 up",
	} {
		if output, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, output)
		}
	}
	t.Cleanup(func() {
		if output, err := exec.Command("ip", "link", "del", "patch").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, output)
		}
	})
	for _, line := range []string{
		"ip addr flush dev eth1", "ip addr flush dev eth2", "ip link set eth1 down", "ip link set eth2 down",
		"ip addr add 198.51.100.10/24 dev eth0", "ip addr add 2001:db8:1::10/64 dev eth0 nodad",
		"ip route replace default via 198.51.100.1 dev eth0", "ip -6 route replace default via 2001:db8:1::1 dev eth0",
	} {
		w.gateway(t, line)
	}
}

// TestOneLink has a host with one link, where connections of pods come in by the uplink. insideNetworks names the cluster's networks: their
// pods leave with the Mapping's address and get answers, and Mappings lead to them.
func TestOneLink(t *testing.T) {
	const inside = `uplinks: [{interface: eth0}]
insideNetworks: [10.244.0.0/16, "fd00:244::/32"]
`
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.oneLink(t)
		w.serve(t, lab.Client, 7100)
		w.objects(t, service(t, "echo", []string{"8080/TCP"}, p1),
			mapping("echo", "echo", `addresses: [198.51.100.10, "2001:db8:1::10"], egress: true, ports: [{port: 8080}]`))
		w.start(t, inside)
		for to, want := range map[string]string{lab.ClientAddress: lab.External1, lab.ClientAddress6: lab.External1v6} {
			w.await(t, lab.Client, "tcp", lab.Join(want, 8080), by(p1, 8080))
			leaves := func(a lab.Answer) bool { return a.Client.Addr().String() == want }
			for _, network := range []string{"tcp", "udp"} {
				flow := w.open(t, p1.name+".default", network, lab.Join(to, 7100), 0)
				for range 3 {
					awaitEcho(t, flow, leaves)
				}
			}
		}
		w.awaitCheck(t, "Mapping", true) // it matches "ok      Mappings"
		w.awaitCheck(t, "Mapping default/echo", false)
	})
}
