// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
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
	base := packet.Packet{In: "eth1", Protocol: gateway.TCP, State: packet.New, Direction: packet.Original, Route: route,
		Source: netip.MustParseAddrPort("198.51.100.7:4000"), Destination: netip.MustParseAddrPort("192.0.2.1:80")}
	for _, tc := range []struct {
		name    string
		change  func(p *packet.Packet)
		chance  func(uint32) bool
		verdict packet.Verdict
		to, out string
		rules   int
		masked  bool
	}{
		{"translated by the last rule", func(p *packet.Packet) {}, nil, packet.Accept, "10.0.0.2:80", "eth0", 2 + 3 + 1 + 1, true},
		{"translated by a random match", func(p *packet.Packet) {}, always, packet.Accept, "10.0.0.1:8080", "eth0", 2 + 2 + 1 + 1, true},
		{"shifted range", func(p *packet.Packet) {
			p.Protocol, p.Destination = gateway.UDP, netip.MustParseAddrPort("192.0.2.1:1234")
		}, nil, packet.Accept, "10.0.0.3:3234", "eth0", 2 + 4 + 1 + 1, true},
		{"marked, ends on the host", func(p *packet.Packet) { p.Destination = netip.MustParseAddrPort("192.0.2.1:150") }, nil, packet.Accept, "192.0.2.1:150", "", 2 + 4 + 1, false},
		{"marked, rejected when forwarded", func(p *packet.Packet) { p.Destination = netip.MustParseAddrPort("10.9.9.9:22") }, nil, packet.Reject, "10.9.9.9:22", "eth0", 2 + 4 + 2, false},
		{"dropped by policy", func(p *packet.Packet) { p.Destination = netip.MustParseAddrPort("10.9.9.9:23") }, nil, packet.Drop, "10.9.9.9:23", "eth0", 2 + 4 + 4, false},
		{"a return after a goto leads to the caller's caller", func(p *packet.Packet) {
			p.In, p.Protocol = "lan", gateway.UDP
			p.Source, p.Destination = netip.MustParseAddrPort("10.1.0.1:1"), netip.MustParseAddrPort("203.0.113.1:1")
		}, nil, packet.Accept, "203.0.113.1:1", "eth1", 2 + 4 + 3 + 1 + 1 + 1 + 1, false},
		{"accept after a goto", func(p *packet.Packet) {
			p.In, p.Protocol = "lan", gateway.UDP
			p.Source, p.Destination = netip.MustParseAddrPort("10.2.0.1:1"), netip.MustParseAddrPort("203.0.113.1:1")
		}, nil, packet.Accept, "203.0.113.1:1", "eth1", 2 + 4 + 3 + 1 + 2 + 1, false},
		{"a reply is routed by its mark and skips nat", func(p *packet.Packet) {
			p.In, p.State, p.Direction, p.ConnMark = "eth0", packet.Established|packet.DNAT, packet.Reply, 0x200
			p.Source, p.Destination = netip.MustParseAddrPort("10.0.0.1:8080"), netip.MustParseAddrPort("198.51.100.7:4000")
		}, nil, packet.Accept, "198.51.100.7:4000", "eth2", 2 + 1, false},
		{"from the host itself", func(p *packet.Packet) { p.In, p.Destination = "", netip.MustParseAddrPort("10.0.0.9:80") }, nil, packet.Accept, "10.0.0.9:80", "eth0", 1, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rs, err := Parse(gateway.IPv4, []byte(traced))
			if err != nil {
				t.Fatal(err)
			}
			p := base
			tc.change(&p)
			got := NewTracer(rs).Choosing(tc.chance).Trace(p)
			if got.Verdict != tc.verdict || got.Packet.Destination.String() != tc.to || got.Out != tc.out {
				t.Errorf("verdict %s, destination %s, link %q; want %s, %s, %q", got.Verdict, got.Packet.Destination, got.Out, tc.verdict, tc.to, tc.out)
			}
			if got.Rules != tc.rules || got.Masqueraded != tc.masked {
				t.Errorf("met %d rules, masqueraded %t; want %d, %t\n%+v", got.Rules, got.Masqueraded, tc.rules, tc.masked, got.Steps)
			}
		})
	}
}

