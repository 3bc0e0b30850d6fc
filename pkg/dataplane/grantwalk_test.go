// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/calc/calctest"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	hostpkg "github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// For a long walk: -grantwalk.operations 2000 -timeout 1h
var grantWalk = flag.Int("grantwalk.operations", 15, "length of the random walk of tenants with packets")

// The choices of the tenants of the walk with packets. Every source is an address of the client.
var (
	walkExternal = []string{"198.51.100.10", "198.51.100.11", "198.51.100.12"}
	walkClients  = addrs("198.51.100.50", "10.1.0.9", "203.0.113.9")
	walkSources  = []string{"198.51.100.0/24", "10.1.0.0/16", "203.0.113.0/24", "0.0.0.0/0"}
)

const (
	walkTenants, walkPods, walkPorts = 5, 2, 3
	// walkGrace is for packets that must not get through. Those that must have got through before it begins.
	walkGrace = 30 * time.Millisecond
)

// TestKernelForwardsWhatIsGranted is a random walk of tenants and their PortGrants. After each step, connections from all sources to all
// ports get exactly where the specs of the objects say, and those that were open before go on or end with what allowed them.
func TestKernelForwardsWhatIsGranted(t *testing.T) {
	for _, row := range backends {
		t.Run(row.name, func(t *testing.T) {
			w := newGrantWalk(t, newHostOfTenants(t, row))
			for n := range *grantWalk {
				did := w.Step()
				w.apply(t)
				w.expectUDP(t)
				w.expectOpen(t)
				w.expectTCP(t)
				if t.Failed() {
					t.Fatalf("after %d operations, the last one about %s", n+1, did)
				}
			}
			t.Logf("%d operations: %d of %d datagrams answered, %d of %d connections made; of those before, %d went on and %d ended",
				*grantWalk, w.answered, w.datagrams, w.made, w.connects, w.wentOn, w.ended)
			if w.answered == 0 || w.made == 0 || w.wentOn == 0 || w.ended == 0 {
				t.Error("the walk tests nothing")
			}
		})
	}
}

// newHostOfTenants returns a host between a client of several addresses and the pods of all tenants, which answer with their address.
func newHostOfTenants(t *testing.T, row row) *host {
	t.Helper()
	testenv.RequireTool(t, "ip")
	testenv.NewNetNS(t)
	h := newHost(t, row.new(t))
	connect(t, "client", "eth1", []string{"198.51.100.10/24", "2001:db8:1::10/64"}, []string{"198.51.100.50/24", "2001:db8:1::50/64"})
	connect(t, "pods", "eth0", []string{"10.244.1.1/24", "fd00:244:1::1/64"}, []string{"10.244.1.2/24", "fd00:244:1::2/64"})
	for _, args := range []string{
		"addr add 198.51.100.11/24 dev eth1", "addr add 198.51.100.12/24 dev eth1", "route add 10.1.0.0/16 via 198.51.100.50", "route add 203.0.113.0/24 via 198.51.100.50",
		"-n client addr add 10.1.0.9/32 dev lo", "-n client addr add 203.0.113.9/32 dev lo",
	} {
		run(t, "ip", args)
	}
	testenv.AwaitLocal(t, "2001:db8:1::10", "fd00:244:1::1")
	for tenant := range walkTenants {
		for n := range walkPods {
			pod := walkPod(tenant, n).String()
			run(t, "ip", "-n pods addr add "+pod+"/32 dev eth0")
			testenv.In(t, "pods", func() error {
				return answer(t, net.JoinHostPort(pod, fmt.Sprint(calctest.PodPort)), func(net.Addr) string { return pod })
			})
		}
	}
	return h
}

func walkPod(tenant, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, 1, byte(10 + walkPods*tenant + n)})
}

// path is from a source to a Frontend.
type path struct {
	from netip.Addr
	to   calctest.Frontend
}

func (p path) String() string {
	return fmt.Sprintf("%s from %s to %s", p.to.Protocol, p.from, netip.AddrPortFrom(p.to.Address, p.to.Port))
}

