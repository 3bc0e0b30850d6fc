// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// large is more than a connection has in flight before it learns the MTU of the path.
var large = strings.Repeat("x", 300_000)

// testPathMTU checks that "packet too big" errors get through the translation, from inside and from outside, and by the uplink that
// the packet came in by. All links have MTU 1500, so neither end offers smaller segments.
func testPathMTU(t *testing.T, w *world) {
	w.namespace(t, "mtu", 1)
	w.mapping(t, "mtu", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:1::12", "2001:db8:2::12"], serviceName: echo, mode: endpoints,
		ports: [{port: 1400, servicePort: 8080}]`)
	ctx := timeout(t, time.Minute)
	run := func(host string, argv ...string) {
		t.Helper()
		if _, err := w.Host(host).Exec(ctx, argv...); err != nil {
			t.Fatal(err)
		}
	}
	addresses := []string{"198.51.100.12", "203.0.113.12", "2001:db8:1::12", "2001:db8:2::12"}
	for _, address := range addresses {
		w.await(t, lab.Client, "tcp", lab.Join(address, 1400), nil)
	}
	pods := []string{w.podAddress(t, "mtu", "echo-0"), w.podAddress6(t, "mtu", "echo-0")}
	clients := []string{"192.0.2.0/24", "2001:db8:c::/64"}
	narrow := func(host string, destinations []string, mtu string) {
		t.Helper()
		for _, destination := range destinations {
			route, err := w.Host(host).Exec(ctx, "ip", "route", "show", "exact", destination)
			if destination == pods[1] || destination == clients[1] {
				route, err = w.Host(host).Exec(ctx, "ip", "-6", "route", "show", destination)
			}
			if err != nil || !strings.Contains(route, " dev ") {
				t.Fatal(route, err)
			}
			route, _, _ = strings.Cut(strings.TrimSpace(route), " mtu ")
			run(host, append(append([]string{"ip", "route", "replace"}, strings.Fields(route)...), "mtu", mtu)...)
		}
	}
	transfer := func(address string) {
		t.Helper()
		for _, host := range []string{lab.Client, "echo-0.mtu"} { // forget the MTU learned before
			run(host, "ip", "-4", "route", "flush", "cache")
			run(host, "ip", "-6", "route", "flush", "cache")
		}
		flow := w.flow(t, lab.Client, "tcp", lab.Join(address, 1400))
		if _, err := flow.Say(timeout(t, patience), large); err != nil {
			t.Errorf("a large transfer by %s: %v", address, err)
		}
	}
	learned := func(host, destination, mtu string) {
		t.Helper()
		route, err := w.Host(host).Exec(ctx, "ip", "route", "get", destination)
		if err != nil || !strings.Contains(route, "mtu "+mtu) {
			t.Errorf("%s did not learn that the path to %s has MTU %s: %s, %v", host, destination, mtu, route, err)
		}
	}
	t.Run("a router inside", func(t *testing.T) {
		narrow(lab.Node1, pods, "1400")
		defer narrow(lab.Node1, pods, "1500")
		for _, address := range addresses {
			transfer(address)
			learned(lab.Client, address, "1400")
		}
	})
	t.Run("a router outside", func(t *testing.T) {
		narrow(lab.Router, clients, "1300")
		defer narrow(lab.Router, clients, "1500")
		for _, address := range addresses {
			transfer(address)
			peer := lab.GatewayAddress // the pod's peer, because of the masquerade
			if netip.MustParseAddr(address).Is6() {
				peer = lab.GatewayAddress6
			}
			learned("echo-0.mtu", peer, "1300")
		}
	})
	t.Run("the gateway's own link", func(t *testing.T) {
		// A link needs the same MTU at both ends, or the other end drops larger packets without an error.
		for _, host := range []string{lab.Gateway, lab.Node1} {
			run(host, "ip", "link", "set", "eth0", "mtu", "1350")
			defer run(host, "ip", "link", "set", "eth0", "mtu", "1500")
		}
		for _, address := range addresses {
			transfer(address)
			learned(lab.Client, address, "1350")
		}
	})
}

// testClamp checks that, with clampMSS, no host needs to learn the MTU of the path.
func testClamp(t *testing.T, w *world) {
	w.namespace(t, "clamp", 1)
	w.mapping(t, "clamp", `addresses: [198.51.100.14, "2001:db8:2::14"], serviceName: echo, mode: endpoints, ports: [{port: 1410, servicePort: 8080}]`)
	w.reconfigure(t, w.config("clampMSS: true\n"))
	defer w.reconfigure(t, w.config())
	ctx := timeout(t, time.Minute)
	for _, mtu := range []string{"1400", "1500"} {
		if _, err := w.Host(lab.Gateway).Exec(ctx, "ip", "link", "set", "eth0", "mtu", mtu); err != nil {
			t.Fatal(err)
		}
		if mtu == "1500" {
			break // as it was
		}
		for address, link := range map[string]string{"198.51.100.14": "eth1", "2001:db8:2::14": "eth2"} {
			want := uint16(1400 - 20 - 20)
			if netip.MustParseAddr(address).Is6() {
				want = 1400 - 40 - 20
			}
			w.await(t, lab.Client, "tcp", lab.Join(address, 1410), nil)
			inside, outside := w.capture(t, "eth0"), w.capture(t, link)
			flow := w.flow(t, lab.Client, "tcp", lab.Join(address, 1410))
			if _, err := flow.Say(ctx, large); err != nil {
				t.Errorf("a large transfer by %s: %v", address, err)
			}
			for what, packet := range map[string]*lab.Packet{
				"SYN to the pod": findPacket(t, inside, func(p lab.Packet) bool {
					return p.Out && p.Flags&(lab.SYN|lab.ACK) == lab.SYN && p.Destination.Port() == 8080
				}),
				"SYN-ACK to the client": findPacket(t, outside, func(p lab.Packet) bool {
					return p.Out && p.Flags&(lab.SYN|lab.ACK) == lab.SYN|lab.ACK && p.Source.Port() == 1410
				}),
			} {
				if packet == nil || packet.MSS != want {
					t.Errorf("%s by %s: %+v, want its MSS %d", what, address, packet, want)
				}
			}
		}
	}
}

// capture starts a capture on a link of the gateway that ends with the test.
func (w *world) capture(t *testing.T, link string) *lab.Capture {
	t.Helper()
	capture, err := w.Host(lab.Gateway).Capture(link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = capture.Close() })
	return capture
}

// findPacket returns the first matching packet since the last call, or nil.
func findPacket(t *testing.T, capture *lab.Capture, match func(lab.Packet) bool) *lab.Packet {
	t.Helper()
	packets, err := capture.Packets()
	if err != nil {
		t.Fatal(err)
	}
	for _, packet := range packets {
		if match(packet) {
			return &packet
		}
	}
	return nil
}

// testInvalid checks that the host neither answers packets that are invalid in their connection nor lets them out untranslated.
func testInvalid(t *testing.T, w *world) {
	w.namespace(t, "invalid", 1)
	w.mapping(t, "invalid", `addresses: [198.51.100.14, "2001:db8:2::14"], serviceName: echo, mode: endpoints, masquerade: false, ports: [{port: 1420, servicePort: 8080}]`)
	pods := []string{w.podAddress(t, "invalid", "echo-0"), w.podAddress6(t, "invalid", "echo-0")}
	clients := []string{lab.ClientAddress, lab.ClientAddress6}
	for i, uplink := range []struct{ address, link string }{{"198.51.100.14", "eth1"}, {"2001:db8:2::14", "eth2"}} {
		external := netip.MustParseAddrPort(lab.Join(uplink.address, 1420))
		w.await(t, lab.Client, "tcp", external.String(), nil)
		flow := w.flow(t, lab.Client, "tcp", external.String())
		say(t, flow)
		client, pod := netip.MustParseAddrPort(lab.Join(clients[i], flow.LocalPort())), netip.MustParseAddrPort(lab.Join(pods[i], 8080))
		outside, other := w.capture(t, uplink.link), w.capture(t, map[string]string{"eth1": "eth2", "eth2": "eth1"}[uplink.link])

		// A window covers at most a few thousandths of all sequence numbers, so three numbers cannot all be inside by chance.
		for _, sequence := range []uint32{0x10000000, 0x60000000, 0xb0000000} {
			if err := w.Host(lab.Client).SendTCP(client, external, lab.ACK, sequence, sequence); err != nil {
				t.Fatal(err)
			}
			if err := w.PodHost("invalid", "echo-0").SendTCP(pod, client, lab.ACK, sequence, sequence); err != nil {
				t.Fatal(err)
			}
		}
		say(t, flow) // the host has handled the packets before it
		packets, err := outside.Packets()
		if err != nil {
			t.Fatal(err)
		}
		others, err := other.Packets()
		if err != nil {
			t.Fatal(err)
		}
		arrived := 0
		for _, p := range append(packets, others...) {
			switch {
			case !p.Out && p.Source == client && p.Flags == lab.ACK:
				arrived++
			case p.Out && p.Flags&lab.RST != 0:
				t.Errorf("the host answered a packet out of the window: %v", p)
			case p.Out && p.Source.Addr() == pod.Addr():
				t.Errorf("a pod's packet left untranslated: %v", p)
			}
		}
		if arrived < 3 {
			t.Errorf("%d packets out of the window arrived, want 3, so the test proves nothing", arrived)
		}
	}
}

// testICMPErrors checks that an error of an inside host, here "port unreachable", reaches the client from the address that it sent to, by
// the uplink that the request came in by.
func testICMPErrors(t *testing.T, w *world) {
	w.namespace(t, "errors", 1)
	w.apply(t, "apiVersion: v1\nkind: Service\nmetadata: {name: closed, namespace: errors}\n"+
		"spec: {ipFamilyPolicy: PreferDualStack, selector: {app: echo}, ports: [{port: 9, protocol: UDP}]}\n")
	w.mapping(t, "errors", `addresses: [198.51.100.14, 203.0.113.14, "2001:db8:1::14", "2001:db8:2::14"], serviceName: closed, mode: endpoints, ports: [{port: 1430, servicePort: 9, protocol: udp}]`)
	for address, links := range map[string][2]string{
		"198.51.100.14": {"eth1", "eth2"}, "203.0.113.14": {"eth2", "eth1"},
		"2001:db8:1::14": {"eth1", "eth2"}, "2001:db8:2::14": {"eth2", "eth1"},
	} {
		w.awaitForwarded(t, "udp", lab.Join(address, 1430))
		right, wrong := w.capture(t, links[0]), w.capture(t, links[1])
		w.awaitRefusal(t, lab.Client, "udp", lab.Join(address, 1430))
		isError := func(p lab.Packet) bool {
			return p.Out && (p.Protocol == unix.IPPROTO_ICMP || p.Protocol == unix.IPPROTO_ICMPV6 && p.Destination.Addr().String() == lab.ClientAddress6)
		}
		if p := findPacket(t, right, isError); p == nil || p.Source.Addr().String() != address {
			t.Errorf("the error about %s left by %s as %v, want that address as its source", address, links[0], p)
		}
		if p := findPacket(t, wrong, isError); p != nil {
			t.Errorf("the error about %s left by %s: %v", address, links[1], p)
		}
	}
}

// awaitForwarded waits until packets of the client are forwarded inside, answered or not.
func (w *world) awaitForwarded(t *testing.T, protocol, address string) {
	t.Helper()
	capture := w.capture(t, "eth0")
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, silence)
		defer cancel()
		_, err := w.echo(try, lab.Client, protocol, address)
		if findPacket(t, capture, func(p lab.Packet) bool { return p.Out && p.Protocol == unix.IPPROTO_UDP && p.Destination.Port() == 9 }) == nil {
			return err
		}
		return nil
	}); err != nil {
		t.Fatalf("no packet to %s is forwarded: %v", address, err)
	}
}