func TestTraceOfSets(t *testing.T) {
	rs, err := Parse(gateway.IPv4, []byte(`*filter
:INPUT ACCEPT [0:0]
-A INPUT -m set ! --match-set known src -j DROP
-A INPUT -m set --match-set unknown src -j DROP
-A INPUT -m set --match-set known src -j REJECT --reject-with tcp-reset
COMMIT
`))
	if err != nil {
		t.Fatal(err)
	}
	rs.Sets = []Set{{Name: "known", Members: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("198.51.100.7/32")}}}
	for source, want := range map[string]packet.Verdict{"192.0.2.127:1": packet.Reject, "192.0.2.128:1": packet.Drop, "198.51.100.7:1": packet.Reject, "198.51.100.8:1": packet.Drop} {
		p := packet.Packet{In: "eth1", Protocol: gateway.TCP, State: packet.New, Source: netip.MustParseAddrPort(source)}
		if got := NewTracer(rs).Trace(p).Verdict; got != want {
			t.Errorf("verdict %s for source %s, want %s", got, source, want)
		}
	}
}

const treated = `*mangle
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -j CONNMARK --set-xmark 0x100/0xf00
-A POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN -m connmark --mark 0x100/0xf00 -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID --ctdir REPLY -j DROP
-A FORWARD -m conntrack --ctdir REPLY -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m recent --update --seconds 60 --reap --name one --rsource -j DNAT --to-destination 10.0.0.1
-A PREROUTING -p udp -m statistic --mode random --probability 0.5 -m recent --set --name one --rsource -j DNAT --to-destination 10.0.0.1
-A PREROUTING -p udp -m recent --set --name two --rsource -j DNAT --to-destination 10.0.0.2
-A POSTROUTING -p tcp -j SNAT --to-source 198.51.100.1
COMMIT
`

func TestTraceOfTreatment(t *testing.T) {
	rs, err := Parse(gateway.IPv4, []byte(treated))
	if err != nil {
		t.Fatal(err)
	}
	always := func(uint32) bool { return true }
	inOne := func(list string, seconds uint32) bool { return list == "one" && seconds == 60 }
	for _, tc := range []struct {
		name             string
		change           func(p *packet.Packet)
		chance           func(uint32) bool
		recent           func(string, uint32) bool
		verdict          packet.Verdict
		from, to         string
		remembered       string
		rules            int
		clamped          bool
		mark             uint32
		wantTranslations packet.State
	}{
		{"a new connection", func(p *packet.Packet) { p.Protocol, p.SYN = gateway.TCP, true }, nil, nil, packet.Accept, "198.51.100.1:4000", "192.0.2.1:80", "", 1 + 3 + 2 + 1 + 1, true, 0x100, packet.SNAT},
		{"an established connection", func(p *packet.Packet) { p.Protocol, p.State = gateway.TCP, packet.Established }, nil, nil, packet.Accept, "198.51.100.7:4000", "192.0.2.1:80", "", 1 + 2 + 1, false, 0x100, 0},
		{"a source seen recently", func(*packet.Packet) {}, nil, inOne, packet.Accept, "198.51.100.7:4000", "10.0.0.1:80", "one", 1 + 1 + 2 + 1 + 1, false, 0x100, packet.DNAT},
		{"a new source, the random match succeeds", func(*packet.Packet) {}, always, nil, packet.Accept, "198.51.100.7:4000", "10.0.0.1:80", "one", 1 + 2 + 2 + 1 + 1, false, 0x100, packet.DNAT},
		{"a new source, the random match fails", func(*packet.Packet) {}, nil, nil, packet.Accept, "198.51.100.7:4000", "10.0.0.2:80", "two", 1 + 3 + 2 + 1 + 1, false, 0x100, packet.DNAT},
		{"an invalid packet", func(p *packet.Packet) { p.State = packet.Invalid }, nil, nil, packet.Drop, "198.51.100.7:4000", "192.0.2.1:80", "", 1 + 1, false, 0, 0},
		{"an untracked packet", func(p *packet.Packet) { p.State, p.Direction = packet.Untracked, packet.Reply }, nil, nil, packet.Accept, "198.51.100.7:4000", "192.0.2.1:80", "", 1 + 2 + 1, false, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := packet.Packet{In: "eth1", Protocol: gateway.UDP, State: packet.New, Direction: packet.Original, Route: func(netip.Addr, uint32) string { return "eth0" },
				Source: netip.MustParseAddrPort("198.51.100.7:4000"), Destination: netip.MustParseAddrPort("192.0.2.1:80")}
			tc.change(&p)
			got := NewTracer(rs).Choosing(tc.chance).Remembering(tc.recent).Trace(p)
			if got.Verdict != tc.verdict || got.Packet.Source.String() != tc.from || got.Packet.Destination.String() != tc.to || got.Packet.State&(packet.DNAT|packet.SNAT) != tc.wantTranslations {
				t.Errorf("verdict %s, from %s to %s, state %b; want %s, %s, %s, %b", got.Verdict, got.Packet.Source, got.Packet.Destination,
					got.Packet.State, tc.verdict, tc.from, tc.to, tc.wantTranslations)
			}
			if strings.Join(got.Remembered, " ") != tc.remembered || got.Rules != tc.rules || got.Clamped != tc.clamped || got.Packet.ConnMark != tc.mark {
				t.Errorf("remembered in %q, met %d rules, clamped %t, connection mark %#x; want %q, %d, %t, %#x", got.Remembered, got.Rules,
					got.Clamped, got.Packet.ConnMark, tc.remembered, tc.rules, tc.clamped, tc.mark)
			}
		})
	}
}

