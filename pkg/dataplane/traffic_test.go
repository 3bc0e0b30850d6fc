// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// newMeter returns a Meter that counts what h's rules do, as smartnatd does after a start.
func newMeter(t *testing.T, h *host, state gateway.State) *meter.Meter {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	m := meter.New(log, budget.Budget{})
	m.Follow(state)
	if refusals, ok := h.ruleset(nil, nil).(meter.Refusals); ok {
		m.ReadRefusals("", refusals)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := testenv.Go(t, func() { m.Run(ctx, conntrack.NewTraffic(gateway.DefaultOwnership())) })
	t.Cleanup(func() {
		cancel()
		<-done
		for _, e := range hook.AllEntries() {
			t.Errorf("logged: %s %v", e.Message, e.Data)
		}
	})
	awaitSubscriber(t)
	return m
}

// awaitSubscriber waits until a process gets the messages about connections that end (netlink group 3 of protocol 12, as bits).
func awaitSubscriber(t testing.TB) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		sockets, err := os.ReadFile("/proc/thread-self/net/netlink")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(sockets)) {
			if f := strings.Fields(line); f[1] == "12" && f[3] == "00000004" {
				return
			}
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("not subscribed within 10 s")
		}
	}
}

// send sends datagrams from the client. The kernel of a busy machine may deal with them after send returned.
func send(t *testing.T, address, port string, datagrams int) {
	t.Helper()
	var conn net.Conn
	testenv.In(t, "client", func() (err error) {
		conn, err = net.Dial("udp", net.JoinHostPort(address, port))
		return err
	})
	defer conn.Close()
	for range datagrams {
		for {
			_, err := conn.Write([]byte("who\n"))
			if err == nil {
				break
			}
			if !errors.Is(err, syscall.ECONNREFUSED) { // the answer to an earlier datagram
				t.Fatal(err)
			}
		}
	}
}

// TestKernelTraffic sends exact numbers of packets and bytes, and expects these numbers.
func TestKernelTraffic(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		stranger := netip.MustParsePrefix("192.0.2.1/32")
		if addr(n.external).Is6() {
			stranger = netip.MustParsePrefix("2001:db8::1/128")
		}
		state := gateway.State{Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64")}}}
		add := func(owner string, protocol gateway.Protocol, first, last uint16, change func(f *gateway.Forward)) {
			f := forward(n.external, first, n.pod1)
			f.Owner, f.Protocol, f.Ports.Last = owner, protocol, last
			change(f)
			state.Forwards = append(state.Forwards, f)
		}
		add("a/web", gateway.TCP, 80, 80, func(*gateway.Forward) {})
		add("a/web", gateway.UDP, 80, 80, func(*gateway.Forward) {})
		add("a/secret", gateway.UDP, 81, 81, func(f *gateway.Forward) { f.Sources = []netip.Prefix{stranger} })
		add("a/empty", gateway.UDP, 82, 82, func(f *gateway.Forward) { f.Backends = nil })
		add("b/range", gateway.UDP, 90, 99, func(f *gateway.Forward) { f.SourcesDeny = true })
		options := h.options()
		options.countTraffic = true
		d := options.dataplane()
		apply(t, d, state)
		m := newMeter(t, h, state)

		datagram, answer := uint64(28+len("who\n")), uint64(28+len("pod1\n"))
		if addr(n.external).Is6() {
			datagram, answer = datagram+20, answer+20
		}
		udp := dial(t, "udp", n.external)
		for range 3 {
			ask(t, udp, "pod1")
		}
		var conns []net.Conn
		for range 5 {
			conns = append(conns, dial(t, "tcp", n.external))
			ask(t, conns[len(conns)-1], "pod1")
		}
		send(t, n.external, "81", 4)
		send(t, n.external, "82", 6)
		send(t, n.external, "90", 1)
		send(t, n.external, "95", 2)

		read := func() map[string]traffic.Totals {
			t.Helper()
			totals := map[string]traffic.Totals{}
			for _, e := range m.Read(t.Context()).Entries {
				totals[e.Owner+" "+e.Ports.String()+"/"+string(e.Protocol)] = e.Totals
			}
			return totals
		}
		udpTotals := traffic.Totals{
			Connections: 1, FromClient: traffic.Volume{Packets: 3, Bytes: 3 * datagram}, ToClient: traffic.Volume{Packets: 3, Bytes: 3 * answer}, Open: 1,
		}
		want := map[string]traffic.Totals{
			"a/web 80/tcp": {Connections: 5, Open: 5}, "a/web 80/udp": udpTotals,
			"a/secret 81/udp": {Dropped: 4}, "a/empty 82/udp": {Rejected: 6}, "b/range 90-99/udp": {Dropped: 3},
		}
		_, counts := h.ruleset(nil, nil).(meter.Refusals)
		if !counts { // iptables does not count refused packets by port.
			for _, key := range []string{"a/secret 81/udp", "a/empty 82/udp", "b/range 90-99/udp"} {
				delete(want, key)
			}
		}
		ignoreTCP := cmpopts.IgnoreMapEntries(func(key string, _ traffic.Totals) bool { return key == "a/web 80/tcp" })
		// expect reads until the kernel has dealt with all datagrams.
		expect := func(when string, open traffic.Totals) {
			t.Helper()
			for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
				got := read()
				tcp := got["a/web 80/tcp"]
				diff := cmp.Diff(want, got, ignoreTCP)
				if diff == "" && tcp.Connections == open.Connections && tcp.Open == open.Open {
					// At least the handshakes and the payload.
					if tcp.FromClient.Packets < 5*3 || tcp.ToClient.Bytes < 5*20*3 {
						t.Errorf("%s: TCP %+v is too little", when, tcp)
					}
					return
				}
				if time.Since(began) > 20*time.Second {
					t.Fatalf("%s: TCP %+v, want %d, %d open; others (-want +got):\n%s", when, tcp, open.Connections, open.Open, diff)
				}
			}
		}
		expect("at first", traffic.Totals{Connections: 5, Open: 5})
		if drift, err := d.Check(); drift || err != nil {
			t.Errorf("after a reading, changed %t: %v", drift, err)
		}

		// Another number of backends replaces the rules and elements. Their counts stay.
		other := state
		other.Forwards = nil
		for _, f := range state.Forwards {
			changed := *f
			if len(f.Backends) > 0 {
				changed.Backends = append([]gateway.Backend(nil), f.Backends...)
				changed.Backends = append(changed.Backends, gateway.Backend{Address: addr(n.pod2), Port: 8080})
			}
			other.Forwards = append(other.Forwards, &changed)
		}
		apply(t, d, other)
		m.Follow(other)
		send(t, n.external, "81", 1)
		for _, conn := range conns {
			conn.Close()
		}
		// All connections end: nothing is open, and nothing counts twice. A late packet must not begin a connection again.
		if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			t.Fatal(err)
		}
		udpTotals.Open = 0
		want["a/web 80/udp"] = udpTotals
		if counts {
			want["a/secret 81/udp"] = traffic.Totals{Dropped: 5}
		}
		expect("at the end", traffic.Totals{Connections: 5})

		if _, err := d.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_acct"); err != nil || strings.TrimSpace(string(text)) != "0" {
			t.Errorf("after cleanup, nf_conntrack_acct is %q: %v", text, err)
		}
	})
}
