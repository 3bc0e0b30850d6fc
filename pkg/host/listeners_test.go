// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestListeners opens sockets of each kind in a new network namespace.
func TestListeners(t *testing.T) {
	testenv.NewNetNS(t)
	ip(t, "link set lo up", "addr add 198.51.100.10/24 dev lo", "addr add 2001:db8::10/64 dev lo nodad")
	toLink := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), "lo") })
		return errors.Join(err, failed)
	}}
	var plain net.ListenConfig
	ctx := context.Background()
	for _, l := range []struct {
		config           *net.ListenConfig
		network, address string
	}{
		{&plain, "tcp", "[::]:22"},  // Go disables IPV6_V6ONLY: both families
		{&plain, "tcp6", "[::]:23"}, // and enables it
		{&plain, "tcp4", "0.0.0.0:24"},
		{&plain, "tcp", "198.51.100.10:25"},
		{&plain, "tcp", "[::ffff:198.51.100.10]:27"},
		{&plain, "tcp", "[2001:db8::10]:28"},
		{&toLink, "tcp4", "0.0.0.0:29"},
	} {
		listener, err := l.config.Listen(ctx, l.network, l.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
	}
	for _, address := range []string{"198.51.100.10:53", "[::]:51820"} {
		conn, err := plain.ListenPacket(ctx, "udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	// These do not accept packets from any sender: a UDP client, and both ends of a TCP connection.
	for _, target := range []struct{ network, address string }{{"udp", "198.51.100.10:53"}, {"tcp", "198.51.100.10:25"}} {
		conn, err := net.Dial(target.network, target.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}

	h := New(logrus.New())
	got, err := h.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	listener := func(protocol gateway.Protocol, address, link string) gateway.Listener {
		a := netip.MustParseAddrPort(address)
		return gateway.Listener{Protocol: protocol, Address: a.Addr(), Port: a.Port(), Link: link}
	}
	want := []gateway.Listener{
		listener("tcp", "0.0.0.0:22", ""), listener("tcp", "[::]:22", ""),
		listener("tcp", "[::]:23", ""),
		listener("tcp", "0.0.0.0:24", ""),
		listener("tcp", "198.51.100.10:25", ""),
		listener("tcp", "198.51.100.10:27", ""),
		listener("tcp", "[2001:db8::10]:28", ""),
		listener("tcp", "0.0.0.0:29", "lo"),
		listener("udp", "198.51.100.10:53", ""),
		listener("udp", "0.0.0.0:51820", ""), listener("udp", "[::]:51820", ""),
	}
	if !slices.Equal(got, want) {
		t.Errorf("listeners:\n got %v\nwant %v", got, want)
	}
	observed, err := h.Observe()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(observed.Listeners, want) {
		t.Errorf("observed: got %v, want %v", observed.Listeners, want)
	}
}

// TestClientsOfTheHostTakeNoPort follows sockets on ports from the kernel's range for clients.
func TestClientsOfTheHostTakeNoPort(t *testing.T) {
	const early, late, short = 1, 2, 3
	var s sockets
	began := time.Unix(1000, 0)
	open := func(cookies ...uint64) []socket {
		var found []socket
		for _, c := range cookies {
			found = append(found, socket{
				Listener: gateway.Listener{Protocol: gateway.UDP, Address: netip.IPv4Unspecified(), Port: uint16(40000 + c)}, cookie: c,
			})
		}
		return found
	}
	for _, look := range []struct {
		after time.Duration
		open  []uint64
		want  []uint16
	}{
		{0, []uint64{early}, []uint16{40001}}, // a socket from before the start may be a server
		{3 * time.Second, []uint64{early, late, short}, []uint16{40001}},
		{3 * time.Second, []uint64{early, late, short}, []uint16{40001}}, // calls without a delay do not age sockets
		{17 * time.Second, []uint64{early, late, short}, []uint16{40001}},
		{18 * time.Second, []uint64{early, late}, []uint16{40001, 40002}},
		{21 * time.Second, []uint64{late}, []uint16{40002}},
		{24 * time.Second, []uint64{late, early}, []uint16{40002}}, // closed and opened again: another socket
	} {
		var ports []uint16
		for _, l := range s.settle(open(look.open...), gateway.PortRange{First: 32768, Last: 60999}, began.Add(look.after)) {
			ports = append(ports, l.Port)
		}
		if !slices.Equal(ports, look.want) {
			t.Errorf("after %v, sockets %v: ports %v are listened on, want %v", look.after, look.open, ports, look.want)
		}
	}
	outside := open(late)
	outside[0].Port = 53
	if got := s.settle(outside, gateway.PortRange{First: 32768, Last: 60999}, began.Add(time.Minute)); len(got) != 1 {
		t.Errorf("a port outside of the range for clients: %v", got)
	}
}

func FuzzSocket(f *testing.F) {
	f.Add(make([]byte, sizeofInetDiagMsg))
	f.Fuzz(func(t *testing.T, message []byte) {
		if s, ok := parseSocket(message); ok && (!s.Address.IsValid() || s.Address.Is4In6() || s.Port == 0) {
			t.Errorf("%x is %+v", message, s)
		}
	})
}
