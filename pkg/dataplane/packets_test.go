// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// network has one address for each host, in one family.
type network struct {
	name                         string
	external, client, pod1, pod2 string
	connected                    string
}

var networks = []network{
	{"IPv4", "198.51.100.10", "198.51.100.50", "10.244.1.2", "10.244.2.2", "198.51.100.0/24"},
	{"IPv6", "2001:db8:1::10", "2001:db8:1::50", "fd00:244:1::2", "fd00:244:2::2", "2001:db8:1::/64"},
}

// onNetworks runs the test on a host between a client and two pods, for each back end and family.
func onNetworks(t *testing.T, test func(t *testing.T, h *host, n network)) {
	for _, row := range packetBackends() {
		for _, n := range networks {
			t.Run(row.name+" "+n.name, func(t *testing.T) {
				testenv.RequireTool(t, "ip")
				testenv.NewNetNS(t)
				h := newHost(t, row.new(t))
				connect(t, "client", "eth1", []string{"198.51.100.10/24", "2001:db8:1::10/64"}, []string{"198.51.100.50/24", "2001:db8:1::50/64"})
				connect(t, "pod1", "pod1", []string{"10.244.1.1/24", "fd00:244:1::1/64"}, []string{"10.244.1.2/24", "fd00:244:1::2/64"})
				connect(t, "pod2", "pod2", []string{"10.244.2.1/24", "fd00:244:2::1/64"}, []string{"10.244.2.2/24", "fd00:244:2::2/64"})
				testenv.AwaitLocal(t, "2001:db8:1::10", "fd00:244:1::1", "fd00:244:2::1")
				serve(t, "pod1")
				serve(t, "pod2")
				test(t, h, n)
			})
		}
	}
}

// connect creates a host in a new namespace, on a link of this namespace.
func connect(t testing.TB, name, link string, here, there []string) {
	t.Helper()
	run(t, "ip", "netns add "+name)
	t.Cleanup(func() { run(t, "ip", "netns del "+name) })
	run(t, "ip", "-n "+name+" link set lo up") // without it, package net assumes that there is no IPv6
	run(t, "ip", "link add "+link+" type veth peer name eth0 netns "+name)
	for i, nodad := range []string{"", " nodad"} {
		run(t, "ip", "addr add "+here[i]+" dev "+link+nodad)
		run(t, "ip", "-n "+name+" addr add "+there[i]+" dev eth0"+nodad)
	}
	run(t, "ip", "link set "+link+" up")
	run(t, "ip", "-n "+name+" link set eth0 up")
	for _, address := range here {
		run(t, "ip", "-n "+name+" route add default via "+netip.MustParsePrefix(address).Addr().String())
	}
}

// serve makes a pod answer every line and every datagram with its name.
func serve(t *testing.T, name string) {
	t.Helper()
	testenv.In(t, name, func() error { return answer(t, ":8080", func(net.Addr) string { return name }) })
}

// answer answers every line and every datagram that comes to an address of the current network namespace, with a text for its sender.
func answer(t testing.TB, address string, text func(from net.Addr) string) error {
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	t.Cleanup(func() { packets.Close() })
	go func() {
		buffer := make([]byte, 100)
		for {
			_, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo([]byte(text(from)+"\n"), from)
		}
	}()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					fmt.Fprintln(conn, text(conn.RemoteAddr()))
				}
			}()
		}
	}()
	return nil
}

