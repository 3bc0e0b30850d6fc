// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// equateRules compares values with unexported fields.
var equateRules = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func parseRule(t *testing.T, family gateway.Family, text string) Rule {
	t.Helper()
	rs, err := Parse(family, []byte("*nat\n:OURS - [0:0]\n:C - [0:0]\n-A C "+text+"\nCOMMIT\n"))
	if err != nil {
		t.Fatal(err)
	}
	return rs.Tables[0].Chains[0].Rules[0]
}

// spellings are rules that we build, the text that both back ends print, and alternative texts that must parse to the same
// rule.
var spellings = []struct {
	name   string
	family gateway.Family
	rule   Rule
	text   string
	also   []string
}{
	{name: "jump for an address", rule: Rule{Destination: netip.MustParsePrefix("192.0.2.1/32"), Protocol: gateway.TCP, Target: Target{Verb: Jump, Chain: "OURS"}},
		text: "-d 192.0.2.1/32 -p tcp -j OURS", also: []string{"-d 192.0.2.1 -p tcp -j OURS"}},
	{name: "goto for ports", rule: Rule{Protocol: gateway.TCP, DestinationPorts: gateway.PortRange{First: 0, Last: 32767}, Target: Target{Verb: Goto, Chain: "OURS"}},
		text: "-p tcp -m tcp --dport 0:32767 -g OURS"},
	{name: "sctp port", rule: Rule{Protocol: gateway.SCTP, DestinationPorts: gateway.Port(80), Target: Target{Verb: Return}},
		text: "-p sctp -m sctp --dport 80 -j RETURN"},
	{name: "source over IPv6", family: gateway.IPv6, rule: Rule{Source: netip.MustParsePrefix("2001:db8::/32"), Target: Target{Verb: Return}},
		text: "-s 2001:db8::/32 -j RETURN"},
	{name: "multiport", rule: Rule{Protocol: gateway.UDP, Multiport: "53,8000:8010", Mark: gateway.Mark{Value: 0x40, Mask: 0x40}, Target: Target{Verb: Drop}},
		text: "-p udp -m multiport --dports 53,8000:8010 -m mark --mark 0x40/0x40 -j DROP",
		also: []string{"-p udp -m mark --mark 0x40/0x40 -m multiport --dports 53,8000:8010 -j DROP"}},
	{name: "full mask", rule: Rule{ConnMark: gateway.Mark{Value: 5, Mask: fullMask}, Target: Target{Verb: Accept}},
		text: "-m connmark --mark 0x5 -j ACCEPT"},
	{name: "states and direction", rule: Rule{In: "eth+", Out: "eth1", State: packet.Related | packet.Established, Direction: packet.Reply, Target: Target{Verb: Accept}},
		text: "-i eth+ -o eth1 -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j ACCEPT",
		also: []string{"-i eth+ -o eth1 -m conntrack --ctstate ESTABLISHED,RELATED --ctdir REPLY -j ACCEPT"}},
	{name: "a probability of one third", rule: Rule{Protocol: gateway.TCP, DestinationPorts: gateway.Port(80), Probability: 715827883, Target: Target{Verb: DNAT, Address: netip.MustParseAddr("10.0.0.1"), Ports: gateway.Port(8080)}},
		text: "-p tcp -m tcp --dport 80 -m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination 10.0.0.1:8080"},
	{name: "a probability of one half", rule: Rule{Probability: ProbabilityOne / 2}, text: "-m statistic --mode random --probability 0.50000000000",
		also: []string{"-m statistic --mode random --probability 0.5"}},
	{name: "shifted range over IPv6", family: gateway.IPv6, rule: Rule{Protocol: gateway.UDP, DestinationPorts: gateway.PortRange{First: 80, Last: 89},
		Target: Target{Verb: DNAT, Address: netip.MustParseAddr("fd00::1"), Ports: gateway.PortRange{First: 8000, Last: 8009}, BasePort: 80}},
		text: "-p udp -m udp --dport 80:89 -j DNAT --to-destination [fd00::1]:8000-8009/80"},
	{name: "address alone over IPv6", family: gateway.IPv6, rule: Rule{Target: Target{Verb: DNAT, Address: netip.MustParseAddr("fd00::1")}},
		text: "-j DNAT --to-destination fd00::1"},
	{name: "quoted comment", rule: Rule{Comment: `it's "q" \`, Target: Target{Verb: Return}},
		text: `-m comment --comment "it's \"q\" \\" -j RETURN`, also: []string{`-m comment --comment "it\'s \"q\" \\" -j RETURN`}},
	{name: "plain comment", rule: Rule{Comment: "default/echo", Target: Target{Verb: Return}},
		text: `-m comment --comment "default/echo" -j RETURN`, also: []string{`-m comment --comment default/echo -j RETURN`}},
	{name: "reject", rule: Rule{Target: Target{Verb: Reject, RejectWith: "icmp-port-unreachable"}},
		text: "-j REJECT --reject-with icmp-port-unreachable", also: []string{"-j REJECT"}},
	{name: "reject over IPv6", family: gateway.IPv6, rule: Rule{Target: Target{Verb: Reject, RejectWith: "icmp6-port-unreachable"}},
		text: "-j REJECT --reject-with icmp6-port-unreachable", also: []string{"-j REJECT"}},
	{name: "set mark", rule: Rule{Target: Target{Verb: SetMark, Mark: gateway.Mark{Value: 0x40, Mask: 0x40}}},
		text: "-j MARK --set-xmark 0x40/0x40"},
	{name: "helper", rule: Rule{Protocol: gateway.TCP, DestinationPorts: gateway.Port(21), Target: Target{Verb: AssignHelper, Helper: "ftp"}},
		text: "-p tcp -m tcp --dport 21 -j CT --helper ftp"},
	{name: "clear connmark", rule: Rule{Target: Target{Verb: SetConnMark, Mark: gateway.Mark{Mask: 0x30}}},
		text: "-j CONNMARK --set-xmark 0x0/0x30"},
	{name: "restore mark", rule: Rule{Target: Target{Verb: RestoreMark, Mark: gateway.Mark{Mask: 0x1f00}}},
		text: "-j CONNMARK --restore-mark --nfmask 0x1f00 --ctmask 0x1f00"},
	{name: "restore the whole mark", rule: Rule{Target: Target{Verb: RestoreMark, Mark: gateway.Mark{Mask: fullMask}}},
		text: "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", also: []string{"-j CONNMARK --restore-mark"}},
	{name: "recall a source", rule: Rule{Protocol: gateway.TCP, DestinationPorts: gateway.Port(80), Recent: Recent{Name: "S-tcp-192.0.2.1-80", Seconds: 10800}, Comment: "default/echo", Target: Target{Verb: Return}},
		text: `-p tcp -m tcp --dport 80 -m recent --update --seconds 10800 --reap --name S-tcp-192.0.2.1-80 --rsource -m comment --comment "default/echo" -j RETURN`,
		also: []string{`-p tcp -m tcp --dport 80 -m recent --update --seconds 10800 --reap --name S-tcp-192.0.2.1-80 --mask 255.255.255.255 --rsource -m comment --comment default/echo -j RETURN`}},
	{name: "remember a source over IPv6", family: gateway.IPv6, rule: Rule{Probability: ProbabilityOne / 2, Recent: Recent{Name: "S-2001:db8::1"}, Target: Target{Verb: Accept}},
		text: "-m statistic --mode random --probability 0.50000000000 -m recent --set --name S-2001:db8::1 --rsource -j ACCEPT",
		also: []string{"-m statistic --mode random --probability 0.50000000000 -m recent --set --name S-2001:db8::1 --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource -j ACCEPT"}},
	{name: "source in a set", rule: Rule{Protocol: gateway.TCP, SourceSet: SetMatch{Name: "smartnat-ABC-4"}, Target: Target{Verb: Return}},
		text: "-p tcp -m set --match-set smartnat-ABC-4 src -j RETURN"},
	{name: "source not in a set over IPv6", family: gateway.IPv6, rule: Rule{Protocol: gateway.TCP, DestinationPorts: gateway.Port(80), SourceSet: SetMatch{Name: "smartnat-ABC-6", Not: true}, Target: Target{Verb: Goto, Chain: "OURS"}},
		text: "-p tcp -m tcp --dport 80 -m set ! --match-set smartnat-ABC-6 src -g OURS"},
	{name: "clamp", rule: Rule{Protocol: gateway.TCP, SYN: true, ConnMark: gateway.Mark{Value: 0x10, Mask: 0x10}, Target: Target{Verb: ClampMSS}},
		text: "-p tcp -m tcp --tcp-flags SYN,RST SYN -m connmark --mark 0x10/0x10 -j TCPMSS --clamp-mss-to-pmtu"},
	{name: "port and flags", rule: Rule{Protocol: gateway.TCP, DestinationPorts: gateway.Port(80), SYN: true, Target: Target{Verb: Accept}},
		text: "-p tcp -m tcp --dport 80 --tcp-flags SYN,RST SYN -j ACCEPT"},
	{name: "source translated", rule: Rule{Source: netip.MustParsePrefix("10.0.0.1/32"), Target: Target{Verb: SNAT, Address: netip.MustParseAddr("192.0.2.1"), RandomFully: true}},
		text: "-s 10.0.0.1/32 -j SNAT --to-source 192.0.2.1 --random-fully"},
	{name: "source translated over IPv6", family: gateway.IPv6, rule: Rule{Target: Target{Verb: SNAT, Address: netip.MustParseAddr("2001:db8::1")}},
		text: "-j SNAT --to-source 2001:db8::1"},
	{name: "source translated with ports", rule: Rule{Protocol: gateway.UDP, Target: Target{Verb: SNAT, Address: netip.MustParseAddr("192.0.2.1"), Ports: gateway.PortRange{First: 1024, Last: 65535}, RandomFully: true}},
		text: "-p udp -j SNAT --to-source 192.0.2.1:1024-65535 --random-fully"},
	{name: "source translated with ports over IPv6", family: gateway.IPv6, rule: Rule{Protocol: gateway.TCP, Target: Target{Verb: SNAT, Address: netip.MustParseAddr("2001:db8::1"), Ports: gateway.PortRange{First: 1024, Last: 65535}}},
		text: "-p tcp -j SNAT --to-source [2001:db8::1]:1024-65535"},
	{name: "new connection announced by a helper", rule: Rule{State: packet.New, Expected: true, Direction: packet.Original, Target: Target{Verb: Accept}},
		text: "-m conntrack --ctstate NEW --ctstatus EXPECTED --ctdir ORIGINAL -j ACCEPT"},
	{name: "connection announced by a helper", rule: Rule{Expected: true, Target: Target{Verb: Accept}}, text: "-m conntrack --ctstatus EXPECTED -j ACCEPT"},
	{name: "switched by a bridge", rule: Rule{Bridged: true, Target: Target{Verb: Return}}, text: "-m physdev --physdev-is-bridged -j RETURN"},
	{name: "masquerade", rule: Rule{Target: Target{Verb: Masquerade, RandomFully: true}}, text: "-j MASQUERADE --random-fully"},
	{
		name: "masquerade to a range of ports",
		rule: Rule{Protocol: gateway.UDP, Target: Target{Verb: Masquerade, Ports: gateway.PortRange{First: 1024, Last: 65535}, RandomFully: true}},
		text: "-p udp -j MASQUERADE --to-ports 1024-65535 --random-fully",
	},
}

func TestSpelling(t *testing.T) {
	for _, tc := range spellings {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.rule.String(); got != tc.text {
				t.Errorf("got %s, want %s", got, tc.text)
			}
			for _, text := range append(tc.also, tc.text) {
				if diff := cmp.Diff(tc.rule, parseRule(t, max(tc.family, gateway.IPv4), text), equateRules); diff != "" {
					t.Errorf("%s parses to another rule (-want +got):\n%s", text, diff)
				}
			}
		})
	}
}

func TestWhatWeNeverSayIsForeign(t *testing.T) {
	for _, tc := range []struct {
		text string
		want Target
	}{
		{text: "! -s 10.0.0.0/8 -j OURS", want: Target{Verb: Jump, Chain: "OURS"}},
		{text: `-m comment --comment "a -j C" ! -i eth0 -g OURS`, want: Target{Verb: Goto, Chain: "OURS"}},
		{text: `-m comment --comment "-j" -m addrtype --dst-type LOCAL -j ACCEPT`},
		{text: `-j LOG --log-prefix "in: "`},
		{text: "-j NFLOG"},
		{text: "-p icmp -j ACCEPT"},
		{text: "-p tcp -m tcp --sport 80 -j ACCEPT"},
		{text: "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400"},
		{text: "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT"},
		{text: "-m recent --rcheck --seconds 60 --reap --name x --mask 255.255.255.255 --rsource -j ACCEPT"},
		{text: "-m recent --update --seconds 60 --name x --mask 255.255.255.255 --rsource -j ACCEPT"},
		{text: "-m recent --update --seconds 60 --reap --hitcount 4 --name x --mask 255.255.255.255 --rsource -j ACCEPT"},
		{text: "-m recent --set --name x --mask 255.255.255.0 --rsource -j ACCEPT"},
		{text: "-m recent --set --name x --mask 255.255.255.255 --rdest -j ACCEPT"},
		{text: "-m recent --set --name x --rsource -m statistic --mode random --probability 0.50000000000 -j ACCEPT"},
		{text: "-m recent ! --set --name x --rsource -j ACCEPT"},
		{text: "-j SNAT --to-source 192.0.2.1-192.0.2.9"},
		{text: "-p tcp -j SNAT --to-source 192.0.2.1:80-90/70"},
		{text: "-p tcp -j SNAT --to-source 192.0.2.1-192.0.2.9:80-90"},
		{text: "-j SNAT --to-source 192.0.2.1 --persistent"},
		{text: "-m mark --mark 0x1/0x1 -m mark --mark 0x2/0x2 -j ACCEPT"},
		{text: "-m mark --mark 0x0/0x0 -j ACCEPT"},
		{text: "-m conntrack ! --ctstate NEW -j ACCEPT"},
		{text: "-m conntrack --ctstate NEW,STRANGE -j ACCEPT"},
		{text: "-m statistic --mode nth --every 2 --packet 0 -j ACCEPT"},
		{text: "-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1-10.0.0.9:80"},
		{text: "-p tcp -m tcp --dport 80 -j DNAT --to-destination :80"},
		{text: "-j DNAT --to-destination 10.0.0.1 --random"},
		{text: "-j MASQUERADE --to-ports 1-2 --random"},
		{text: "-j CT --notrack"},
		{text: "-j CT --helper ftp --zone 1"},
		{text: "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff"},
		{text: "-j CONNMARK --restore-mark --nfmask 0xf --ctmask 0xff"},
		{text: "-j MARK --set-xmark 0x3/0x1"},
		{text: "-f -j ACCEPT"},
		{text: "-m set --match-set x dst -j ACCEPT"},
		{text: "-m set --match-set x src,dst -j ACCEPT"},
		{text: "-m set --match-set x src --return-nomatch -j ACCEPT"},
		{text: "-m set --match-set x src -m set ! --match-set y src -j ACCEPT"},
		{text: "-m set ! -j ACCEPT"},
	} {
		t.Run(tc.text, func(t *testing.T) {
			want := Rule{Foreign: tc.text, Target: tc.want}
			if diff := cmp.Diff(want, parseRule(t, gateway.IPv4, tc.text), equateRules); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParse(t *testing.T) {
	const save = `# Generated by iptables-save v1.8.9 (nf_tables)
*nat
:PREROUTING ACCEPT [1:60]
:S-B - [0:0]
:S-A - [0:0]
[12:720] -A PREROUTING -j S-A
-A S-A -g S-B
COMMIT
# Completed
*raw
:OUTPUT ACCEPT [0:0]
COMMIT
*mangle
:FORWARD DROP [0:0]
COMMIT
`
	got, err := Parse(gateway.IPv4, []byte(save))
	if err != nil {
		t.Fatal(err)
	}
	want := Ruleset{Family: gateway.IPv4, Tables: []Table{
		{Name: "mangle", Chains: []*Chain{{Name: "FORWARD", Policy: "DROP"}}},
		{Name: "nat", Chains: []*Chain{
			{Name: "PREROUTING", Policy: "ACCEPT", Rules: []Rule{{Target: Target{Verb: Jump, Chain: "S-A"}}}},
			{Name: "S-A", Rules: []Rule{{Target: Target{Verb: Goto, Chain: "S-B"}}}},
			{Name: "S-B"},
		}},
		{Name: "raw", Chains: []*Chain{{Name: "OUTPUT", Policy: "ACCEPT"}}},
	}}
	if diff := cmp.Diff(want, got, equateRules); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefusesWhatIsNotASave(t *testing.T) {
	for _, tc := range []struct{ name, save, want string }{
		{"truncated", "*nat\n:A - [0:0]\n", "without COMMIT"},
		{"a duplicate table", "*nat\nCOMMIT\n*nat\nCOMMIT\n", "the table was there before"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse(gateway.IPv4, []byte(tc.save))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// TestStrangeLinesArePassedOver: lines of other programs neither prevent us from reading our rules nor are read as ours.
func TestStrangeLinesArePassedOver(t *testing.T) {
	const begin = "*nat\n:PREROUTING ACCEPT [0:0]\n:S-A - [0:0]\n"
	ours := Rule{Target: Target{Verb: Jump, Chain: "S-A"}}
	for _, tc := range []struct {
		name, lines string
		// foreign are the rules that the lines parse to; our jump follows them.
		foreign []Rule
	}{
		{name: "not a rule", lines: "hello\n:hello\n#x\n\n[1:2]\n-A\n-A \n"},
		{name: "an undeclared chain", lines: "-A OTHER -j DROP\n"},
		{name: "a duplicate chain", lines: ":S-A - [0:0]\n"},
		{name: "a table within a table", lines: "*filter\n"},
		{name: "a comment of two lines", lines: "-A PREROUTING -m comment --comment \"a\nb\" -j ACCEPT\n",
			foreign: []Rule{{Comment: "a\nb", Target: Target{Verb: Accept}}}},
		{name: "a comment with lines of a table", foreign: []Rule{
			{Comment: "a\nCOMMIT\n*nat\n:S-X - [0:0]\n-A S-A -j ACCEPT\n-A PREROUTING -j S-A", Target: Target{Verb: Accept}},
		}, lines: "-A PREROUTING -m comment --comment \"a\nCOMMIT\n*nat\n:S-X - [0:0]\n-A S-A -j ACCEPT\n-A PREROUTING -j S-A\" -j ACCEPT\n"},
		{name: "counters before a comment of several lines", lines: "[1:60] -A PREROUTING -m comment --comment \"\\\\\\\"\n-A S-A -j DROP\n\" -j ACCEPT\n",
			foreign: []Rule{{Comment: "\\\"\n-A S-A -j DROP\n", Target: Target{Verb: Accept}}}},
		{name: "two quoted words", lines: "-A PREROUTING -m comment --comment \"a b\" -m string --string \"c\n-A S-A -j DROP\" -j ACCEPT\n",
			foreign: []Rule{{Foreign: "-m comment --comment \"a b\" -m string --string \"c\n-A S-A -j DROP\" -j ACCEPT"}}},
		{name: "a quote in a link's name", lines: "-A PREROUTING -i a\"b -j ACCEPT\n-A PREROUTING -i \"b -j ACCEPT\n", foreign: []Rule{
			{Foreign: `-i a"b -j ACCEPT`}, {Foreign: `-i "b -j ACCEPT`},
		}},
		{name: "an unclosed quote", lines: "-A PREROUTING -m recent --name \"b -j ACCEPT\n",
			foreign: []Rule{{Foreign: `-m recent --name "b -j ACCEPT`}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(gateway.IPv4, []byte("nothing\n-A S-A -j DROP\n"+begin+tc.lines+"-A PREROUTING -j S-A\nCOMMIT\nnothing\n"))
			if err != nil {
				t.Fatal(err)
			}
			want := Ruleset{Family: gateway.IPv4, Tables: []Table{{Name: "nat", Chains: []*Chain{
				{Name: "PREROUTING", Policy: "ACCEPT", Rules: append(tc.foreign, ours)}, {Name: "S-A"},
			}}}}
			if diff := cmp.Diff(want, got, equateRules); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzParse: the text of a parsed rule must parse to the same rule, unless no line can express it.
func FuzzParse(f *testing.F) {
	for _, s := range spellings {
		f.Add(s.text)
	}
	f.Add(`-m comment --comment "a \" -j" ! -i eth0 -g OURS`)
	f.Add("-p tcp -m tcp --dport 0 -m statistic --mode random --probability 0.00000000001 -j ACCEPT")
	f.Add("-m comment --comment \"a\tb\" -j ACCEPT")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "\n\r") {
			return
		}
		rule := parseRule(t, gateway.IPv4, text)
		spelt, ok := rule.append(nil)
		if !isLine(string(spelt)) || !ok && isLine(text) && len(rule.Comment) <= MaxComment {
			t.Fatalf("%q parses to\n%+v, whose text is %q", text, rule, spelt)
		}
		if again := parseRule(t, gateway.IPv4, string(spelt)); ok && again != rule {
			t.Errorf("%q parses to\n%+v, but its text %q parses to\n%+v", text, rule, spelt, again)
		}
	})
}
