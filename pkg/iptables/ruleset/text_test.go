// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// numbers derives the numbers of a Rule from arbitrary bytes.
type numbers []byte

func (n *numbers) next() uint32 {
	var b [4]byte
	*n = (*n)[copy(b[:], *n):]
	return binary.LittleEndian.Uint32(b[:])
}

func (n *numbers) mark() gateway.Mark { return gateway.Mark{Value: n.next(), Mask: n.next()} }

func (n *numbers) ports() gateway.PortRange {
	v := n.next()
	return gateway.PortRange{First: uint16(v), Last: uint16(v >> 16)}
}

func (n *numbers) address() netip.Addr {
	v := n.next()
	if v%3 == 0 {
		return netip.Addr{}
	}
	a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
	if v%3 == 1 {
		return netip.AddrFrom16(a.As16())
	}
	return a
}

func (n *numbers) prefix() netip.Prefix { return netip.PrefixFrom(n.address(), int(n.next()%40)) }

// target returns a Target with only the fields that its verb uses.
func (n *numbers) target(chain, rejectWith, zone string) Target {
	t := Target{Verb: Verb(n.next() % 20)}
	switch t.Verb {
	case Jump, Goto:
		t.Chain = chain
	case Reject:
		t.RejectWith = rejectWith
	case DNAT:
		t.Address, t.Ports, t.BasePort = n.address().WithZone(zone), n.ports(), uint16(n.next())
	case SNAT:
		t.Address, t.Ports, t.RandomFully = n.address().WithZone(zone), n.ports(), n.next()%2 == 0
	case Masquerade:
		t.RandomFully = n.next()%2 == 0
	case SetMark, SetConnMark:
		t.Mark = n.mark()
	case RestoreMark:
		t.Mark.Mask = n.next()
	case AssignHelper:
		t.Helper = rejectWith
	}
	return t
}

// FuzzText: any rule has a text of one printable line. The text parses to the same rule, or nothing may be written.
func FuzzText(f *testing.F) {
	word := func(verb byte) []byte { return append(make([]byte, 7*4), verb) }
	f.Add("eth0", "", "tcp", "80,443", "set", "list", "default/echo", "S-A", "tcp-reset", "", word(byte(Jump)))
	f.Add("eth0", "", "tcp", "80,443", "set", "list", "default/echo", "S-A", "tcp-reset", "", word(byte(Reject)))
	f.Add("", "", "", "", "", "", "default/x\nCOMMIT\n*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n*nat\n#", "S-A", "", "", word(byte(Jump)))
	f.Add("a b", "-j\nACCEPT", "tcp\n", "80\n", "a\"", "b\\", "\"\\'\x00\x7f\x1b[2J", "ACCEPT", "\x01", "eth0\n", []byte{})
	f.Fuzz(func(t *testing.T, in, out, protocol, multiport, set, recent, comment, chain, rejectWith, zone string, bytes []byte) {
		numbers := numbers(bytes)
		rule := Rule{
			Target: numbers.target(chain, rejectWith, zone),
			Source: numbers.prefix(), Destination: numbers.prefix(), In: in, Out: out, Protocol: gateway.Protocol(protocol), Multiport: multiport,
			DestinationPorts: numbers.ports(), SYN: numbers.next()%2 == 1, State: packet.State(numbers.next()), Direction: packet.Direction(numbers.next()),
			SourceSet: SetMatch{set, numbers.next()%2 == 1}, Recent: Recent{recent, numbers.next()}, Mark: numbers.mark(), ConnMark: numbers.mark(),
			Probability: numbers.next(), Comment: comment,
		}
		checkText(t, rule, chain)
		rule.Comment = Comment(comment)
		checkText(t, rule, chain)
		text, ok := (&Rule{Comment: rule.Comment, Target: Target{Verb: Drop}}).append(nil)
		if !ok || len(rule.Comment) > MaxComment || Comment(rule.Comment) != rule.Comment || (comment == "") != (rule.Comment == "") {
			t.Errorf("the comment of %q is %s", comment, text)
		}
	})
}