// grantWalker walks, and has connections of the client.
type grantWalker struct {
	*calctest.Tenants
	plane *dataplane.Dataplane
	facts gateway.Host
	cfg   config.Config
	calc  *calc.Calculator
	// sockets send datagrams from the first step to the last.
	sockets map[netip.Addr]net.PacketConn
	open    []*openConnection
	// How many datagrams were sent and answered, connections tried and made, and how many of those went on, or ended.
	datagrams, answered, connects, made, wentOn, ended int
}

func newGrantWalk(t *testing.T, h *host) *grantWalker {
	t.Helper()
	cfg := config.Default()
	cfg.Source = config.Source{Relay: &config.Relay{Servers: []string{"https://relay"}}}
	cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
	facts, err := hostpkg.New(logrus.New()).Observe()
	if err != nil {
		t.Fatal(err)
	}
	w := &grantWalker{
		Tenants: calctest.New(1, calctest.Options{
			Tenants: walkTenants, Grants: 4, GrantSteps: 25, Addresses: walkExternal, Granted: []string{"198.51.100.10", "198.51.100.11", "198.51.100.10/31"}, Sources: walkSources, Ports: walkPorts, Protocols: []v1alpha1.Protocol{"tcp", "udp"},
			Pods: walkPods, Pod: walkPod, ClusterIP: func(int) netip.Addr { return addr("10.96.0.1") }, Exact: true,
		}),
		plane: h.start(), facts: facts, cfg: cfg, calc: calc.NewCalculator(cfg),
	}
	for range 60 { // until there is something to take away
		w.Step()
	}
	w.apply(t)
	w.sockets = clientSockets(t)
	t.Cleanup(func() {
		for _, c := range w.open {
			c.close()
		}
	})
	return w
}

func (w *grantWalker) apply(t *testing.T) {
	t.Helper()
	state, _ := w.calc.Calculate(w.Snapshot(), w.facts)
	apply(t, w.plane, state)
}

// paths returns all of a protocol.
func (w *grantWalker) paths(protocol v1alpha1.Protocol) (all []path) {
	for _, from := range walkClients {
		for _, to := range walkExternal {
			for port := range uint16(walkPorts + 1) {
				all = append(all, path{from, calctest.Frontend{Address: addr(to), Protocol: protocol, Port: port + 1}})
			}
		}
	}
	return all
}

// clientSockets returns a socket of each source of the client.
func clientSockets(t *testing.T) map[netip.Addr]net.PacketConn {
	t.Helper()
	all := map[netip.Addr]net.PacketConn{}
	testenv.In(t, "client", func() error {
		for _, from := range walkClients {
			conn, err := net.ListenPacket("udp4", from.String()+":0")
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = conn.Close() })
			all[from] = conn
		}
		return nil
	})
	return all
}

// expectUDP sends a datagram over each path, from the sockets that sent the ones before and from others.
func (w *grantWalker) expectUDP(t *testing.T) {
	t.Helper()
	fresh := clientSockets(t)
	for _, sockets := range []map[netip.Addr]net.PacketConn{w.sockets, fresh} {
		due := map[path]bool{}
		for _, p := range w.paths("udp") {
			w.datagrams++
			due[p] = len(w.Reached(p.from, p.to)) > 0
			if _, err := sockets[p.from].WriteTo([]byte("who\n"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.to.Address, p.to.Port))); err != nil {
				t.Fatalf("%s: %v", p, err)
			}
		}
		for from, conn := range sockets {
			isDue := func() bool {
				for p, d := range due {
					if d && p.from == from {
						return true
					}
				}
				return false
			}
			for isDue() {
				w.hear(t, conn, from, due, 10*time.Second)
				if t.Failed() {
					return
				}
			}
		}
		time.Sleep(walkGrace)
		for from, conn := range sockets {
			for w.hear(t, conn, from, due, time.Millisecond) {
			}
		}
	}
	for _, conn := range fresh {
		_ = conn.Close()
	}
}

