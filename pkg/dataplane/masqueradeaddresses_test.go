// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// sourcesPort is the port of a pod that answers with the address and port that it sees.
const sourcesPort = 8081

// serveSources makes a pod answer every line and every datagram with its source.
func serveSources(t *testing.T, name string) {
	t.Helper()
	testenv.In(t, name, func() error { return answer(t, fmt.Sprintf(":%d", sourcesPort), net.Addr.String) })
}

// dialFrom connects from a host to an external address and port.
func dialFrom(t *testing.T, host, protocol, address string, port uint16) net.Conn {
	t.Helper()
	var conn net.Conn
	testenv.In(t, host, func() (err error) {
		conn, err = net.DialTimeout(protocol, netip.AddrPortFrom(addr(address), port).String(), 10*time.Second)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// seen returns the source that the pod sees on a connection, by its own word and by that of conntrack.
func seen(t *testing.T, conn net.Conn) netip.AddrPort {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("who\n")); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	source := netip.MustParseAddrPort(line[:len(line)-1])
	source = netip.AddrPortFrom(source.Addr().Unmap(), source.Port())
	client, known := netip.MustParseAddrPort(conn.LocalAddr().String()), false
	if err := conntrack.Flows(gateway.DefaultOwnership(), func(f flows.Flow) {
		known = known || f.Client == client && f.Seen == source && string(f.Protocol) == conn.LocalAddr().Network()
	}); err != nil {
		t.Fatal(err)
	}
	if !known {
		t.Errorf("conntrack does not know a connection of %s that a pod sees from %s", client, source)
	}
	return source
}

// TestKernelMasqueradeAddresses expects that pods see a masquerade address of the link to them as the source, in its range of ports,
// that a connection keeps its source when the addresses change and survives its link being set down, that other links and Forwards
// have their sources as before, and that the host resets no connection to such an address that it does not know.
func TestKernelMasqueradeAddresses(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		serveSources(t, "pod1")
		serveSources(t, "pod2")
		first, second, host2 := addr("10.244.1.100"), addr("10.244.1.101"), addr("10.244.2.1")
		if n.name == "IPv6" {
			first, second, host2 = addr("fd00:244:1::100"), addr("fd00:244:1::101"), addr("fd00:244:2::1")
		}
		hold(t, first)
		hold(t, second)
		ports := gateway.PortRange{First: 20000, Last: 29999}
		with := func(addresses ...netip.Addr) gateway.State {
			state := gateway.State{
				MasqueradePorts: ports,
				Uplinks:         []gateway.Uplink{{Link: "eth1", Number: 1, Connected: []netip.Prefix{netip.MustParsePrefix(n.connected)}}},
			}
			for _, protocol := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
				for i, pod := range []string{n.pod1, n.pod2, n.pod1} {
					f := forward(n.external, uint16(80+i), pod)
					f.Protocol, f.Masquerade, f.Backends[0].Port = protocol, i < 2, sourcesPort
					state.Forwards = append(state.Forwards, f)
				}
			}
			if len(addresses) > 0 {
				state.MasqueradeAddresses = []gateway.LinkAddresses{{Link: "pod1", Addresses: addresses}}
			}
			return state
		}
		protocols := []string{"tcp", "udp"}
		expect := func(what string, conn net.Conn, want ...netip.Addr) netip.AddrPort {
			t.Helper()
			got := seen(t, conn)
			if !slices.Contains(want, got.Addr()) {
				t.Errorf("%s over %s: the pod sees %s, want %s", what, conn.LocalAddr().Network(), got, want)
			}
			if got.Addr() != addr(n.client) && !ports.Contains(got.Port()) {
				t.Errorf("%s over %s: the pod sees the port %d, want one of %s", what, conn.LocalAddr().Network(), got.Port(), ports)
			}
			return got
		}
		d := h.start()
		apply(t, d, with(first))
		kept := map[net.Conn]netip.AddrPort{}
		for _, p := range protocols {
			conn := dialFrom(t, "client", p, n.external, 80)
			kept[conn] = expect("one address", conn, first)
			expect("a pod that reaches itself", dialFrom(t, "pod1", p, n.external, 80), first)
			expect("another link", dialFrom(t, "client", p, n.external, 81), host2)
			expect("a Forward that keeps the source", dialFrom(t, "client", p, n.external, 82), addr(n.client))
		}
		expectNoReset(t, "pod1", addr(n.pod1), first)
		if n.name == "IPv4" { // With IPv6, the host loses its addresses.
			run(t, "ip", "link set pod1 down")
			run(t, "ip", "link set pod1 up")
			for conn, source := range kept {
				if got := seen(t, conn); got != source {
					t.Errorf("after the link was down, the pod sees a connection from %s, and from %s before", got, source)
				}
			}
		}
		if again := apply(t, h.start(), with(first)); !again.Empty() {
			t.Errorf("a restart writes %s", again)
		}
		d = h.start()
		for _, step := range []struct {
			name string
			now  []netip.Addr
			want []netip.Addr
		}{
			{"two addresses", []netip.Addr{first, second}, []netip.Addr{first, second}},
			{"another address", []netip.Addr{second}, []netip.Addr{second}},
			{"no address", nil, []netip.Addr{addr(n.pod1).Prev(), first, second}}, // The host has all of them.
		} {
			if result := apply(t, d, with(step.now...)); result.Connections != 0 {
				t.Errorf("%s: %d connections ended, want none", step.name, result.Connections)
			}
			for conn, source := range kept {
				if got := seen(t, conn); got != source {
					t.Errorf("%s: the pod sees a connection from %s, and from %s before", step.name, got, source)
				}
			}
			met := map[netip.Addr]bool{}
			for range 20 {
				for _, p := range protocols {
					met[expect(step.name, dialFrom(t, "client", p, n.external, 80), step.want...).Addr()] = true
				}
			}
			if len(step.now) > 0 && len(met) != len(step.want) {
				t.Errorf("%s: 40 connections have the sources %v", step.name, met)
			}
		}
	})
}