// checkText compares the text of a rule, and of a batch that appends it to a chain of ours, with the rule.
func checkText(t *testing.T, rule Rule, chain string) {
	t.Helper()
	spelt, ok := rule.append(nil)
	batch := Batch{Family: gateway.IPv4, Tables: []TableBatch{{Name: "nat", Write: []Chain{{Name: "OURS", Rules: []Rule{rule}}}}}}
	text, err := batch.AppendText(nil)
	if ok != (err == nil) || err != nil && !errors.Is(err, gateway.ErrRefused) {
		t.Fatalf("%q: writable %t, but error %v", spelt, ok, err)
	}
	for _, line := range append(strings.Split(string(text), "\n"), string(spelt)) {
		if !isLine(line) {
			t.Fatalf("%+v has the text %q", rule, line)
		}
	}
	if want := "*nat\n:OURS - [0:0]\n-A OURS " + string(spelt) + "\nCOMMIT\n"; string(text) != want {
		t.Fatalf("the batch is\n%s, want\n%s", text, want)
	}
	if !ok {
		return
	}
	after := "*nat\n:OURS - [0:0]\n"
	if isWord(chain) && chain != "OURS" {
		after += ":" + chain + " - [0:0]\n"
	}
	after += "-A OURS " + string(spelt) + "\nCOMMIT\n"
	read, err := Parse(gateway.IPv4, []byte(after))
	if err != nil {
		t.Fatal(err)
	}
	i, _ := read.Tables[0].find("OURS")
	if got := read.Tables[0].Chains[i].Rules; len(got) != 1 || got[0] != rule {
		t.Errorf("%s parses to another rule (-want +got):\n%s", spelt, cmp.Diff([]Rule{rule}, got, equateRules))
	}
}

// TestWhatHasNoSpellingIsNotWritten covers values that iptables-restore would read as more than one word or line.
func TestWhatHasNoSpellingIsNotWritten(t *testing.T) {
	accept := Target{Verb: Accept}
	address := netip.MustParseAddr("fe80::1")
	for _, tc := range []struct {
		name string
		rule Rule
		// text is the text for display.
		text string
	}{
		{"comment of two lines", Rule{Comment: "a\n-j \"x\"", Target: accept}, `-m comment --comment "a\x0a-j \"x\"" -j ACCEPT`},
		{"comment with an escape sequence", Rule{Comment: "\x1b[2J", Target: accept}, `-m comment --comment "\x1b[2J" -j ACCEPT`},
		{"long comment", Rule{Comment: strings.Repeat("x", MaxComment+1)}, `-m comment --comment "` + strings.Repeat("x", MaxComment+1) + `"`},
		{"link of two words", Rule{In: "a -j ACCEPT", Target: accept}, "-i a -j ACCEPT -j ACCEPT"},
		{"link with a quote", Rule{Out: `"a`, Target: accept}, `-o "a -j ACCEPT`},
		{"protocol", Rule{Protocol: "tcp\n", Target: accept}, `-p tcp\x0a -j ACCEPT`},
		{"ports", Rule{Protocol: "tcp", Multiport: "80\t", Target: accept}, `-p tcp -m multiport --dports 80\x09 -j ACCEPT`},
		{"set", Rule{SourceSet: SetMatch{Name: "a\r"}, Target: accept}, `-m set --match-set a\x0d src -j ACCEPT`},
		{"list", Rule{Recent: Recent{Name: "\x7f"}, Target: accept}, `-m recent --set --name \x7f --rsource -j ACCEPT`},
		{"chain", Rule{Target: Target{Verb: Jump, Chain: "A\nCOMMIT"}}, `-j A\x0aCOMMIT`},
		{"chain named like a target", Rule{Target: Target{Verb: Goto, Chain: "ACCEPT"}}, "-g ACCEPT"},
		{"no chain", Rule{Target: Target{Verb: Jump}}, ""},
		{"answer", Rule{Target: Target{Verb: Reject, RejectWith: "x\x00"}}, `-j REJECT --reject-with x\x00`},
		{"zone", Rule{Target: Target{Verb: DNAT, Address: address.WithZone("a\n"), Ports: gateway.Port(80)}}, "-j DNAT --to-destination fe80::1"},
		{"zone of a source", Rule{Target: Target{Verb: SNAT, Address: address.WithZone("a\n")}}, "-j SNAT --to-source fe80::1"},
		{"foreign rule", Rule{Foreign: "-m comment --comment \"a\nb\" -j X"}, `-m comment --comment "a\x0ab" -j X`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.rule.String(); got != tc.text {
				t.Errorf("text %s, want %s", got, tc.text)
			}
			batch := Batch{Tables: []TableBatch{{Name: "nat", Remove: []ChainRule{{"A", tc.rule}}}}}
			if _, err := batch.AppendText(nil); !errors.Is(err, gateway.ErrRefused) || !isLine(err.Error()) {
				t.Errorf("error %v, want ErrRefused on one line", err)
			}
		})
	}
	for _, name := range []string{"", "a b", "a\nCOMMIT", `"a"`} {
		for _, batch := range []TableBatch{{Name: name}, {Name: "nat", Delete: []string{name}}, {Name: "nat", Write: []Chain{{name, "", []Rule{{Target: accept}}}}}} {
			text, err := (Batch{Tables: []TableBatch{batch}}).AppendText(nil)
			if !errors.Is(err, gateway.ErrRefused) || strings.Contains(string(text), strings.Repeat("\nCOMMIT", 2)) {
				t.Errorf("error %v with\n%s", err, text)
			}
		}
	}
}