// hear reads an answer, which must be due.
func (w *grantWalker) hear(t *testing.T, conn net.PacketConn, from netip.Addr, due map[path]bool, patience time.Duration) bool {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	n, by, err := conn.ReadFrom(buffer)
	if err != nil {
		for p, d := range due {
			if d && p.from == from {
				t.Errorf("%s: no answer (%v), want one of %v", p, err, w.Reached(p.from, p.to))
			}
		}
		return false
	}
	at := by.(*net.UDPAddr).AddrPort()
	p := path{from, calctest.Frontend{Address: at.Addr().Unmap(), Protocol: "udp", Port: at.Port()}}
	if pod := strings.TrimSpace(string(buffer[:n])); !due[p] || !slices.Contains(w.Reached(p.from, p.to), addr(pod)) {
		t.Errorf("%s: %s answered, want %v", p, pod, w.Reached(p.from, p.to))
	}
	due[p] = false
	w.answered++
	return true
}

// openConnection is a TCP connection of the client, which does not block.
type openConnection struct {
	path
	fd int
	// pod answered at first, by a Mapping.
	pod netip.Addr
	by  string
}

func (c *openConnection) close() {
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(c.fd)
}

// poll waits until one of the events comes, or not.
func (c *openConnection) poll(events int16, patience time.Duration) bool {
	for ends := time.Now().Add(patience); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: events}}, int(max(time.Until(ends).Milliseconds(), 0)))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// ask returns the pod that answers, or the zero Addr.
func (c *openConnection) ask(patience time.Duration) netip.Addr {
	if _, err := unix.Write(c.fd, []byte("who\n")); err != nil || !c.poll(unix.POLLIN, patience) {
		return netip.Addr{}
	}
	buffer := make([]byte, 100)
	n, err := unix.Read(c.fd, buffer)
	if err != nil || n == 0 {
		return netip.Addr{}
	}
	return addr(strings.TrimSpace(string(buffer[:n])))
}

// expectOpen expects that connections go on as long as they may be made, and end at once when their Mapping or source may no longer use
// the port. Those of a Mapping that only leads to other pods may go on for a moment.
func (w *grantWalker) expectOpen(t *testing.T) {
	t.Helper()
	w.open = slices.DeleteFunc(w.open, func(c *openConnection) bool {
		now := w.Reached(c.from, c.to)
		switch {
		case slices.Contains(now, c.pod):
			if got := c.ask(10 * time.Second); got != c.pod {
				t.Errorf("%s: %s answered on a connection to %s", c, got, c.pod)
			}
			w.wentOn++
			return false
		case w.Admitted(c.from, c.to) != c.by:
			if got := c.ask(walkGrace); got.IsValid() {
				t.Errorf("%s: %s still answers on a connection that nothing allows any more", c, got)
			}
			w.ended++
		}
		c.close()
		return true
	})
}

// expectTCP makes a connection over each path, and keeps it.
func (w *grantWalker) expectTCP(t *testing.T) {
	t.Helper()
	var begun []*openConnection
	testenv.In(t, "client", func() error {
		for _, p := range w.paths("tcp") {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			begun = append(begun, &openConnection{path: p, fd: fd})
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: p.from.As4()})
			if to := (&unix.SockaddrInet4{Addr: p.to.Address.As4(), Port: int(p.to.Port)}); err == nil {
				err = unix.Connect(fd, to)
			}
			if err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.ECONNREFUSED) {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
		return nil
	})
	// In two rounds, so that what must not get through had the time of what must.
	for _, may := range []bool{true, false} {
		if !may {
			time.Sleep(walkGrace)
		}
		for _, c := range begun {
			want := w.Reached(c.from, c.to)
			if len(want) > 0 != may {
				continue
			}
			w.connects++
			if !may {
				if c.poll(unix.POLLOUT, 0) && c.connected() {
					t.Errorf("%s: connected, want nothing", c)
				}
				c.close()
				continue
			}
			c.poll(unix.POLLOUT, 10*time.Second)
			if c.pod = c.ask(10 * time.Second); !slices.Contains(want, c.pod) {
				t.Errorf("%s: %s answered, want %v", c, c.pod, want)
			}
			w.made++
			c.by = w.Admitted(c.from, c.to)
			w.open = append(w.open, c)
		}
	}
}

func (c *openConnection) connected() bool {
	_, err := unix.Getpeername(c.fd)
	return err == nil
}