// dial connects from the client to the external address.
func dial(t *testing.T, protocol, address string) net.Conn {
	t.Helper()
	var conn net.Conn
	testenv.In(t, "client", func() (err error) {
		conn, err = net.DialTimeout(protocol, net.JoinHostPort(address, "80"), 10*time.Second)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

const (
	silence = "silence"
	refused = "refused"
)

// ask checks which pod answers on a connection. It waits for silence only briefly.
func ask(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	patience := 10 * time.Second
	if want == silence {
		patience = 400 * time.Millisecond
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	_, err := conn.Write([]byte("who\n"))
	var n int
	if err == nil {
		n, err = conn.Read(buffer)
	}
	got := ""
	switch {
	case err == nil:
		got = string(buffer[:max(n-1, 0)])
	case errors.Is(err, os.ErrDeadlineExceeded):
		got = silence
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		got = refused
	default:
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("%s: %s, want %s", conn.LocalAddr().Network(), got, want)
	}
}

func TestKernelConnections(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		uplinks := []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64")}}
		with := func(change func(f *gateway.Forward)) gateway.State {
			state := gateway.State{Uplinks: uplinks}
			for _, protocol := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
				f := forward(n.external, 80, n.pod1)
				f.Protocol = protocol
				change(f)
				state.Forwards = append(state.Forwards, f)
			}
			return state
		}
		one := with(func(*gateway.Forward) {})
		two := with(func(f *gateway.Forward) { f.Backends[0].Address = addr(n.pod2) })
		draining := with(func(f *gateway.Forward) {
			f.Draining = []gateway.Backend{f.Backends[0]}
			f.Backends = []gateway.Backend{{Address: addr(n.pod2), Port: 8080}}
		})
		zero := with(func(f *gateway.Forward) { f.Backends = nil })
		revoked := with(func(f *gateway.Forward) { f.Sources = []netip.Prefix{netip.PrefixFrom(addr("192.0.2.1"), 32)} })
		if addr(n.external).Is6() {
			revoked = with(func(f *gateway.Forward) { f.Sources = []netip.Prefix{netip.PrefixFrom(addr("2001:db8::1"), 128)} })
		}

		d := h.start()
		step := func(state gateway.State, cut int) {
			t.Helper()
			if result := apply(t, d, state); result.Connections != cut {
				t.Errorf("%d connections ended, want %d", result.Connections, cut)
			}
		}
		// A host with a firewall tracks flows before we do.
		h.addTracking(t)
		udp := dial(t, "udp", n.external)
		ask(t, udp, refused) // The host itself answers, and tracks the flow as its own.
		step(one, 1)
		ask(t, udp, "pod1")
		tcp := dial(t, "tcp", n.external)
		ask(t, tcp, "pod1")

		d = h.start() // A restart ends nothing.
		step(one, 0)
		ask(t, udp, "pod1")
		ask(t, tcp, "pod1")

		step(draining, 1) // UDP moves at once, TCP finishes its connection.
		ask(t, udp, "pod2")
		ask(t, tcp, "pod1")
		fresh := dial(t, "tcp", n.external)
		ask(t, fresh, "pod2")
		stepLater(t, d, two, 1) // The endpoint is gone: the next pod does not know the connection and resets it.
		ask(t, tcp, refused)
		ask(t, udp, "pod2")
		ask(t, fresh, "pod2")

		step(zero, 2)
		ask(t, udp, refused)
		step(two, 0)
		ask(t, udp, "pod2")
		tcp = dial(t, "tcp", n.external)
		ask(t, tcp, "pod2")

		step(gateway.State{Uplinks: uplinks}, 2) // Deleted and created again while the sender never pauses.
		ask(t, udp, refused)
		step(one, 1)
		ask(t, udp, "pod1")
		tcp = dial(t, "tcp", n.external)
		ask(t, tcp, "pod1")

		step(revoked, 2)
		ask(t, udp, silence)
		ask(t, tcp, silence)
		step(one, 0)
		ask(t, udp, "pod1")

		endOfAll(t, d, udp)
	})
}

// stepLater applies a state, and again when postponed connections are due.
func stepLater(t *testing.T, d *dataplane.Dataplane, state gateway.State, cut int) {
	t.Helper()
	ended := apply(t, d, state).Connections
	for began := time.Now(); ended < cut && time.Since(began) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
		due, err := d.Check()
		if err != nil {
			t.Fatal(err)
		}
		if due {
			ended += apply(t, d, state).Connections
		}
	}
	if ended != cut {
		t.Errorf("%d connections ended, want %d", ended, cut)
	}
}

// endOfAll checks that the kernel translates no connection after a cleanup.
func endOfAll(t *testing.T, d *dataplane.Dataplane, udp net.Conn) {
	t.Helper()
	if result, err := d.Cleanup(t.Context()); err != nil || result.Connections == 0 {
		t.Errorf("cleanup: %s, %v; want the connections ended", result, err)
	}
	ask(t, udp, refused)
}
