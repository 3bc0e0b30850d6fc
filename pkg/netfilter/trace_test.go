// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net/netip"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

const traced = `*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m conntrack --ctdir REPLY -j CONNMARK --restore-mark --nfmask 0xf00 --ctmask 0xf00
-A PREROUTING -i eth+ -m conntrack --ctstate NEW -j CONNMARK --set-xmark 0x100/0xf00
COMMIT
*filter
:FORWARD DROP [0:0]
:INPUT ACCEPT [0:0]
:F - [0:0]
:G - [0:0]
-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
-A FORWARD -m mark --mark 0x40/0x40 -j REJECT --reject-with tcp-reset
-A FORWARD -p udp -j F
-A FORWARD -s 10.0.0.0/8 -j ACCEPT
-A F -d 203.0.113.0/24 -g G
-A F -o eth2 -j DROP
-A G -s 10.1.0.0/16 -j RETURN
-A G -j ACCEPT
-A INPUT -m limit --limit 1/sec -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m multiport --dports 22,100:200 -j MARK --set-xmark 0x40/0x40
-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.0.0.1:8080
-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2
-A PREROUTING -d 192.0.2.1/32 -p udp -m udp --dport 1000:1999 -j DNAT --to-destination 10.0.0.3:3000-3999/1000
-A POSTROUTING -o eth0 -m connmark --mark 0x100/0xf00 -j MASQUERADE
COMMIT
`

func TestTrace(t *testing.T) {
	route := func(destination netip.Addr, mark uint32) string {
		switch {
		case destination == netip.MustParseAddr("192.0.2.1"):
			return ""
		case mark&0xf00 == 0x200:
			return "eth2"
		case netip.MustParsePrefix("10.0.0.0/8").Contains(destination):
			return "eth0"
		}
		return "eth1"
	}
	always := func(uint32) bool { return true }
	base := Packet{In: "eth1", Protocol: gateway.TCP, State: New, Direction: Original, Route: route,
		Source: netip.MustParseAddrPort("198.51.100.7:4000"), Destination: netip.MustParseAddrPort("192.0.2.1:80")}
	for _, tc := range []struct {
		name    string
		change  func(p *Packet)
		verdict Verb
		to, out string
		rules   int
		masked  bool
	}{
		{"translated by the last rule", func(p *Packet) {}, Accept, "10.0.0.2:80", "eth0", 2 + 3 + 1 + 1, true},
		{"translated by chance", func(p *Packet) { p.Chance = always }, Accept, "10.0.0.1:8080", "eth0", 2 + 2 + 1 + 1, true},
		{"shifted range", func(p *Packet) {
			p.Protocol, p.Destination = gateway.UDP, netip.MustParseAddrPort("192.0.2.1:1234")
		}, Accept, "10.0.0.3:3234", "eth0", 2 + 4 + 1 + 1, true},
		{"marked, and ends on the host", func(p *Packet) { p.Destination = netip.MustParseAddrPort("192.0.2.1:150") }, Accept, "192.0.2.1:150", "", 2 + 4 + 1, false},
		{"marked, and rejected on its way", func(p *Packet) { p.Destination = netip.MustParseAddrPort("10.9.9.9:22") }, Reject, "10.9.9.9:22", "eth0", 2 + 4 + 2, false},
		{"dropped by policy", func(p *Packet) { p.Destination = netip.MustParseAddrPort("10.9.9.9:23") }, Drop, "10.9.9.9:23", "eth0", 2 + 4 + 4, false},
		{"a return behind a goto leads to the caller's caller", func(p *Packet) {
			p.In, p.Protocol = "lan", gateway.UDP
			p.Source, p.Destination = netip.MustParseAddrPort("10.1.0.1:1"), netip.MustParseAddrPort("203.0.113.1:1")
		}, Accept, "203.0.113.1:1", "eth1", 2 + 4 + 3 + 1 + 1 + 1 + 1, false},
		{"accept behind a goto", func(p *Packet) {
			p.In, p.Protocol = "lan", gateway.UDP
			p.Source, p.Destination = netip.MustParseAddrPort("10.2.0.1:1"), netip.MustParseAddrPort("203.0.113.1:1")
		}, Accept, "203.0.113.1:1", "eth1", 2 + 4 + 3 + 1 + 2 + 1, false},
		{"a reply goes by its mark and past nat", func(p *Packet) {
			p.In, p.State, p.Direction, p.ConnMark = "eth0", Established|DNAT, Reply, 0x200
			p.Source, p.Destination = netip.MustParseAddrPort("10.0.0.1:8080"), netip.MustParseAddrPort("198.51.100.7:4000")
		}, Accept, "198.51.100.7:4000", "eth2", 2 + 1, false},
		{"from the host itself", func(p *Packet) { p.In, p.Destination = "", netip.MustParseAddrPort("10.0.0.9:80") }, Accept, "10.0.0.9:80", "eth0", 1, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rs, err := Parse(IPv4, []byte(traced))
			if err != nil {
				t.Fatal(err)
			}
			p := base
			tc.change(&p)
			got := NewTracer(rs).Trace(p)
			if got.Verdict != tc.verdict || got.Packet.Destination.String() != tc.to || got.Out != tc.out {
				t.Errorf("verdict %d to %s by %q, want %d to %s by %q", got.Verdict, got.Packet.Destination, got.Out, tc.verdict, tc.to, tc.out)
			}
			if got.Rules != tc.rules || got.Masqueraded != tc.masked {
				t.Errorf("met %d rules, masqueraded %t; want %d, %t\n%+v", got.Rules, got.Masqueraded, tc.rules, tc.masked, got.Steps)
			}
		})
	}
}
