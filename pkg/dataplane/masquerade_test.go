// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestKernelPrivilegedSourcePorts lets devices send from port 514, as syslog does. Their number exceeds the source ports below
// 1024 that the kernel has for one address.
func TestKernelPrivilegedSourcePorts(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		if n.name != "IPv4" {
			return // The rule is the same.
		}
		const devices = 600
		run(t, "ip", "-n client route add local 192.0.0.0/16 dev lo")
		run(t, "ip", "route add 192.0.0.0/16 via "+n.client)
		f := forward(n.external, 80, n.pod1)
		f.Protocol, f.Masquerade = gateway.UDP, true
		apply(t, h.start(), gateway.State{
			Forwards: []*gateway.Forward{f}, MasqueradePorts: gateway.PortRange{First: 1024, Last: 65535},
			Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24", "192.0.0.0/16")}},
		})
		heard := 0
		for i := range devices {
			if answers(t, fmt.Sprintf("192.0.%d.%d:514", 8+i/250, 1+i%250), net.JoinHostPort(n.external, "80")) {
				heard++
			}
		}
		if heard != devices {
			t.Errorf("%d of %d devices are heard", heard, devices)
		}
	})
}

// TestKernelLostConnections has one client more than there are source ports, and expects that the kernel counts it.
func TestKernelLostConnections(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		f := forward(n.external, 80, n.pod1)
		f.Protocol, f.Masquerade = gateway.UDP, true
		apply(t, h.start(), gateway.State{
			Forwards: []*gateway.Forward{f}, MasqueradePorts: gateway.PortRange{First: 2000, Last: 2000},
			Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64")}},
		})
		before, err := conntrack.Lost()
		if err != nil {
			t.Fatal(err)
		}
		first, second := dial(t, "udp", n.external), dial(t, "udp", n.external)
		ask(t, first, "pod1")
		ask(t, second, silence)
		ask(t, first, "pod1")
		after, err := conntrack.Lost()
		if err != nil {
			t.Fatal(err)
		}
		if after <= before {
			t.Errorf("%d connections lost, %d before the test", after, before)
		}
	})
}

// answers reports whether a datagram from the given address and port gets an answer.
func answers(t *testing.T, from, to string) bool {
	t.Helper()
	var conn net.Conn
	testenv.In(t, "client", func() (err error) {
		local, err := net.ResolveUDPAddr("udp", from)
		if err != nil {
			return err
		}
		dialer := net.Dialer{LocalAddr: local, Control: func(_, _ string, raw syscall.RawConn) error {
			var set error
			err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return errors.Join(err, set)
		}}
		conn, err = dialer.DialContext(context.Background(), "udp", to)
		return err
	})
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("device\n")); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 100))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return err == nil
}