func TestOutcomes(t *testing.T) {
	rs, err := Parse(gateway.IPv4, []byte(treated))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for trace := range NewTracer(rs).Outcomes(packet.Packet{In: "eth1", Protocol: gateway.UDP, State: packet.New}) {
		got[trace.Packet.Destination.Addr().String()] += trace.Probability
	}
	if len(got) != 2 || got["10.0.0.1"] != 0.5 || got["10.0.0.2"] != 0.5 {
		t.Errorf("probabilities %v, want 0.5 for each destination", got)
	}
}

// endless are tables with loops or an excessive number of steps.
var endless = []struct{ name, save string }{
	{"a chain that jumps to itself", "*nat\n:PREROUTING ACCEPT [0:0]\n:A - [0:0]\n-A PREROUTING -j A\n-A A -j A\nCOMMIT\n"},
	{"a loop of gotos", "*nat\n:PREROUTING ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n-A PREROUTING -g A\n-A A -g B\n-A B -g A\nCOMMIT\n"},
	{"a loop through a built-in chain", "*nat\n:PREROUTING ACCEPT [0:0]\n:A - [0:0]\n-A PREROUTING -j A\n-A A -j PREROUTING\nCOMMIT\n"},
	{"steps that double with each chain", doubling(40)},
}

// doubling returns a table in which each chain jumps to the next one twice.
func doubling(chains int) string {
	var declared, rules strings.Builder
	at := "PREROUTING"
	for n := range chains {
		next := "C" + strings.Repeat("x", n)
		declared.WriteString(":" + next + " - [0:0]\n")
		rules.WriteString(strings.Repeat("-A "+at+" -j "+next+"\n", 2))
		at = next
	}
	return "*nat\n:PREROUTING ACCEPT [0:0]\n" + declared.String() + rules.String() + "COMMIT\n"
}

func TestPacketThatGetsNowhere(t *testing.T) {
	for _, tc := range endless {
		t.Run(tc.name, func(t *testing.T) {
			rs, err := Parse(gateway.IPv4, []byte(tc.save))
			if err != nil {
				t.Fatal(err)
			}
			got := NewTracer(rs).Trace(packet.Packet{In: "eth1", Protocol: gateway.UDP, State: packet.New})
			if !got.LoopDetected || got.Verdict != packet.Drop {
				t.Errorf("loop detected: %t, verdict %s after %d rules", got.LoopDetected, got.Verdict, got.Rules)
			}
		})
	}
}