func TestComment(t *testing.T) {
	name, long := "default/echo", strings.Repeat("n", 63)+"/"+strings.Repeat("x", 253)
	for _, tc := range []struct{ text, want string }{
		{name, name},
		{"", ""},
		{long, long[:MaxComment]},
		{"a\nb\x1b\x7fc d", "a%0Ab%1B%7Fc d"},
		{"é", "%C3%A9"},
		{strings.Repeat("x", MaxComment-1) + "\n", strings.Repeat("x", MaxComment-1)},
		{"\n" + strings.Repeat("x", MaxComment), "%0A" + strings.Repeat("x", MaxComment-3)},
	} {
		if got := Comment(tc.text); got != tc.want {
			t.Errorf("Comment(%q) = %q, want %q", tc.text, got, tc.want)
		}
	}
}

// TestRuleOfOthersThatCannotBeRemoved: a rule whose deletion cannot be expressed stays, with the chain that it jumps to.
func TestRuleOfOthersThatCannotBeRemoved(t *testing.T) {
	have, err := Parse(gateway.IPv4, []byte("*nat\n:PREROUTING ACCEPT [0:0]\n:S-A - [0:0]\n:S-B - [0:0]\n"+
		"-A PREROUTING -m comment --comment \"a\nb\" -j S-A\n-A PREROUTING -j S-A\n-A S-A -j ACCEPT\n-A S-B -m comment --comment \"a\nb\" -j ACCEPT\nCOMMIT\n"))
	if err != nil {
		t.Fatal(err)
	}
	batch := Diff(have, Ruleset{Family: gateway.IPv4}, "S-")
	const want = "*nat\n:S-A - [0:0]\n:S-B - [0:0]\n-D PREROUTING -j S-A\n-X S-B\nCOMMIT\n"
	if text, err := batch.AppendText(nil); err != nil || string(text) != want {
		t.Errorf("error %v, the batch is\n%s, want\n%s", err, text, want)
	}
	if again := Diff(Apply(have, batch), Ruleset{Family: gateway.IPv4}, "S-"); !again.Empty() {
		t.Errorf("the second diff is not empty:\n%s", again.Text())
	}
}
