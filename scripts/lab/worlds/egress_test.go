// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestEgressTakesNoHostsConnections has a Mapping with egress whose endpoints include a node, another inside host and the gateway: their
// connections must not change, and only the pod may leave with the Mapping's address.
func TestEgressTakesNoHostsConnections(t *testing.T) {
	const podsPort, hostsPort = 7100, 7101
	hosts := []struct {
		host, address, address6 string
	}{
		{lab.Node1, lab.Node1Address, lab.Node1Address6},
		{lab.Control, lab.ControlAddress, lab.ControlAddress6},
		{lab.Gateway, lab.GatewayAddress, lab.GatewayAddress6},
	}
	const external, external6 = "203.0.113.13", "2001:db8:2::13"
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		// This host forwarded for inside hosts before smartnatd started.
		for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
			if err := w.Host(lab.Gateway).SetSysctl(name, "1"); err != nil {
				t.Fatal(err)
			}
		}
		w.serve(t, lab.Client, podsPort, hostsPort)
		for _, h := range hosts {
			w.serve(t, h.host, 8081)
		}
		endpoints := []pod{p1}
		for _, h := range hosts {
			endpoints = append(endpoints, pod{h.host, h.address, h.address6})
		}
		w.objects(t, service(t, "echo", []string{"8080/TCP"}, endpoints...),
			mapping("echo", "echo", `addresses: [203.0.113.13, "2001:db8:2::13"], egress: true, ports: [{port: 8080}]`))
		w.start(t, twoUplinks)
		leave := func() {
			t.Helper()
			for to, want := range map[string]string{lab.ClientAddress: external, lab.ClientAddress6: external6} {
				w.await(t, p1.name+".default", "tcp", lab.Join(to, podsPort), func(a lab.Answer) bool { return a.Client.Addr().String() == want })
				w.await(t, p1.name+".default", "udp", lab.Join(to, podsPort), func(a lab.Answer) bool { return a.Client.Addr().String() == want })
			}
		}
		leave()
		for _, h := range hosts { // resolve neighbours, so that no packet waits for that
			w.await(t, lab.Gateway, "udp", lab.Join(h.address, 8081), nil)
			w.await(t, lab.Gateway, "udp", lab.Join(h.address6, 8081), nil)
		}
		for _, to := range []string{lab.ClientAddress, lab.ClientAddress6} {
			w.await(t, lab.Gateway, "udp", lab.Join(to, podsPort), nil)
		}
		captures := []*lab.Capture{w.capture(t, lab.Gateway, "eth1"), w.capture(t, lab.Gateway, "eth2")}
		for _, h := range hosts {
			for from, to := range map[string]string{h.address: lab.ClientAddress, h.address6: lab.ClientAddress6} {
				source := netip.AddrPortFrom(netip.MustParseAddr(from), 4000)
				destination := netip.AddrPortFrom(netip.MustParseAddr(to), hostsPort)
				if err := w.Host(h.host).SendTCP(source, destination, lab.SYN, 1, 0); err != nil {
					t.Fatal(err)
				}
				if err := w.Host(h.host).SendUDP(source, destination, "hello"); err != nil {
					t.Fatal(err)
				}
			}
		}
		leave()
		left := map[netip.Addr]bool{}
		for _, capture := range captures {
			packets, err := capture.Packets()
			if err != nil {
				t.Fatal(err)
			}
			for _, packet := range packets {
				if !packet.Out || packet.Destination.Port() != hostsPort || packet.Protocol != unix.IPPROTO_TCP && packet.Protocol != unix.IPPROTO_UDP {
					continue
				}
				left[packet.Source.Addr()] = true
			}
		}
		for _, h := range hosts {
			for _, address := range []string{h.address, h.address6} {
				if !left[netip.MustParseAddr(address)] {
					t.Errorf("packets of %s did not leave with its own address %s: %v", h.host, address, left)
				}
			}
		}
		if left[netip.MustParseAddr(external)] || left[netip.MustParseAddr(external6)] {
			t.Errorf("packets of hosts left with the Mapping's address: %v", left)
		}
	})
}