// FuzzTrace: any packet gets through any rules, parsed or generated, within the bound.
func FuzzTrace(f *testing.F) {
	for _, save := range []string{traced, treated} {
		f.Add(save, []byte(nil), uint64(0))
		f.Add(save, []byte("any bytes at all are rules: three of them make one"), ^uint64(0))
	}
	for _, tc := range endless {
		f.Add(tc.save, []byte(nil), uint64(1))
	}
	f.Fuzz(func(t *testing.T, save string, rules []byte, seed uint64) {
		rs, err := Parse(gateway.IPv4, []byte(save))
		if err != nil {
			rs = Ruleset{}
		}
		rs.Tables = append(rs.Tables, anyTables(rules)...)
		p, lucky := anyPacket(seed)
		tracer := NewTracer(rs).Choosing(func(uint32) bool { return lucky }).Remembering(func(string, uint32) bool { return !lucky })
		total := 0
		for _, table := range rs.Tables {
			for _, c := range table.Chains {
				total += len(c.Rules)
			}
		}
		got := tracer.Trace(p)
		if bound := 1<<14 + 4*total; got.Rules > bound+1 {
			t.Fatalf("met %d rules in a table of %d", got.Rules, total)
		}
		if !slices.Contains([]packet.Verdict{packet.Accept, packet.Drop, packet.Reject}, got.Verdict) || got.LoopDetected && got.Verdict != packet.Drop {
			t.Fatalf("verdict %s, endless %t", got.Verdict, got.LoopDetected)
		}
		ways := 0
		for trace := range tracer.Outcomes(p) {
			if trace.Probability < 0 || trace.Probability > 1 {
				t.Fatalf("probability %v", trace.Probability)
			}
			if ways++; ways == 8 {
				break
			}
		}
	})
}

// anyTables generates rules, each from three bytes: the first selects the table and chain, the second the match, the third
// the target.
func anyTables(bytes []byte) []Table {
	tables := []Table{{Name: "mangle"}, {Name: "filter"}, {Name: "nat"}}
	names := []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "A", "B", "C"}
	for i := range tables {
		for _, name := range names {
			tables[i].Chains = append(tables[i].Chains, &Chain{Name: name})
		}
	}
	matches := []Rule{{}, {}, {In: "eth+"}, {Protocol: gateway.TCP}, {State: packet.New}, {Probability: ProbabilityOne / 2}, {Recent: Recent{Name: "x", Seconds: 1}},
		{Direction: packet.Reply}, {ConnMark: gateway.Mark{Value: 0x10, Mask: 0x10}}, {SYN: true}, {Multiport: "80,100:200"}}
	for ; len(bytes) >= 3; bytes = bytes[3:] {
		r := matches[int(bytes[1])%len(matches)]
		r.Target = Target{
			Verb: Verb(bytes[2]) % (ClampMSS + 1), Chain: names[int(bytes[2]/16)%len(names)],
			Mark: gateway.Mark{Value: 0x10, Mask: 0x10}, Address: netip.AddrFrom4([4]byte{10, 0, 0, bytes[2]}),
		}
		chain := tables[int(bytes[0]/8)%len(tables)].Chains[int(bytes[0])%len(names)]
		chain.Rules = append(chain.Rules, r)
	}
	return tables
}

// anyPacket generates a packet and its luck from 64 bits.
func anyPacket(seed uint64) (p packet.Packet, lucky bool) {
	bits := func(n int) uint64 {
		v := seed & (1<<n - 1)
		seed >>= n
		return v
	}
	links := []string{"", "eth0", "eth1", "lan"}
	p = packet.Packet{
		In:        links[bits(2)],
		Protocol:  []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP, "icmp"}[bits(2)],
		State:     packet.State(bits(7)),
		Direction: packet.Direction(bits(2)),
		SYN:       bits(1) == 1,
		Mark:      uint32(bits(8)) << 4, ConnMark: uint32(bits(8)) << 4,
		Source:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(bits(2)), 0, 1}), 4000),
		Destination: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(bits(2))}), uint16(bits(16))),
	}
	lucky = bits(1) == 1
	out := links[bits(2)]
	p.Route = func(netip.Addr, uint32) string { return out }
	return p, lucky
}
