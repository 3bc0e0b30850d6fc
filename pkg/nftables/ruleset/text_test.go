// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func link(name string) string { return name + strings.Repeat("\x00", 16-len(name)) }

// TestNames expects that a name from a config or an object is spelled as one name, or refused, but never as anything else.
func TestNames(t *testing.T) {
	links := func(name string) Table {
		return Table{Family: gateway.IPv4, Sets: []Set{{Name: "links", Schema: Schema{Key: [4]Datatype{LinkType}}, Elements: []Element{{Key: link(name)}}}}}
	}
	mapOf := func(chain string) Table {
		schema := Schema{Key: [4]Datatype{MarkType}, Data: [4]Datatype{VerdictType}}
		return Table{Family: gateway.IPv4, Sets: []Set{{Name: "m", Schema: schema, Elements: []Element{{Key: "\x01\x00\x00\x00", Verdict: Verdict{Code: Goto, Chain: chain}}}}}}
	}
	helper := func(h gateway.Helper) Table { return Table{Family: gateway.IPv4, Helpers: []gateway.Helper{h}} }
	for _, tc := range []struct {
		name  string
		table Table
		as    string
		want  string
	}{
		{"a link", links("eth0.100@x:1"), "t", ""},
		{"a link with a quote", links(`a"; x`), "t", `set links: nft(8) cannot spell the link "a\"; x"`},
		{"a link with a wildcard", links("eth*"), "t", `set links: nft(8) cannot spell the link "eth*"`},
		{"a link with a newline", links("a\nb"), "t", `set links: nft(8) cannot spell the link "a\nb"`},
		{"a link without a name", links(""), "t", `set links: nft(8) cannot spell the link ""`},
		{"a table with a space", Table{}, "a b", `nft(8) cannot spell the name "a b" of a table`},
		{"a table that begins with a digit", Table{}, "1a", `nft(8) cannot spell the name "1a" of a table`},
		{"a table without a name", Table{}, "", "a table has no name"},
		{"a set", Table{Sets: []Set{{Name: "x{"}}}, "t", `nft(8) cannot spell the name "x{" of a set`},
		{"a chain", Table{Chains: []Chain{{Name: "x;"}}}, "t", `nft(8) cannot spell the name "x;" of a chain`},
		{"the target of a verdict", mapOf("a; drop"), "t", `map m: nft(8) cannot spell the name "a; drop" of a chain`},
		{"a helper", helper(gateway.Helper{Name: `f"`, Protocol: gateway.TCP}), "t", `nft(8) cannot spell the name "f\"" of a helper`},
		{"the protocol of a helper", helper(gateway.Helper{Name: "ftp", Protocol: "x }"}), "t", `helper ftp: nft(8) cannot spell the protocol "x }"`},
		{"a type of chains", Table{Chains: []Chain{{Name: "x", Hook: &Hook{Type: "a b"}}}}, "t", `chain x: nft(8) cannot spell the hook 0 of the type "a b"`},
		{"a flowtable", Table{Flowtables: []Flowtable{{Name: "f;"}}}, "t", `nft(8) cannot spell the name "f;" of a flowtable`},
		{"a link of a flowtable", Table{Flowtables: []Flowtable{{Name: "f", Links: []string{"eth0", `a" }`}}}}, "t", `flowtable f: nft(8) cannot spell the link "a\" }"`},
		{"a hook", Table{Chains: []Chain{{Name: "x", Hook: &Hook{Type: NATType, Point: 9}}}}, "t", `chain x: nft(8) cannot spell the hook 9 of the type "nat"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			err := WriteText(&b, tc.table, tc.as)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("err = %s, want %s\n%s", got, tc.want, b.String())
			}
		})
	}
}

// TestRules spells rules that the builder does not make, as another program may.
func TestRules(t *testing.T) {
	marks := Set{Name: "marks", Schema: Schema{Key: [4]Datatype{MarkType}}}
	for _, tc := range []struct {
		name string
		rule Rule
		want string
		err  string
	}{
		{"a comment cannot end early", Rule{Exprs: []Expr{Counter{}}, Comment: "a\" drop\n# b"}, `counter comment "a' drop # b"`, ""},
		{"a link", Rule{Exprs: []Expr{Meta{Key: MetaIIFName}, Compare{Data: link("eth0"), Not: true}}}, `iifname != "eth0"`, ""},
		{"a bit that is set or not", Rule{Exprs: []Expr{Meta{Key: MetaMark}, Bitwise{Mask: word(0xf), Xor: word(0x3)}, SetMeta{Key: MetaMark}}}, "meta mark set meta mark & 0xf ^ 0x3", ""},
		{"a constant", Rule{Exprs: []Expr{Immediate{Data: word(7)}, SetCt{Key: CtMark}}}, "ct mark set 0x7", ""},
		{"a bit without a name", Rule{Exprs: []Expr{Ct{Key: CtState}, Bitwise{Mask: word(0x10), Xor: word(0)}, Compare{Data: word(0), Not: true}}}, "ct state & 0x10 != 0x0", ""},
		{"another header", Rule{Exprs: []Expr{Payload{Base: NetworkHeader, Offset: 8, Len: 1}, Compare{Data: "\x01"}}}, "@nh,64,8 0x1", ""},
		{"another protocol", Rule{Exprs: []Expr{Meta{Key: MetaL4Proto}, Compare{Data: "\x01"}}}, "meta l4proto 1", ""},
		{"an address", Rule{Exprs: []Expr{Payload{Base: NetworkHeader, Offset: 12, Len: 4}, Compare{Data: "\xc0\x00\x02\x01"}}}, "ip saddr 192.0.2.1", ""},
		{"a set of marks", Rule{Exprs: []Expr{Meta{Key: MetaMark}, Bitwise{Mask: word(0xf0), Xor: word(0)}, Lookup{Set: "marks", Not: true}}}, "meta mark & 0xf0 != @marks", ""},
		{"an unknown expression", Rule{Exprs: []Expr{Counter{}, Unknown{Name: "quota"}, Verdict{Code: Accept}}}, "counter unknown accept", "unknown expression quota"},
		{"a register without a value", Rule{Exprs: []Expr{Compare{From: 3, Data: word(1)}}}, "", "register 3 has no value"},
		{"a register that does not exist", Rule{Exprs: []Expr{Meta{Key: MetaMark, To: 16}}}, "", "register 16 does not exist"},
		{"a set that does not exist", Rule{Exprs: []Expr{Meta{Key: MetaMark}, Lookup{Set: "x"}}}, "meta mark @x", "no set x"},
		{"a key of another type", Rule{Exprs: []Expr{Meta{Key: MetaIIFName}, Lookup{Set: "marks"}}}, " @marks", "iifname is not of the type of marks"},
		{"a jump to no name", Rule{Exprs: []Expr{Verdict{Code: Jump, Chain: "a b"}}}, "jump a b", `nft(8) cannot spell the name "a b" of a chain`},
		{"another verdict", Rule{Exprs: []Expr{Verdict{Code: 3}}}, "verdict 3", "unknown verdict 3"},
		{"a constant target", Rule{Exprs: translates(true, "10.0.0.1")}, "dnat to 10.0.0.1", ""},
		{"constant ports", Rule{Exprs: []Expr{Meta{Key: MetaL4Proto}, Compare{Data: "\x06"}, Immediate{Data: "\x0a\x00\x00\x01"}, Immediate{To: 1, Data: "\x00\x50"},
			Immediate{To: 2, Data: "\x00\x51"}, NAT{HasPorts: true, FirstPort: 1, LastPort: 2, Flags: NATRandomFully}}}, "meta l4proto tcp snat to 10.0.0.1:80-81 fully-random", ""},
		{"a target without a port", Rule{Exprs: append(translates(true, "10.0.0.1")[:1], NAT{HasPorts: true, FirstPort: 1, LastPort: 1})}, "snat to 10.0.0.1:", "register 1 has no value\nregister 1 has no value"},
		{"a route", Rule{Exprs: []Expr{ReversePath{To: 2}, Compare{From: 2, Data: "\x01"}, AddFlow{Flowtable: "f"}}}, "fib saddr . mark . iif oif exists flow add @f", ""},
		{"no route", Rule{Exprs: []Expr{ReversePath{}, Compare{Data: "\x00"}}}, "fib saddr . mark . iif oif missing", ""},
		{"a route or not", Rule{Exprs: []Expr{ReversePath{}, Compare{Data: "\x02"}}}, "fib saddr . mark . iif oif ", "neither exists nor missing"},
		{"a flowtable with a space", Rule{Exprs: []Expr{AddFlow{Flowtable: "a b"}}}, "flow add @a b", `nft(8) cannot spell the name "a b" of a flowtable`},
		{"another answer", Rule{Exprs: []Expr{Reject{Type: RejectICMP, Code: 9}}}, "reject", "reject of type 0 and code 9"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSpeller(Table{Family: gateway.IPv4, Sets: []Set{marks}})
			got, err := s.Rule(&tc.rule)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff([]string{tc.want, tc.err}, []string{got, text}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestUnspelled expects that a rule which nft(8) cannot spell is one line of comment.
func TestUnspelled(t *testing.T) {
	table := Table{Family: gateway.IPv6, Chains: []Chain{{Name: "a", Rules: []Rule{
		{Exprs: []Expr{Unknown{Name: "x\n\taccept"}}}, {Exprs: []Expr{Verdict{Code: Drop}}},
	}}}}
	want := "table ip6 t {\n\tchain a {\n\t\t# nft(8) cannot spell this rule: unknown: unknown expression x  accept\n\t\tdrop\n\t}\n}\n"
	var b bytes.Buffer
	if err := WriteText(&b, table, "t"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestWriteFails(t *testing.T) {
	err := WriteText(broken{}, Table{Family: gateway.IPv4}, "t")
	if err == nil || err.Error() != "writing the table t: no space" {
		t.Errorf("err = %v", err)
	}
}
