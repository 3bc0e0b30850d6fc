// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// helperPort is the port of FTP and TFTP in pod1.
const helperPort = 9021

// TestKernelHelpers expects that the kernel's helpers for FTP and TFTP forward data connections through a Mapping of the
// control port alone, that no other port has a helper, and that a State without helpers leaves none behind.
func TestKernelHelpers(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		if n.name != "IPv4" {
			return // Passive mode is another command for IPv6.
		}
		state := gateway.State{
			Uplinks:         []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24")}},
			MasqueradePorts: gateway.PortRange{First: 1024, Last: 65535},
			Helpers: []gateway.Helper{
				{Name: "ftp", Protocol: gateway.TCP, Port: 80}, {Name: "ftp", Protocol: gateway.TCP, Port: 81}, {Name: "tftp", Protocol: gateway.UDP, Port: 80},
			},
		}
		for _, protocol := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
			f := forward(n.external, 80, n.pod1)
			f.Protocol, f.Masquerade, f.Backends[0].Port = protocol, true, helperPort
			state.Forwards = append(state.Forwards, f)
		}
		serveTFTP(t)
		serveFTP(t, n.pod1)
		d := h.start()
		apply(t, d, state)
		if again := apply(t, h.start(), state); !again.Empty() {
			t.Errorf("a restart writes %s", again)
		}
		if b, ok := h.backend.(*iptablesBackend); ok {
			run(t, "iptables-"+b.variant, "-t raw -F SMARTNAT-HELPERS")
			if changed, err := d.Check(); err != nil || !changed {
				t.Errorf("a flush of the helpers is not noticed: %v", err)
			}
			apply(t, d, state)
		}
		if got := getByFTP(t, n.external); got != "data" {
			t.Errorf("FTP: %q", got)
		}
		if got := getByTFTP(t, n.external); got != "data" {
			t.Errorf("TFTP: %q", got)
		}
		if n := helpersIn(h.backend.dump(t)); n != 2 {
			t.Errorf("%d helpers, want 2:\n%s", n, h.backend.dump(t))
		}
		lacking := state
		lacking.Helpers = []gateway.Helper{{Name: "nonesuch", Protocol: gateway.TCP, Port: 80}}
		if err := d.Try(t.Context(), lacking); err == nil || !strings.Contains(err.Error(), "IPv4") {
			t.Errorf("a helper that the kernel lacks: %v, want ErrRefused", err)
		}
		state.Helpers = nil
		apply(t, d, state)
		if n := helpersIn(h.backend.dump(t)); n != 0 {
			t.Errorf("%d helpers are left:\n%s", n, h.backend.dump(t))
		}
	})
}

// helpersIn counts the rules that assign helpers.
func helpersIn(dump string) int {
	return strings.Count(dump, " --helper ") + strings.Count(dump, "ct helper set ")
}

// serveTFTP answers each request from a new port (RFC 1350, section 4).
func serveTFTP(t *testing.T) {
	t.Helper()
	testenv.In(t, "pod1", func() error {
		requests, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", helperPort))
		if err != nil {
			return err
		}
		t.Cleanup(func() { requests.Close() })
		answers, err := net.ListenPacket("udp4", ":0")
		if err != nil {
			return err
		}
		t.Cleanup(func() { answers.Close() })
		go func() {
			for {
				_, from, err := requests.ReadFrom(make([]byte, 100))
				if err != nil {
					return
				}
				_, _ = answers.WriteTo([]byte("\x00\x03\x00\x01data"), from)
			}
		}()
		return nil
	})
}

// serveFTP supports only passive mode (RFC 959).
func serveFTP(t *testing.T, address string) {
	t.Helper()
	testenv.In(t, "pod1", func() error {
		control, err := net.Listen("tcp4", fmt.Sprintf(":%d", helperPort))
		if err != nil {
			return err
		}
		t.Cleanup(func() { control.Close() })
		data, err := net.Listen("tcp4", ":0")
		if err != nil {
			return err
		}
		t.Cleanup(func() { data.Close() })
		port := data.Addr().(*net.TCPAddr).Port
		go func() {
			conn, err := control.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = fmt.Fprint(conn, "220 ready\r\n")
			if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
				return
			}
			_, _ = fmt.Fprintf(conn, "227 Entering Passive Mode (%s,%d,%d)\r\n", strings.ReplaceAll(address, ".", ","), port/256, port%256)
			transfer, err := data.Accept()
			if err != nil {
				return
			}
			defer transfer.Close()
			_, _ = fmt.Fprint(transfer, "data")
		}()
		return nil
	})
}

func getByFTP(t *testing.T, address string) string {
	t.Helper()
	conn := dial(t, "tcp", address)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(conn, "PASV\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a, b, c, d, high, low int
	if _, err := fmt.Sscanf(line, "227 Entering Passive Mode (%d,%d,%d,%d,%d,%d)", &a, &b, &c, &d, &high, &low); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(a), byte(b), byte(c), byte(d)}), uint16(high*256+low))
	if to.Addr().String() != address {
		t.Errorf("the data connection is offered at %s, want %s", to, address)
	}
	var transfer net.Conn
	testenv.In(t, "client", func() (err error) {
		transfer, err = net.DialTimeout("tcp", to.String(), 10*time.Second)
		return err
	})
	defer transfer.Close()
	text, err := io.ReadAll(transfer)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func getByTFTP(t *testing.T, address string) string {
	t.Helper()
	var conn net.PacketConn
	testenv.In(t, "client", func() (err error) {
		conn, err = net.ListenPacket("udp4", ":0")
		return err
	})
	defer conn.Close()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(address), 80))
	if _, err := conn.WriteTo([]byte("\x00\x01file\x00octet\x00"), to); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	length, from, err := conn.ReadFrom(buffer)
	if os.IsTimeout(err) || err != nil {
		return err.Error()
	}
	if !strings.HasPrefix(from.String(), address+":") {
		t.Errorf("TFTP is answered by %s, want %s", from, address)
	}
	return string(buffer[min(4, length):length])
}
