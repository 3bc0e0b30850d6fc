// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestUDPThatMovesToAnotherUplink has the provider's routers move an external address from one uplink to the other, as they do when one
// fails. A UDP flow that never pauses (SIP, VPNs, games, syslog) stays the same for conntrack, and its replies must leave by the uplink
// that it comes in by now: the other path may be dead.
func TestUDPThatMovesToAnotherUplink(t *testing.T) {
	moving := []struct{ address, other string }{{lab.External1, lab.External2}, {lab.External1v6, lab.External2v6}}
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 5060)
		// This provider accepts the customer's addresses on each of its links.
		for _, key := range []string{"net.ipv4.conf.all.rp_filter", "net.ipv4.conf.eth1.rp_filter", "net.ipv4.conf.eth2.rp_filter"} {
			if err := w.Host(lab.Router).SetSysctl(key, "0"); err != nil {
				t.Fatal(err)
			}
		}
		w.router(t, "ip6tables -F")
		w.objects(t,
			service(t, "sip", []string{"5060/UDP", "5060/TCP"}, p1),
			mapping("sip", "sip", fmt.Sprintf("addresses: [%q, %q], ports: [{port: 5060, protocol: udp}, {port: 5060}]", lab.External1, lab.External1v6)),
		)
		w.start(t, twoUplinks)
		own, err := w.Host(lab.Gateway).Serve(5061)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = own.Close() })
		for _, m := range moving {
			t.Run(m.address, func(t *testing.T) {
				w.await(t, lab.Client, "udp", lab.Join(m.address, 5060), by(p1, 5060))
				mapped := w.open(t, lab.Client, "udp", lab.Join(m.address, 5060), 0)
				answered := []*lab.Flow{mapped}
				if m.address == lab.External1 {
					// Over IPv6 the socket may answer from any of the host's addresses.
					answered = append(answered, w.open(t, lab.Client, "udp", lab.Join(m.address, 5061), 0))
				}
				tcp := w.open(t, lab.Client, "tcp", lab.Join(m.address, 5060), 0)
				byUplink := func(want string) {
					t.Helper()
					for _, flow := range answered {
						w.expectAnswerBy(t, flow, want)
					}
					w.expectAnswerBy(t, tcp, "eth1")
				}
				byUplink("eth1")
				w.router(t, "ip route add "+m.address+" via "+m.other)
				byUplink("eth2")
				w.router(t, "ip route del "+m.address+" via "+m.other)
				byUplink("eth1")
			})
		}
	})
}

// expectAnswerBy exchanges one message on a flow, and checks that the answer leaves the gateway by the uplink.
func (w *world) expectAnswerBy(t *testing.T, flow *lab.Flow, want string) {
	t.Helper()
	client := netip.MustParseAddrPort(flow.Conn.LocalAddr().String())
	captures := map[string]*lab.Capture{}
	for _, uplink := range []string{"eth1", "eth2"} {
		capture, err := w.Host(lab.Gateway).Capture(uplink)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = capture.Close() }()
		captures[uplink] = capture
	}
	if _, err := flow.Echo(timeout(t, try)); err != nil {
		t.Fatalf("%s to %s: %v", flow.Conn.LocalAddr().Network(), flow.Conn.RemoteAddr(), err)
	}
	left := map[string]int{}
	for uplink, capture := range captures {
		packets, err := capture.Packets()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets {
			if p.Out && p.Destination == client {
				left[uplink]++
			}
		}
	}
	if len(left) != 1 || left[want] == 0 {
		t.Errorf("%s: answers of %s left by %v, want only %s", flow.Conn.LocalAddr().Network(), flow.Conn.RemoteAddr(), left, want)
	}
}

// router runs a command on the provider's router.
func (w *world) router(t *testing.T, line string) {
	t.Helper()
	if output, err := w.Host(lab.Router).Exec(timeout(t, patience), strings.Fields(line)...); err != nil {
		t.Fatalf("%s: %v", output, err)
	}
}
