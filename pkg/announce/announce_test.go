// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func state(addresses ...string) gateway.State {
	s := gateway.State{}
	for _, a := range addresses {
		s.Forwards = append(s.Forwards, &gateway.Forward{Frontend: gateway.Frontend{Address: netip.MustParseAddr(a), Protocol: gateway.TCP, Ports: gateway.Port(80)}})
	}
	return s
}

func TestDecide(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/28"), netip.MustParsePrefix("203.0.113.1/32"), netip.MustParsePrefix("2001:db8::10/128")}
	for _, test := range []struct {
		name      string
		facts     Facts
		announced []netip.Addr
		want      string
	}{
		{"nothing is allowed", Facts{State: state("203.0.113.1")}, nil, "[]"},
		{"served", Facts{Networks: networks, State: state("203.0.113.1", "203.0.113.1", "2001:db8::10")}, nil, "[{203.0.113.1 } {2001:db8::10 }]"},
		{"served, not allowed", Facts{Networks: networks, State: state("203.0.113.1", "203.0.113.16", "2001:db8::11", "2001:db8::10")}, nil, "[{203.0.113.1 } {2001:db8::10 }]"},
		{"named, not served", Facts{Networks: networks, State: state("203.0.113.2")}, nil, "[{203.0.113.1 " + unused + "} {203.0.113.2 } {2001:db8::10 " + unused + "}]"},
		{"does not work", Facts{Networks: networks, State: state("203.0.113.2"), Problem: "broken"}, []netip.Addr{netip.MustParseAddr("203.0.113.2")}, "[{203.0.113.1 broken} {203.0.113.2 broken} {2001:db8::10 broken}]"},
		{"the apply failed", Facts{Networks: networks[:1], State: state("203.0.113.1", "203.0.113.2"), Failed: true}, []netip.Addr{netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("203.0.113.3")},
			"[{203.0.113.1 " + failed + "} {203.0.113.2 }]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fmt.Sprint(Decide(test.facts, test.announced)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestRender(t *testing.T) {
	const header = "# Written by smartnatd: the addresses that this gateway announces. It replaces this file at each change.\n"
	all := []Address{{netip.MustParseAddr("203.0.113.1"), ""}, {netip.MustParseAddr("203.0.113.2"), unused}, {netip.MustParseAddr("2001:db8::10"), ""}, {netip.MustParseAddr("fe80::1%; evil"), ""}}
	want := header + `protocol static smartnat4 {
    ipv4;
    route 203.0.113.1/32 blackhole;
}
protocol static smartnat6 {
    ipv6;
    route 2001:db8::10/128 blackhole;
}
`
	if diff := cmp.Diff(want, Render(Announced(all))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(header+"protocol static smartnat4 {\n    ipv4;\n}\nprotocol static smartnat6 {\n    ipv6;\n}\n", Render(nil)); diff != "" {
		t.Errorf("nothing (-want +got):\n%s", diff)
	}
}

func TestSame(t *testing.T) {
	facts := func() *Facts { return &Facts{Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/28")}} }
	served := state("203.0.113.1")
	for name, change := range map[string]func(*Facts){
		"networks": func(f *Facts) { f.Networks = nil },
		"problem":  func(f *Facts) { f.Problem = "broken" },
		"failed":   func(f *Facts) { f.Failed = true },
		"state":    func(f *Facts) { f.State = served },
		"routes":   func(f *Facts) { f.Routes = []gateway.Route{{Link: "eth0"}} },
		"hops":     func(f *Facts) { f.Unreachable = []netip.Addr{netip.MustParseAddr("10.10.0.11")} },
	} {
		before, after, again := facts(), facts(), facts()
		change(after)
		change(again)
		if before.Same(after) || !before.Same(facts()) || !after.Same(again) {
			t.Errorf("%s: %v, %v and %v", name, before.Same(after), before.Same(facts()), after.Same(again))
		}
	}
}