// hold gives the gateway an address on the link to pod1.
func hold(t *testing.T, a netip.Addr) {
	t.Helper()
	nodad := ""
	if a.Is6() {
		nodad = " nodad"
	}
	run(t, "ip", fmt.Sprintf("addr add %s dev pod1%s", netip.PrefixFrom(a, a.BitLen()), nodad))
	if a.Is6() {
		testenv.AwaitLocal(t, a.String())
	}
}

// TestKernelMasqueradeAddressElsewhere lets another host hold the address. The pod sees it as the source all the same, and answers to
// that host. Once the gateway holds it, the connection goes on.
func TestKernelMasqueradeAddressElsewhere(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		shared := addr("10.244.1.100")
		if n.name == "IPv6" {
			shared = addr("fd00:244:1::100")
		}
		serveSources(t, "pod1")
		// The other host is behind the pod, so that its neighbour table tells which host answers for the address.
		run(t, "ip", "netns add other")
		t.Cleanup(func() { run(t, "ip", "netns del other") })
		run(t, "ip", "-n other link set lo up")
		run(t, "ip", "-n pod1 link add side type veth peer name eth0 netns other")
		run(t, "ip", "-n pod1 link set side up")
		run(t, "ip", "-n other link set eth0 up")
		run(t, "ip", fmt.Sprintf("-n other addr add %s dev eth0%s", netip.PrefixFrom(shared, shared.BitLen()), map[bool]string{true: " nodad"}[shared.Is6()]))
		run(t, "ip", fmt.Sprintf("-n pod1 route add %s dev side", netip.PrefixFrom(shared, shared.BitLen())))
		f := forward(n.external, 80, n.pod1)
		f.Protocol, f.Masquerade, f.Backends[0].Port = gateway.UDP, true, sourcesPort
		apply(t, h.start(), gateway.State{
			Forwards: []*gateway.Forward{f}, MasqueradePorts: gateway.PortRange{First: 1024, Last: 65535},
			Uplinks:             []gateway.Uplink{{Link: "eth1", Number: 1, Connected: []netip.Prefix{netip.MustParsePrefix(n.connected)}}},
			MasqueradeAddresses: []gateway.LinkAddresses{{Link: "pod1", Addresses: []netip.Addr{shared}}},
		})
		conn := dialFrom(t, "client", "udp", n.external, 80)
		ask(t, conn, silence)
		var before netip.AddrPort
		if err := conntrack.Flows(gateway.DefaultOwnership(), func(f flows.Flow) { before = f.Seen }); err != nil {
			t.Fatal(err)
		}
		if before.Addr() != shared {
			t.Errorf("the pod sees %s, want %s", before, shared)
		}
		// The address moves, and the pod learns it.
		hold(t, shared)
		run(t, "ip", fmt.Sprintf("-n pod1 route del %s dev side", netip.PrefixFrom(shared, shared.BitLen())))
		if got := seen(t, conn); got != before {
			t.Errorf("the pod sees the connection from %s after the move, and from %s before", got, before)
		}
	})
}
