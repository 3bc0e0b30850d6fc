// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

// TestSCTP sends SCTP through both uplinks in both families. An association lives on while smartnatd is stopped and while another endpoint
// comes, and ends with its own.
func TestSCTP(t *testing.T) {
	requireSCTP(t)
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t)
		for _, p := range []pod{p1, p2} {
			w.serveSCTP(t, p, 8080)
		}
		const ports = `addresses: [198.51.100.10, 203.0.113.10, "2001:db8:1::10", "2001:db8:2::10"], masquerade: false, ports: [{port: 1800, servicePort: 8080, protocol: sctp}]`
		w.objects(t, service(t, "echo", []string{"8080/SCTP"}, p1), mapping("echo", "echo", ports))
		w.start(t, twoUplinks)
		var associations []net.Conn
		for external, client := range map[string]string{
			lab.External1: lab.ClientAddress, lab.External2: lab.ClientAddress, lab.External1v6: lab.ClientAddress6, lab.External2v6: lab.ClientAddress6,
		} {
			association := w.openSCTP(t, lab.Join(external, 1800))
			awaitSCTP(t, association, p1.name+" "+client)
			associations = append(associations, association)
		}
		w.stop(t)
		for _, association := range associations {
			awaitSCTP(t, association, p1.name)
		}
		w.objects(t, service(t, "echo", []string{"8080/SCTP"}, p1, p2), mapping("echo", "echo", ports))
		w.start(t, twoUplinks)
		for _, association := range associations {
			awaitSCTP(t, association, p1.name)
		}
	})
}

// requireSCTP skips the test unless this kernel has SCTP sockets.
func requireSCTP(t *testing.T) {
	t.Helper()
	testenv.RequireKernel(t)
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		testenv.Lacks(t, "SCTP sockets")
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(socket)
}

// serveSCTP makes a pod answer each line of an association with its name and the client's address, in both families.
func (w *world) serveSCTP(t *testing.T, p pod, port uint16) {
	t.Helper()
	for _, address := range []string{p.address, p.address6} {
		listener := w.listenSCTP(t, p, netip.AddrPortFrom(netip.MustParseAddr(address), port))
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { _ = conn.Close() })
				go func() {
					lines := bufio.NewScanner(conn)
					for lines.Scan() {
						client, _, _ := net.SplitHostPort(conn.RemoteAddr().String()) // always valid
						_, _ = fmt.Fprintf(conn, "%s %s %s\n", p.name, client, lines.Text())
					}
				}()
			}
		}()
	}
}

// listenSCTP opens a one-to-one socket (RFC 6458, section 4), which package net handles as one of TCP.
func (w *world) listenSCTP(t *testing.T, p pod, address netip.AddrPort) net.Listener {
	t.Helper()
	var listener net.Listener
	if err := w.PodHost("", p.name).Do(func() error {
		file, err := socketSCTP(address, func(fd int, to unix.Sockaddr) error {
			return errors.Join(unix.Bind(fd, to), unix.Listen(fd, 16))
		})
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		listener, err = net.FileListener(file)
		return err
	}); err != nil {
		t.Fatalf("listening on %s: %v", address, err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// openSCTP opens an association from the client, which lasts as long as the test.
func (w *world) openSCTP(t *testing.T, address string) net.Conn {
	t.Helper()
	var conn net.Conn
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		return w.Host(lab.Client).Do(func() error {
			file, err := socketSCTP(netip.MustParseAddrPort(address), func(fd int, to unix.Sockaddr) error {
				// It also bounds connect: socket(7).
				limit := unix.NsecToTimeval(int64(5 * time.Second))
				return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit), unix.Connect(fd, to))
			})
			if err != nil {
				return err
			}
			defer func() { _ = file.Close() }()
			conn, err = net.FileConn(file)
			return err
		})
	}); err != nil {
		t.Fatalf("connecting to %s by SCTP: %v", address, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// socketSCTP opens a socket and prepares it.
func socketSCTP(address netip.AddrPort, prepare func(fd int, address unix.Sockaddr) error) (*os.File, error) {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(address.Port()), Addr: address.Addr().As16()})
	if address.Addr().Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := prepare(fd, to); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), address.String()), nil
}

// awaitSCTP exchanges a line on an association. The answer must begin with want.
func awaitSCTP(t *testing.T, association net.Conn, want string) {
	t.Helper()
	buffer := make([]byte, 512)
	err := association.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = association.Write([]byte("hello\n"))
	}
	var n int
	if err == nil {
		n, err = association.Read(buffer) // a message is read as it was written
	}
	if got := string(buffer[:n]); err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("association with %s: answer %q, want %q first: %v", association.RemoteAddr(), got, want, err)
	}
}
